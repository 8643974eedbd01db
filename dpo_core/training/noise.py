"""Sigma and noise draws, keyed by (seed, pair, visit, side).

A draw never depends on device, batch shape, step or what was drawn before, so a resumed run, a
larger batch or another execution mode sees exactly the same noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import torch
from torch import Tensor

EDGE = 1e-3
"""Distance kept from both ends of the schedule: at 0 an epsilon model's sigma is infinite, at 1
the network has no influence on the result."""


@dataclass(frozen=True)
class NoiseSettings:
    """How noise levels are drawn."""

    sigmas: str = "auto"
    """auto (what the model family is trained with), uniform over the model's own schedule, or
    logit_normal, which favours the middle."""

    low: float = 0.0
    """Lowest part of the schedule used; 0 is pure noise."""

    high: float = 1.0
    """Highest part of the schedule used; 1 is the finished picture."""

    def problems(self) -> list[str]:
        found = []
        if self.sigmas not in ("auto", "uniform", "logit_normal"):
            found.append(f"sigmas is {self.sigmas!r}: choose auto, uniform or logit_normal.")
        if not 0 <= self.low < self.high <= 1:
            found.append(
                f"low {self.low} and high {self.high} must satisfy 0 <= low < high <= 1."
            )
        return found


class Draw(NamedTuple):
    """One pair's noise: ``percent`` in (0, 1) along the schedule, ``noise`` of a latent's shape."""

    percent: float
    noise: Tensor


def draw(
    settings: NoiseSettings,
    default_sigmas: str,
    seed: int,
    key: str,
    visit: int,
    side: str,
    shape: Sequence[int],
) -> Draw:
    """The noise of one pair at one visit.

    Args:
        settings: the distribution of noise levels.
        default_sigmas: what ``auto`` means for this model.
        seed: the run's seed.
        key: the record's digest.
        visit: how often it has been seen before.
        side: ``pair`` for the draw all images share, another name for a draw of its own.
        shape: shape of one latent.

    Returns:
        ``percent`` and fp32 noise on the CPU.
    """
    digest = blake2b(f"{seed}:{key}:{visit}:{side}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
    kind = default_sigmas if settings.sigmas == "auto" else settings.sigmas
    if kind == "logit_normal":
        # Stable Diffusion 3 (Esser et al. 2024, arXiv:2403.03206, eq. 19), m = 0, s = 1.
        position = torch.randn((), generator=generator, dtype=torch.float64).sigmoid().item()
    else:
        position = torch.rand((), generator=generator, dtype=torch.float64).item()
    percent = settings.low + (settings.high - settings.low) * position
    noise = torch.randn(tuple(shape), generator=generator, dtype=torch.float32)
    return Draw(min(max(percent, EDGE), 1 - EDGE), noise)
