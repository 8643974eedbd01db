"""Direct group preference optimization: from rankings of several images."""

from __future__ import annotations

import torch
from torch import Tensor


def advantages(ratings: Tensor) -> Tensor:
    """Ratings of each group shifted and scaled to mean 0 and standard deviation 1.

    Args:
        ratings: shape (G, B).

    Returns:
        A, shape (G, B); 0 in a group whose images are all equal. Of two images 1 and -1.
    """
    centred = ratings - ratings.mean(0)
    deviation = centred.square().mean(0).sqrt()
    return centred / torch.where(deviation > 0, deviation, torch.ones_like(deviation))


def dgpo(errors: Tensor, reference: Tensor, advantage: Tensor, beta: float) -> Tensor:
    """Each image trained by its advantage, the group by how far it still is from its ranking.

    ``w mean(A_i e_i)`` with ``w = s(sum A_i beta (e_i - r_i) / G)`` detached: Luo et al. 2025
    (DGPO, arXiv:2510.08425). With G = 2 and A = (1, -1) it is DPO's gradient at half our beta,
    divided by beta.

    Args:
        errors: e, shape (G, B).
        reference: r, shape (G, B).
        advantage: A, shape (G, B).
        beta: factor in the weight.

    Returns:
        loss per group, shape (B,). Its value says little; its gradient is what counts.
    """
    behind = (advantage * beta * (errors.detach() - reference)).mean(0).sigmoid()
    return behind * (advantage * errors).mean(0)
