"""Metrics of a training step, over the whole accumulated batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..training.four_passes import PassResult

NAMES = (
    "loss/dpo",
    "dpo/raw_loss",
    "dpo/chosen_reward",
    "dpo/rejected_reward",
    "dpo/reward_margin",
    "dpo/accuracy",
    "dpo/mean_reward",
    "dpo/gradient_factor",
    "errors/chosen",
    "errors/rejected",
    "errors/reference_chosen",
    "errors/reference_rejected",
    "prediction_change",
    "kl",
    "grad_norm",
)
"""In the order of :func:`step_metrics`. Rewards and margin are differences of mean squared errors,
not multiplied by beta; ``gradient_factor`` is mean s(-d), what is still to be learned of a pair;
``kl`` is mean |policy - reference|^2, and ``prediction_change`` that over mean |reference|^2.

Chosen and rejected are, of a ranked group, its best and its worst image, and of single images the
liked and the disliked ones. What needs a reference is NaN where none was asked, and so is what a
step has no image for; the margin without a reference is e_l - e_w.
"""


def step_metrics(results: Sequence[PassResult], grad_norm: Tensor) -> Tensor:
    """All metrics in one tensor, so that reading them is one synchronisation with the device.

    Args:
        results: the micro-batches of one step.
        grad_norm: scalar.

    Returns:
        shape (len(NAMES),), in the errors' dtype on the device; not every device has float64.
    """
    parts = [_Part(result) for result in results]

    def mean(name: str, weight: str = "all") -> Tensor:
        values = torch.cat([getattr(part, name) for part in parts])
        weights = torch.cat([getattr(part, weight) for part in parts])
        # Not the product: what is no number must not spoil what does not count it.
        counted = torch.where(weights > 0, values * weights, torch.zeros_like(values))
        return counted.sum() / weights.sum()

    single = results[0].labels.liked is not None
    chosen_reward, rejected_reward = mean("best", "chosen"), mean("worst", "rejected")
    power, change = mean("power"), mean("change")
    return torch.stack([
        mean("total"),
        mean("preference"),
        chosen_reward,
        rejected_reward,
        chosen_reward - rejected_reward if single else mean("margin"),
        mean("right", "told_apart"),
        mean("reward"),
        mean("unlearned"),
        mean("first", "chosen"),
        mean("last", "rejected"),
        mean("reference_first", "chosen"),
        mean("reference_last", "rejected"),
        change / power.clamp_min(torch.finfo(power.dtype).tiny),
        change,
        grad_norm.to(power),
    ])


class _Part:
    """A micro-batch by columns of shape (B,): values, and what weight each record has in them."""

    def __init__(self, result: PassResult) -> None:
        errors, labels = result.errors, result.labels.like(result.errors.policy)
        self.all = torch.ones_like(errors.chosen)
        nothing = torch.full_like(errors.chosen, torch.nan)
        self.total, self.preference = result.losses
        self.change, self.power = result.change, result.power
        self.first, self.last = errors.chosen, errors.rejected
        self.reference_first = self.reference_last = nothing
        self.best = self.worst = self.reward = nothing
        if errors.reference is not None:
            self.reference_first, self.reference_last = errors.reference[0], errors.reference[-1]
            self.best, self.worst = errors.chosen_reward, errors.rejected_reward
            self.reward = errors.rewards.mean(0)
        self.chosen = self.rejected = self.told_apart = self.all
        if labels.liked is not None:
            self.chosen, self.rejected = labels.liked, 1 - labels.liked
            self.margin = self.unlearned = nothing
            self.right = _above_zero((2 * labels.liked - 1) * self.best)
            return
        self.margin, self.unlearned = errors.margin, (-result.logit).sigmoid()
        self.right = _above_zero(errors.margin)
        if labels.tie is not None:  # nobody said which image should win
            self.told_apart = 1 - labels.tie


def _above_zero(values: Tensor) -> Tensor:
    """1 above 0, and 1/2 at 0: a tie says nothing either way."""
    return (values > 0).to(values) + (values == 0).to(values) / 2
