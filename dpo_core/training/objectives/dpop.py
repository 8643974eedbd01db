"""DPO-positive."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid, relu


def dpop(margin: Tensor, chosen_reward: Tensor, beta: float, weight: float) -> Tensor:
    """DPO in which a chosen image that got worse takes away from the margin.

    ``-log s(beta (m - lambda max(0, e_w - r_w)))``: Pal et al. 2024 (Smaug, arXiv:2402.13228).

    Args:
        margin: m, shape (B,).
        chosen_reward: dw = r_w - e_w, shape (B,).
        beta: factor on the margin.
        weight: lambda.

    Returns:
        loss per pair, shape (B,). ln 2 where nothing has changed.
    """
    return -logsigmoid(beta * (margin - weight * relu(-chosen_reward)))
