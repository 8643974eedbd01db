"""What a host program must supply: a denoiser and the layers an adapter can attach to."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """R clean latents, each with its own prompt, sigma and noise, scored in one call.

    Noise and sigma are explicit, so whether two passes share them can be read off the call.

    Attributes:
        latents: clean latents as the host stores them, shape (R, ...), any float dtype, on any
            device.
        conditioning: R host values, one prompt per row, opaque to the core. All rows have the
            same :meth:`Denoiser.signature`.
        sigma: noise level in the host's own units, shape (R,), fp32, on the CPU.
        noise: standard normal, shape of ``latents``, fp32, on the CPU.
    """

    latents: Tensor
    conditioning: tuple[Any, ...]
    sigma: Tensor
    noise: Tensor

    def __len__(self) -> int:
        return self.latents.shape[0]

    def joined(self, other: Rows) -> Rows:
        """Both row blocks in one call: row R + i of the result is row i of ``other``."""
        return Rows(
            torch.cat([self.latents, other.latents]),
            self.conditioning + other.conditioning,
            torch.cat([self.sigma, other.sigma]),
            torch.cat([self.noise, other.noise]),
        )


class Prediction(NamedTuple):
    """A model's answer for R rows, in its native prediction space (epsilon, v or velocity).

    Attributes:
        residual: prediction minus target, shape (R, ...), fp32 or wider. Carries the graph.
        power: mean square of the prediction itself, shape (R,), detached.
    """

    residual: Tensor
    power: Tensor


class Denoiser(Protocol):
    """The model being trained, seen from the core."""

    default_sigmas: str
    """``uniform`` or ``logit_normal``: what the model's family is trained with."""

    half_precision: bool
    """True if the network computes in bf16 or fp16."""

    needs_loss_scaling: bool
    """True if gradients pass through fp16 and can underflow."""

    def sigma(self, percent: Tensor) -> Tensor:
        """Sigma at each position of the model's own schedule.

        Args:
            percent: shape (B,), in the open interval (0, 1); 0 is pure noise.

        Returns:
            shape (B,), fp32, on the CPU.
        """

    def signature(self, conditioning: Any, latent_shape: Sequence[int]) -> Hashable:
        """Rows can share one call only if their signatures are equal."""

    def predict(self, rows: Rows) -> Prediction:
        """One forward pass; the graph reaches the adapter if gradients are enabled."""
