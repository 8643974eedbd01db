"""A micro-batch ready for the passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .dataset import Record, labels_of
from .denoiser import Denoiser, Rows
from .noise import Draw, NoiseSettings, draw_at, draws
from .objectives import Labels
from .plan import MicroBatch


@dataclass(frozen=True)
class Batch:
    """B records of G images each, every image under D draws of noise.

    Attributes:
        images: the images' rows, for pairs the chosen and the rejected ones; under the same noise
            if it is shared. Rows i D to i D + D - 1 of each entry belong to record i.
        labels: what is known of the records.
        epoch: how often they have been seen before.
        draws: D.
        draw_keys: a name for each record under its draws.
    """

    images: tuple[Rows, ...]
    labels: Labels
    epoch: int = 0
    draws: int = 1
    draw_keys: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images[0]) // self.draws


def gather(
    records: Sequence[Record],
    micro_batch: MicroBatch,
    denoiser: Denoiser,
    noise: NoiseSettings,
    seed: int,
    shared_noise: bool,
) -> Batch:
    """Gathers the records of ``micro_batch`` and draws their noise.

    With ``shared_noise`` all images of a record get the very same sigma and noise, in the
    reference's passes as in the policy's. Without it every image but the first has a draw of its
    own, again the same for reference and policy.
    """
    def drawn(record: Record, image: int) -> list[Draw]:
        return draws(
            noise, denoiser.default_sigmas, seed, record.key, micro_batch.visit,
            _side(0 if shared_noise else image), record.latents[image].shape,
        )

    chosen = [records[i] for i in micro_batch.indices]
    return Batch(
        _rows(chosen, denoiser, drawn),
        labels_of(chosen),
        micro_batch.visit,
        noise.draws_per_pair,
        tuple(f"{record.key}:{noise.slot(micro_batch.visit)}" for record in chosen),
    )


def on_grid(
    records: Sequence[Record],
    indices: Sequence[int],
    denoiser: Denoiser,
    noise: NoiseSettings,
    seed: int,
    quantile: float,
    name: str,
) -> Batch:
    """Records in one cell of a fixed grid: the same noise whenever they are looked at.

    Args:
        quantile: of the noise levels that ``noise`` draws from, in (0, 1).
        name: of the cell; it decides the noise, together with seed and record.
    """

    def drawn(record: Record, image: int) -> list[Draw]:
        key = f"{seed}:{record.key}:{name}"
        shape = record.latents[image].shape
        return [draw_at(noise, denoiser.default_sigmas, quantile, key, shape)]

    chosen = [records[i] for i in indices]
    return Batch(_rows(chosen, denoiser, drawn), labels_of(chosen))


def _rows(
    records: Sequence[Record],
    denoiser: Denoiser,
    drawn: Callable[[Record, int], list[Draw]],
) -> tuple[Rows, ...]:
    def rows(image: int) -> Rows:
        looks = [(record, one) for record in records for one in drawn(record, image)]
        percent = torch.tensor([one.percent for _, one in looks], dtype=torch.float64)
        return Rows(
            torch.stack([record.latents[image] for record, _ in looks]),
            tuple(record.conditioning for record, _ in looks),
            denoiser.sigma(percent),
            torch.stack([one.noise for _, one in looks]),
        )

    return tuple(rows(image) for image in range(len(records[0].latents)))


def _side(image: int) -> str:
    if image < 2:
        return ("pair", "rejected")[image]
    return f"rejected {image}"
