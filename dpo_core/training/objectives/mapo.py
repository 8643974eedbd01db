"""Margin-aware preference optimization: what becomes of ORPO where there are no odds."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

SCALE = 0.5
SHARPNESS = 1000.0


def mapo(chosen: Tensor, rejected: Tensor, weight: float) -> Tensor:
    """A margin between two errors, as the preference part of MaPO; no reference.

    ``-lambda log s(1000 (phi(e_w) - phi(e_l)))`` with ``phi(e) = x / (exp(x) - 1)``, x = e / 2:
    Hong et al. 2024 (MaPO, arXiv:2406.06424), the diffusion form of ORPO (arXiv:2403.07691). Both
    add e_w, ordinary training on the chosen image, to it.

    Args:
        chosen: e_w, shape (B,).
        rejected: e_l, shape (B,).
        weight: lambda.

    Returns:
        loss per pair, shape (B,). lambda ln 2 where both errors are equal.
    """
    return -weight * logsigmoid(SHARPNESS * (_score(chosen) - _score(rejected)))


def _score(error: Tensor) -> Tensor:
    """phi: falls from 1 at error 0 towards 0."""
    x = SCALE * error
    # x / (e^x - 1) without overflow; near 0 its series, whose next term is x^4 / 720.
    small = x.abs() < 1e-2
    safe = torch.where(small, torch.ones_like(x), x)
    fraction = safe * (-safe).exp() / -(-safe).expm1()
    return torch.where(small, 1 - x / 2 + x.square() / 12, fraction)
