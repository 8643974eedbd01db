"""DiffusionNFT's rule for a pair."""

from __future__ import annotations

from torch import Tensor


def nft_pair(chosen: Tensor, rejected: Tensor, rejected_change: Tensor) -> Tensor:
    """Towards the chosen image, and away from the rejected one as far as a mirror image.

    ``e_w - e_l + 2 mean|v - v_ref|^2`` on the rejected image: the negative-aware loss of Zheng et
    al. 2025 (DiffusionNFT, arXiv:2509.16117), which trains the reflection 2 v_ref - v on what
    was rejected, with the terms that do not depend on v taken out of it: as
    |2 v_ref - v - t|^2 = 2 |v - v_ref|^2 - |v - t|^2 + 2 |v_ref - t|^2. Bounded below; no beta.

    Args:
        chosen: e_w, shape (B,).
        rejected: e_l, shape (B,).
        rejected_change: mean |v - v_ref|^2 on the rejected image, with its gradient, shape (B,).

    Returns:
        loss per pair, shape (B,).
    """
    return chosen - rejected + 2 * rejected_change
