"""The loss of the policy's errors alone."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def simpo(chosen: Tensor, rejected: Tensor, beta: float, gamma: float) -> Tensor:
    """DPO without a reference, and with a margin to be kept.

    ``-log s(beta (e_l - e_w) - gamma)``: Meng et al. 2024 (SimPO, arXiv:2405.14734). gamma = 0
    is reference-free DPO; that and alpha e_w is CPO, Xu et al. 2024 (arXiv:2401.08417).
    e_l - e_w is mostly how hard the two images are to denoise, so a far smaller beta is needed
    than with a reference.

    Args:
        chosen: e_w, shape (B,).
        rejected: e_l, shape (B,).
        beta: factor on the difference.
        gamma: how far the logit should be above 0.

    Returns:
        loss per pair, shape (B,).
    """
    return -logsigmoid(beta * (rejected - chosen) - gamma)
