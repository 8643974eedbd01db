"""Losses of the policy's errors alone: SimPO, reference-free DPO, CPO."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def simpo(chosen: Tensor, rejected: Tensor, beta: float, gamma: float) -> Tensor:
    """DPO without a reference, and with a margin to be kept.

    ``-log s(beta (e_l - e_w) - gamma)``: Meng et al. 2024 (SimPO, arXiv:2405.14734). gamma = 0
    is reference-free DPO. e_l - e_w is mostly how hard the two images are to denoise, so a far
    smaller beta is needed than with a reference.

    Args:
        chosen: e_w, shape (B,).
        rejected: e_l, shape (B,).
        beta: factor on the difference.
        gamma: how far the logit should be above 0.

    Returns:
        loss per pair, shape (B,).
    """
    return -logsigmoid(beta * (rejected - chosen) - gamma)


def cpo(chosen: Tensor, rejected: Tensor, beta: float, alpha: float) -> Tensor:
    """Reference-free DPO held in place by ordinary training on the chosen image.

    ``-log s(beta (e_l - e_w)) + alpha e_w``: Xu et al. 2024 (arXiv:2401.08417). Arguments as of
    :func:`simpo`; alpha is the weight of the chosen error.

    Returns:
        loss per pair, shape (B,).
    """
    return simpo(chosen, rejected, beta, 0.0) + alpha * chosen
