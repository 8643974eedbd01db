"""The hinge loss."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu


def hinge(logit: Tensor) -> Tensor:
    """``max(0, 1 - d)``: Zhao et al. 2023 (SLiC-HF, arXiv:2305.10425), on DPO's logit.

    A pair pulls with full strength until its logit reaches 1, then not at all.

    Args:
        logit: d, shape (B,).

    Returns:
        loss per pair, shape (B,). 1 at logit 0.
    """
    return relu(1 - logit)
