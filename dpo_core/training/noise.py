"""Sigma and noise draws, keyed by (seed, record, number, side).

A draw never depends on device, batch shape, step or what was drawn before, so a resumed run, a
larger batch or another execution mode sees exactly the same noise.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import torch
from torch import Tensor

EDGE = 1e-3
"""Distance kept from both ends of the schedule: at 0 an epsilon model's sigma is infinite, at 1
the network has no influence on the result."""
SIGMAS = ("auto", "uniform", "logit_normal", "stratified")
STRATA = 8
"""Equally likely parts of the distribution that stratified draws visit in turn."""


@dataclass(frozen=True)
class NoiseSettings:
    """How noise levels are drawn."""

    sigmas: str = "auto"
    """auto: what the model family is trained with. uniform over the model's own schedule.
    logit_normal favours the middle. stratified: as auto, but each pair gets high, middle and low
    noise in turn, which makes curves calmer."""

    low: float = 0.0
    """Lowest part of the schedule used; 0 is pure noise."""

    high: float = 1.0
    """Highest part of the schedule used; 1 is the finished picture."""

    draws_per_pair: int = 1
    """Draws of noise over which each look at a pair is averaged. More judge a pair more surely,
    and take as many times the time and memory."""

    cached_draws: int = 0
    """0: fresh noise at every look. Otherwise each pair has this many draws, and what the
    reference makes of them is computed once and kept, which saves up to half the time. 8 is
    enough for 20 looks."""

    def problems(self) -> list[str]:
        """Everything out of range, each with its fix."""
        found = []
        if self.sigmas not in SIGMAS:
            found.append(f"sigmas is {self.sigmas!r}: choose {', '.join(SIGMAS)}.")
        if not 0 <= self.low < self.high <= 1:
            found.append(
                f"low {self.low} and high {self.high} must satisfy 0 <= low < high <= 1."
            )
        if not 1 <= self.draws_per_pair <= 64:
            found.append(f"draws_per_pair is {self.draws_per_pair}: use 1 to 64.")
        elif self.cached_draws < 0 or self.cached_draws % self.draws_per_pair:
            found.append(
                f"cached_draws is {self.cached_draws}: use 0, or a multiple of draws_per_pair "
                f"({self.draws_per_pair})."
            )
        return found

    def slot(self, visit: int) -> int:
        """Which of its draws a record gets at a visit: they repeat where they are cached."""
        slots = self.cached_draws // self.draws_per_pair
        return visit % slots if slots else visit

    @property
    def strata(self) -> int:
        """Parts of the distribution visited in turn; 1 for independent draws."""
        # A finite set of draws had better be spread out.
        return self.cached_draws or (STRATA if self.sigmas == "stratified" else 1)


class Draw(NamedTuple):
    """One pair's noise: ``percent`` in (0, 1) along the schedule, ``noise`` of a latent's shape."""

    percent: float
    noise: Tensor


def draws(
    settings: NoiseSettings,
    default_sigmas: str,
    seed: int,
    key: str,
    visit: int,
    side: str,
    shape: Sequence[int],
) -> list[Draw]:
    """The noise of one record at one visit, ``draws_per_pair`` times.

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
    count = settings.draws_per_pair
    first = settings.slot(visit) * count
    return [
        _draw(settings, default_sigmas, f"{seed}:{key}", first + i, side, shape)
        for i in range(count)
    ]


def draw_at(
    settings: NoiseSettings, default_sigmas: str, quantile: float, key: str, shape: Sequence[int]
) -> Draw:
    """Noise that ``key`` decides, at a quantile in (0, 1) of the noise levels."""
    percent = _percent(settings, default_sigmas, torch.tensor(quantile, dtype=torch.float64))
    return Draw(percent, torch.randn(tuple(shape), generator=_generator(key)))


def _draw(
    settings: NoiseSettings,
    default_sigmas: str,
    key: str,
    number: int,
    side: str,
    shape: Sequence[int],
) -> Draw:
    generator = _generator(f"{key}:{number}:{side}")
    quantile = torch.rand((), generator=generator, dtype=torch.float64)
    if settings.strata > 1:
        quantile = (_stratum(settings.strata, f"{key}:{side}", number) + quantile) / settings.strata
    noise = torch.randn(tuple(shape), generator=generator, dtype=torch.float32)
    return Draw(_percent(settings, default_sigmas, quantile), noise)


def _percent(settings: NoiseSettings, default_sigmas: str, quantile: Tensor) -> float:
    kind = settings.sigmas if settings.sigmas in ("uniform", "logit_normal") else default_sigmas
    if kind == "logit_normal":
        # Stable Diffusion 3 (Esser et al. 2024, arXiv:2403.03206, eq. 19), m = 0, s = 1.
        quantile = torch.special.ndtri(quantile).sigmoid()
    percent = settings.low + (settings.high - settings.low) * quantile.item()
    return min(max(percent, EDGE), 1 - EDGE)


def _generator(key: str) -> torch.Generator:
    digest = blake2b(key.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def _stratum(strata: int, key: str, number: int) -> int:
    """The part for a draw: within each round of ``strata`` draws every part once, shuffled."""
    turn, place = divmod(number, strata)
    return random.Random(f"strata {key} {turn}").sample(range(strata), strata)[place]
