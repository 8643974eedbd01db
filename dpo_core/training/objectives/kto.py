"""Kahneman-Tversky optimization: from single images that are liked or disliked."""

from __future__ import annotations

from torch import Tensor

SMALL_BATCH = 4
"""Below this many images the mean reward of a batch says nothing of the policy."""

MOST_IMBALANCE = 4 / 3


def kto(value: Tensor, liked: Tensor, baseline: Tensor | float) -> Tensor:
    """How far an image is from being clearly better, if liked, or worse than the policy's average.

    ``1 - s(v - z0)`` for a liked image and ``1 - s(z0 - v)`` for a disliked one, with
    v = beta (r - e): Ethayarajh et al. 2024 (arXiv:2402.01306, eq. 7); for diffusion models Li et
    al. 2024 (Diffusion-KTO, arXiv:2404.04465).

    Args:
        value: v, shape (B,).
        liked: 1 or 0, shape (B,).
        baseline: z0, at least 0, detached.

    Returns:
        loss per image, shape (B,), in (0, 1), before its weight.
    """
    sign = 2 * liked - 1
    return (-sign * (value - baseline)).sigmoid()


def kto_weights(liked: int, disliked: int) -> tuple[float, float]:
    """Factors on the losses of liked and of disliked images that make up for unequal counts.

    The rarer kind is weighed up, so that lambda_D n_D / (lambda_U n_U) is between 1 and 4/3
    (arXiv:2402.01306). Where one kind is missing, nothing can be made up for.

    Returns:
        lambda_D and lambda_U, each at least 1.
    """
    if not liked or not disliked:
        return 1.0, 1.0
    ratio = liked / disliked
    if ratio < 1:
        return 1 / ratio, 1.0
    return 1.0, max(1.0, ratio / MOST_IMBALANCE)
