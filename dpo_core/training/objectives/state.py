"""What an objective remembers from step to step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from .adaptive_beta import WARM_UP, tanh_factor, target_factor

DECAY = 0.9


@dataclass(frozen=True)
class ObjectiveState:
    """Running numbers of the steps done; a value, and part of what a checkpoint keeps.

    Attributes:
        steps: steps that went into it.
        mean_reward: running mean of r - e over all images.
        mean_margin: running mean of the reward margin.
        margin_variance: running variance of it.
        beta_factor: what the set beta is multiplied by, where it adapts.
    """

    steps: int = 0
    mean_reward: float = 0.0
    mean_margin: float = 0.0
    margin_variance: float = 0.0
    beta_factor: float = 1.0

    def after(self, metrics: Mapping[str, float], rule: str, target: float) -> ObjectiveState:
        """The state after a step with these metrics.

        Args:
            metrics: of the whole step; what is missing or no number changes nothing.
            rule: how beta adapts, one of :data:`~.adaptive_beta.RULES`.
            target: of the rule named so.
        """
        state = replace(self, steps=self.steps + 1)
        reward = metrics.get("dpo/mean_reward", math.nan)
        if math.isfinite(reward):
            state = replace(state, mean_reward=_mixed(self.mean_reward, reward))
        margin = metrics.get("dpo/reward_margin", math.nan)
        factor = metrics.get("dpo/gradient_factor", math.nan)
        if not (math.isfinite(margin) and math.isfinite(factor)):
            return state
        deviation = math.sqrt(self.margin_variance)
        if state.steps > WARM_UP:
            if rule == "tanh":
                state = replace(
                    state, beta_factor=tanh_factor(margin, self.mean_margin, deviation)
                )
            elif rule == "target":
                state = replace(state, beta_factor=target_factor(self.beta_factor, factor, target))
        surprise = margin - self.mean_margin
        return replace(
            state,
            mean_margin=_mixed(self.mean_margin, margin),
            # What remains of the spread, and what this step's distance from the mean adds to it.
            margin_variance=DECAY * (self.margin_variance + (1 - DECAY) * surprise**2),
        )


FRESH = ObjectiveState()
"""Before the first step."""


def _mixed(before: float, now: float) -> float:
    return DECAY * before + (1 - DECAY) * now
