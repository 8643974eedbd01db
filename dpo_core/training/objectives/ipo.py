"""Identity preference optimization."""

from __future__ import annotations

from torch import Tensor


def ipo(margin: Tensor, tau: float) -> Tensor:
    """Regression of the margin to 1 / (2 tau): there a pair has been learned, and no further.

    ``(tau m - 1/2)^2``, which is tau^2 times the ``(m - 1/(2 tau))^2`` of Azar et al. 2023
    (arXiv:2310.12036, eq. 17): the same minimum, at a scale at which clipping, Adam's epsilon
    and mixing with other losses still work.

    Args:
        margin: m, shape (B,).
        tau: the run's beta.

    Returns:
        loss per pair, shape (B,). 1/4 at margin 0.
    """
    return (tau * margin - 0.5).square()
