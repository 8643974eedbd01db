"""A brake on the rejected image's gradient."""

from __future__ import annotations

import torch
from torch import Tensor


def safeguard(
    chosen: Tensor, rejected: Tensor, d_chosen: Tensor, d_rejected: Tensor, mu: float
) -> Tensor:
    """Factor on the rejected image's gradient that keeps it from spoiling the chosen one.

    With the residuals a = prediction - target of the chosen and b of the rejected image,
    ``lambda = (1 - mu) c_w |a|^2 / (c_l a.b)`` where a.b > 0, cut to [0, 1], and 1 elsewhere:
    Fu et al. 2025 (Diffusion-SDPO, arXiv:2511.03317), here for losses that do not weigh both
    errors alike, c_w = |dL/de_w| and c_l = |dL/de_l|. To first order a step then lowers e_w by
    at least the share mu of what the chosen image's gradient alone would.

    Only pairs that are being pulled apart are held back; the loss itself is not changed.

    Args:
        chosen: a, shape (B, ...).
        rejected: b, same shape.
        d_chosen: dL/de_w, shape (B,).
        d_rejected: dL/de_l, shape (B,).
        mu: 0 to 1; the higher, the more careful.

    Returns:
        lambda, shape (B,), detached.
    """
    a, b = chosen.detach().flatten(1), rejected.detach().flatten(1)
    room = (1 - mu) * d_chosen.clamp_min(0) * a.square().sum(1)
    push = (-d_rejected).clamp_min(0) * (a * b).sum(1)
    ones = torch.ones_like(push)
    return torch.where(push > room, room / torch.where(push > 0, push, ones), ones)
