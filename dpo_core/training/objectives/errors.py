"""Denoising errors of one batch of records, and what is known of each record beside them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..transfer import sent


@dataclass(frozen=True)
class Errors:
    """Mean squared errors in the model's native prediction space, of B records of G images.

    Pairs have G = 2, the chosen image in row 0 and the rejected one in row 1; single images have
    G = 1; ranked groups have the best image in row 0 and the worst in the last. Minus an error
    stands for the log-probability of language models (Wallace et al. 2023, Diffusion-DPO,
    arXiv:2311.12908, eq. 14).

    Attributes:
        policy: of the model in training, shape (G, B).
        reference: of the model it is compared with, shape (G, B); None where it was not asked.
        change: mean |policy - reference|^2 of the predictions, shape (G, B); None likewise.
    """

    policy: Tensor
    reference: Tensor | None = None
    change: Tensor | None = None

    @property
    def chosen(self) -> Tensor:
        """e_w, shape (B,)."""
        return self.policy[0]

    @property
    def rejected(self) -> Tensor:
        """e_l, shape (B,)."""
        return self.policy[-1]

    @property
    def rewards(self) -> Tensor:
        """r - e, shape (G, B): how much better than the reference the policy explains an image.

        Raises:
            ValueError: the reference was not asked.
        """
        if self.reference is None:
            raise ValueError("Without errors of the reference there are no rewards.")
        return self.reference - self.policy

    @property
    def chosen_reward(self) -> Tensor:
        """dw = r_w - e_w, shape (B,)."""
        return self.rewards[0]

    @property
    def rejected_reward(self) -> Tensor:
        """dl = r_l - e_l, shape (B,)."""
        return self.rewards[-1]

    @property
    def margin(self) -> Tensor:
        """m = dw - dl, shape (B,); without a reference e_l - e_w."""
        if self.reference is None:
            return self.rejected - self.chosen
        return self.chosen_reward - self.rejected_reward

    def swapped(self) -> Errors:
        """As if the other image of every pair had been chosen."""
        return Errors(
            self.policy.flip(0),
            None if self.reference is None else self.reference.flip(0),
            None if self.change is None else self.change.flip(0),
        )


@dataclass(frozen=True)
class Labels:
    """What people said of B records. What a record has not, is None.

    Attributes:
        chosen_probability: how sure each choice is, shape (B,).
        rating_gap: rating of the chosen image minus that of the rejected one, in log odds, (B,).
        tie: 1 where neither image was preferred, shape (B,).
        liked: of single images, 1 where liked and 0 where disliked, shape (B,).
        weight: of single images, by how many are liked and disliked, shape (B,).
        ratings: of groups, best first, in log odds, shape (G, B).
    """

    chosen_probability: Tensor
    rating_gap: Tensor | None = None
    tie: Tensor | None = None
    liked: Tensor | None = None
    weight: Tensor | None = None
    ratings: Tensor | None = None

    def like(self, errors: Tensor) -> Labels:
        """In the dtype and on the device of ``errors``."""

        def moved(values: Tensor | None) -> Tensor | None:
            # In this order: not every device has float64.
            return None if values is None else sent(values.to(errors.dtype), errors.device)

        probability = moved(self.chosen_probability)
        assert probability is not None
        others = {
            name: moved(getattr(self, name))
            for name in ("rating_gap", "tie", "liked", "weight", "ratings")
        }
        return Labels(probability, **others)


def certain(count: int) -> Labels:
    """Labels of ``count`` pairs that somebody picked outright."""
    return Labels(torch.ones(count, dtype=torch.float64))


