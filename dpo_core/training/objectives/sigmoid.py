"""The DPO loss."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def sigmoid(margin: Tensor, beta: float, smoothing: Tensor | float = 0.0) -> Tensor:
    """Direct Preference Optimization with label smoothing.

    ``-(1 - eps) log s(beta m) - eps log s(-beta m)``: Rafailov et al. 2023 (arXiv:2305.18290,
    eq. 7) with the errors of Diffusion-DPO (arXiv:2311.12908, eq. 14); the smoothing is
    Mitchell's conservative DPO. Beta multiplies the margin directly: the 5000 of papers that put
    a factor 1/2 in front is 2500 here.

    Args:
        margin: reward margin m, shape (B,).
        beta: how sharply a margin counts; where the loss saturates.
        smoothing: probability eps that a label is wrong, a number or shape (B,).

    Returns:
        loss per pair, shape (B,). ln 2 at margin 0.
    """
    logit = beta * margin
    return -(1 - smoothing) * logsigmoid(logit) - smoothing * logsigmoid(-logit)
