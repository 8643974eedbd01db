"""A micro-batch ready for the passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .dataset import Record, labels_of
from .denoiser import Denoiser, Rows
from .noise import NoiseSettings, draw
from .objectives import Labels
from .plan import MicroBatch


@dataclass(frozen=True)
class Batch:
    """B records of G images each. Row i of every entry of ``images`` belongs to record i.

    Attributes:
        images: the images' rows, for pairs the chosen and the rejected ones; under the same noise
            if it is shared.
        labels: what is known of the records.
        epoch: how often they have been seen before.
    """

    images: tuple[Rows, ...]
    labels: Labels
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.images[0])


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
        latents = [record.latents[image] for record in chosen]
        draws = [
            draw(
                noise, denoiser.default_sigmas, seed, record.key, micro_batch.visit, side,
                latent.shape,
            )
            for record, latent in zip(chosen, latents, strict=True)
        ]
        percent = torch.tensor([d.percent for d in draws], dtype=torch.float64)
        return Rows(
            torch.stack(latents),
            tuple(record.conditioning for record in chosen),
            denoiser.sigma(percent),
            torch.stack([d.noise for d in draws]),
        )

    images = tuple(rows(image) for image in range(len(chosen[0].latents)))
    return Batch(images, labels_of(chosen), micro_batch.visit)


def _side(image: int) -> str:
    if image < 2:
        return ("pair", "rejected")[image]
    return f"rejected {image}"
