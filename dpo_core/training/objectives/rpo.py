"""Reward-aware preference optimization: how much better counts, not only which is better.

Adler et al. 2024 (Nemotron-4, arXiv:2406.11704) and Sun et al. 2025 (arXiv:2502.00203). With the
rating gap delta of a pair, the policy's preference P = s(d) is brought to the rated one,
Q = s(eta delta), in one of three distances.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def rpo_bwd(logit: Tensor, target: Tensor) -> Tensor:
    """``KL(Q || P)``: DPO with the label smoothing 1 - Q, less what does not depend on P.

    Args:
        logit: d, shape (B,).
        target: eta delta, shape (B,).

    Returns:
        loss per pair, shape (B,). Zero where d = eta delta.
    """
    return _divergence(target, logit)


def rpo_fwd(logit: Tensor, target: Tensor) -> Tensor:
    """``KL(P || Q)``. See :func:`rpo_bwd`."""
    return _divergence(logit, target)


def rpo_squared(logit: Tensor, target: Tensor) -> Tensor:
    """``(d - eta delta)^2``. See :func:`rpo_bwd`."""
    return (logit - target).square()


def _divergence(of: Tensor, to: Tensor) -> Tensor:
    """KL(s(of) || s(to)) of two coins."""
    heads = of.sigmoid() * (logsigmoid(of) - logsigmoid(to))
    return heads + (-of).sigmoid() * (logsigmoid(-of) - logsigmoid(-to))
