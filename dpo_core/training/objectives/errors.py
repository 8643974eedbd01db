"""Denoising errors of one batch of pairs, and the implicit rewards they define."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PairErrors:
    """Mean squared errors in the model's native prediction space, each of shape (B,).

    Minus an error stands for the log-probability of language models
    (Wallace et al. 2023, Diffusion-DPO, arXiv:2311.12908, eq. 14).

    Attributes:
        chosen: policy on the preferred image, e_w.
        rejected: policy on the other image, e_l.
        reference_chosen: reference on the preferred image, r_w.
        reference_rejected: reference on the other image, r_l.
    """

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor

    @property
    def chosen_reward(self) -> Tensor:
        """r_w - e_w, shape (B,): how much better than the reference the policy explains it."""
        return self.reference_chosen - self.chosen

    @property
    def rejected_reward(self) -> Tensor:
        """r_l - e_l, shape (B,)."""
        return self.reference_rejected - self.rejected

    @property
    def margin(self) -> Tensor:
        """Chosen reward minus rejected reward, shape (B,)."""
        return self.chosen_reward - self.rejected_reward
