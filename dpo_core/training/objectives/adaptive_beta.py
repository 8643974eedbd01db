"""Rules that move beta while training goes on. Both answer with a factor on the beta that was set.

Pure functions of numbers from the steps done so far, never of the step they are used in.
"""

from __future__ import annotations

import math

RULES = ("off", "tanh", "target")
WARM_UP = 25
"""Steps in which beta stays as it was set."""
SWING = 0.5
PACE = 0.1
MOST = 4.0
"""The target rule's factor stays between a quarter and this."""


def tanh_factor(margin: float, mean: float, deviation: float) -> float:
    """``1 + 1/2 tanh((M - M0) / s)``: margins above their own average raise beta.

    beta-DPO (Wu et al. 2024, arXiv:2407.08639) bounded by a tanh, as in OneTrainer; never below
    1/2 nor above 3/2.

    Args:
        margin: M, mean reward margin of the last step.
        mean: M0, its running mean.
        deviation: s, its running standard deviation.
    """
    if deviation <= 0:
        return 1.0
    return 1 + SWING * math.tanh((margin - mean) / deviation)


def target_factor(before: float, gradient_factor: float, target: float) -> float:
    """Lowers beta while pairs count as learned too soon, raises it while too few do.

    Args:
        before: the factor so far.
        gradient_factor: mean s(-d) of the last step: 1/2 where nothing is learned, 0 where
            everything is.
        target: what it should be.
    """
    moved = before * math.exp(PACE * (gradient_factor - target))
    return min(max(moved, 1 / MOST), MOST)
