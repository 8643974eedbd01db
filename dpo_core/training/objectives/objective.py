"""The objective of a run: a preference loss and what is mixed into it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import PairErrors
from .sigmoid import sigmoid


class ObjectiveLoss(NamedTuple):
    """Losses per pair, each of shape (B,).

    Attributes:
        total: what is minimised.
        preference: the preference term alone.
    """

    total: Tensor
    preference: Tensor


@dataclass(frozen=True)
class Objective:
    """What training minimises."""

    loss: str = "sigmoid"
    """sigmoid: standard DPO."""

    beta: float = 5000.0
    """Holds the LoRA to the base model. It multiplies the reward margin directly (papers with a
    factor 1/2 in front write 5000 for our 2500). Lower values, 200 to 1000, let it move further.
    It sets where learning a pair stops; how fast it gets there is the learning rate."""

    label_smoothing: float = 0.0
    """Share of your picks you expect to be wrong, 0 to 0.5. Above 0 no single pick is trusted
    completely."""

    supervised_mix: float = 0.0
    """Weight of ordinary training on the chosen images, added to the preference loss. Keeps the
    chosen look from getting worse; it costs no extra pass."""

    def problems(self) -> list[str]:
        """Everything wrong with the settings, each with its fix."""
        found = []
        if self.loss != "sigmoid":
            found.append(f"loss is {self.loss!r}: choose sigmoid.")
        if not (math.isfinite(self.beta) and self.beta >= 0):
            found.append(f"beta is {self.beta}: use a number from 0 upwards, 5000 is the default.")
        if not 0 <= self.label_smoothing <= 0.5:
            found.append(f"label_smoothing is {self.label_smoothing}: use 0 to 0.5.")
        if not (math.isfinite(self.supervised_mix) and self.supervised_mix >= 0):
            found.append(f"supervised_mix is {self.supervised_mix}: use a number from 0 upwards.")
        return found

    def __call__(self, errors: PairErrors, chosen_probability: Tensor) -> ObjectiveLoss:
        """Losses of a batch.

        Args:
            errors: policy and reference errors, each (B,).
            chosen_probability: how sure each choice is, shape (B,).

        Returns:
            losses per pair; the caller takes the mean.
        """
        # Two independent reasons for a wrong label: the person's own doubt and the expected share.
        doubt = 1 - chosen_probability
        smoothing = doubt + self.label_smoothing - 2 * doubt * self.label_smoothing
        preference = sigmoid(errors.margin, self.beta, smoothing.to(errors.chosen))
        return ObjectiveLoss(preference + self.supervised_mix * errors.chosen, preference)

    def gradients(
        self, errors: PairErrors, chosen_probability: Tensor
    ) -> tuple[ObjectiveLoss, Tensor, Tensor]:
        """Losses, and the derivative of the summed total by each policy error, shape (B,) each."""
        chosen = errors.chosen.detach().requires_grad_()
        rejected = errors.rejected.detach().requires_grad_()
        with torch.enable_grad():
            leaves = PairErrors(
                chosen, rejected, errors.reference_chosen, errors.reference_rejected
            )
            losses = self(leaves, chosen_probability)
            d_chosen, d_rejected = torch.autograd.grad(losses.total.sum(), (chosen, rejected))
        detached = ObjectiveLoss(losses.total.detach(), losses.preference.detach())
        return detached, d_chosen, d_rejected
