"""DPO for pairs among which some are ties."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def davidson(logit: Tensor, tie: Tensor, nu: float) -> Tensor:
    """Minus the log-probability of what was said of a pair: one is better, or neither is.

    ``P(chosen), P(tie), P(rejected)`` are proportional to ``exp(d/2), 2 nu, exp(-d/2)``: Davidson
    1970, as a preference loss in Chen et al. 2024 (arXiv:2409.17431). So
    ``P(tie) = 2 nu / (2 cosh(d/2) + 2 nu)``. nu = 0 without ties is DPO.

    Args:
        logit: d, shape (B,).
        tie: 1 where neither image was preferred, shape (B,).
        nu: how common ties are, above 0; of equal images the share nu / (1 + nu) is a tie.

    Returns:
        loss per pair, shape (B,).
    """
    half = logit / 2
    tied = torch.full_like(half, math.log(2 * nu))
    total = torch.logsumexp(torch.stack([half, tied, -half]), 0)
    return total - torch.where(tie > 0, tied, half)
