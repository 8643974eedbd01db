"""A micro-batch ready for the passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .dataset import Record, labels_of
from .denoiser import Denoiser, Rows
from .noise import NoiseSettings, draws
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
    chosen = [records[i] for i in micro_batch.indices]

    def rows(image: int) -> Rows:
        side = _side(0 if shared_noise else image)
        drawn = [
            (record, one)
            for record in chosen
            for one in draws(
                noise, denoiser.default_sigmas, seed, record.key, micro_batch.visit, side,
                record.latents[image].shape,
            )
        ]
        percent = torch.tensor([one.percent for _, one in drawn], dtype=torch.float64)
        return Rows(
            torch.stack([record.latents[image] for record, _ in drawn]),
            tuple(record.conditioning for record, _ in drawn),
            denoiser.sigma(percent),
            torch.stack([one.noise for _, one in drawn]),
        )

    return Batch(
        tuple(rows(image) for image in range(len(chosen[0].latents))),
        labels_of(chosen),
        micro_batch.visit,
        noise.draws_per_pair,
        tuple(f"{record.key}:{noise.slot(micro_batch.visit)}" for record in chosen),
    )


def _side(image: int) -> str:
    if image < 2:
        return ("pair", "rejected")[image]
    return f"rejected {image}"
