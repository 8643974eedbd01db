"""The loss a language model discovered."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def discopop(logit: Tensor, tau: float) -> Tensor:
    """The logistic loss for pairs still wrong, blended into the exponential one for those right.

    ``-log s(d) (1 - s(d/tau)) + exp(-d) s(d/tau)``: Lu et al. 2024 (arXiv:2406.08414, eq. 5).

    Args:
        logit: d, shape (B,).
        tau: width of the blend, below 1.

    Returns:
        loss per pair, shape (B,).
    """
    # exp(-d) alone overflows where the blend is as good as 0; together they do not.
    exponential = (logsigmoid(logit / tau) - logit).exp()
    return -logsigmoid(logit) * (-logit / tau).sigmoid() + exponential
