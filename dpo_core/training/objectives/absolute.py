"""Losses of the two rewards themselves, not only of their difference.

Below, u_w = beta dw and u_l = beta dl, each of shape (B,); every loss is of shape (B,).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def nca_pair(chosen: Tensor, rejected: Tensor) -> Tensor:
    """``-log s(u_w) - 1/2 log s(-u_w) - 1/2 log s(-u_l)``: Chen et al. 2024 (arXiv:2402.05369).

    Keeps the chosen image from getting worse.
    """
    return -logsigmoid(chosen) - (logsigmoid(-chosen) + logsigmoid(-rejected)) / 2


def bco_pair(chosen: Tensor, rejected: Tensor, shift: float) -> Tensor:
    """``-log s(u_w - delta) - log s(delta - u_l)``: Jung et al. 2024 (arXiv:2404.04656).

    A classifier of good and bad images; delta is the running mean of both rewards.
    """
    return -logsigmoid(chosen - shift) - logsigmoid(shift - rejected)


def apo_zero(chosen: Tensor, rejected: Tensor) -> Tensor:
    """``1 - s(u_w) + s(u_l)``: D'Oosterlinck et al. 2024 (arXiv:2408.06266, eq. 7).

    Chosen up, rejected down: for chosen images better than what the model makes.
    """
    return (-chosen).sigmoid() + rejected.sigmoid()


def apo_down(chosen: Tensor, rejected: Tensor) -> Tensor:
    """``s(u_w) + 1 - s(u_w - u_l)``: D'Oosterlinck et al. 2024 (arXiv:2408.06266, eq. 8).

    Both down, the rejected one more: for chosen images worse than what the model makes.
    """
    return chosen.sigmoid() + (rejected - chosen).sigmoid()


def sppo_hard(chosen: Tensor, rejected: Tensor) -> Tensor:
    """``(u_w - 1/2)^2 + (u_l + 1/2)^2``: Wu et al. 2024 (arXiv:2405.00675).

    beta^2 times the paper's, as with :func:`~.ipo.ipo`.
    """
    return (chosen - 0.5).square() + (rejected + 0.5).square()
