"""A micro-batch ready for the four passes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .dataset import EncodedPair, EncodedPairs
from .denoiser import Denoiser, Rows
from .noise import NoiseSettings, draw
from .plan import MicroBatch


@dataclass(frozen=True)
class PairBatch:
    """B pairs. Row i of ``chosen`` and of ``rejected`` belong to the same pair.

    Attributes:
        chosen: the preferred images' rows.
        rejected: the other images' rows, under the same noise if it is shared.
        chosen_probability: shape (B,), CPU.
    """

    chosen: Rows
    rejected: Rows
    chosen_probability: Tensor

    def __len__(self) -> int:
        return len(self.chosen)


def pair_batch(
    dataset: EncodedPairs,
    micro_batch: MicroBatch,
    denoiser: Denoiser,
    noise: NoiseSettings,
    seed: int,
    shared_noise: bool,
) -> PairBatch:
    """Gathers the pairs of ``micro_batch`` and draws their noise.

    With ``shared_noise`` both sides get the very same sigma and noise, in the reference's passes
    as in the policy's. Without it the rejected side has a draw of its own, again the same for
    reference and policy.
    """
    pairs = [dataset[i] for i in micro_batch.indices]

    def rows(latents: Tensor, side: str) -> Rows:
        draws = [
            draw(
                noise,
                denoiser.default_sigmas,
                seed,
                pair.key,
                micro_batch.visit,
                side,
                pair.chosen.shape,
            )
            for pair in pairs
        ]
        percent = torch.tensor([d.percent for d in draws], dtype=torch.float64)
        return Rows(
            latents,
            tuple(pair.conditioning for pair in pairs),
            denoiser.sigma(percent),
            torch.stack([d.noise for d in draws]),
        )

    return PairBatch(
        rows(_stacked(pairs, "chosen"), "pair"),
        rows(_stacked(pairs, "rejected"), "pair" if shared_noise else "rejected"),
        torch.tensor([pair.chosen_probability for pair in pairs], dtype=torch.float64),
    )


def _stacked(pairs: list[EncodedPair], side: str) -> Tensor:
    return torch.stack([getattr(pair, side) for pair in pairs])
