"""The DPO loss, and its estimate from labels of which a known share is wrong."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def sigmoid(logit: Tensor) -> Tensor:
    """Direct Preference Optimization.

    ``-log s(d)``: Rafailov et al. 2023 (arXiv:2305.18290, eq. 7) with the errors of
    Diffusion-DPO (arXiv:2311.12908, eq. 14). Beta multiplies the margin directly, d = beta m:
    the 5000 of papers that put a factor 1/2 in front is 2500 here.

    Args:
        logit: d, shape (B,).

    Returns:
        loss per pair, shape (B,). ln 2 at logit 0.
    """
    return -logsigmoid(logit)


def robust(logit: Tensor, wrong: float) -> Tensor:
    """DPO's loss, estimated without bias from labels of which the share eps is wrong.

    ``(-(1 - eps) log s(d) + eps log s(-d)) / (1 - 2 eps)``: Chowdhury et al. 2024
    (arXiv:2403.00409). Unbounded below.

    Args:
        logit: d, shape (B,).
        wrong: eps, below 0.5.

    Returns:
        loss per pair, shape (B,). ln 2 at logit 0.
    """
    return (-(1 - wrong) * logsigmoid(logit) + wrong * logsigmoid(-logit)) / (1 - 2 * wrong)
