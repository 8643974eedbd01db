"""Efficient exact optimization."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def exo_pair(logit: Tensor, wrong: Tensor) -> Tensor:
    """Reverse KL divergence from the policy's preference to the person's, (1 - eps, eps).

    ``s(d) (log s(d) - log(1 - eps)) + s(-d) (log s(-d) - log eps)``: Ji et al. 2024
    (arXiv:2402.00856, eq. 16). Zero where s(d) = 1 - eps.

    Args:
        logit: d, shape (B,).
        wrong: eps, above 0 and below 1, shape (B,).

    Returns:
        loss per pair, shape (B,).
    """
    for_chosen = logit.sigmoid() * (logsigmoid(logit) - (-wrong).log1p())
    return for_chosen + (-logit).sigmoid() * (logsigmoid(-logit) - wrong.log())
