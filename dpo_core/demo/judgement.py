"""What a LoRA did, on prompts and seeds it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..evaluation.interval import Share, wilson
from ..training.adapter import Adapter
from ..training.dataset import EncodedPairs
from ..training.denoiser import Denoiser, Rows
from .denoiser import DemoDenoiser, attached
from .network import FlowNetwork
from .picks import draw_pictures, scores
from .pictures import encode
from .taste import Taste

LEVELS = (0.15, 0.4, 0.65, 0.9)
"""Noise levels at which drift and held-out accuracy are measured."""


@dataclass(frozen=True)
class Judgement:
    """Samples of base and LoRA from the same prompts and seeds, compared.

    Attributes:
        before: the base model's pictures, (B, 3, 64, 64).
        after: the LoRA's, row by row from the same prompt and seed.
        win_rate: share of rows in which the LoRA's picture scores higher.
        reward: mean gain in the taste's score, in standard deviations of the base's scores.
        drift: the base model's own error on the LoRA's pictures over that on its own pictures.
            1: as likely to the base as what it draws itself; larger: further from it.
    """

    before: Tensor
    after: Tensor
    win_rate: Share
    reward: float
    drift: float


def judge(
    network: FlowNetwork,
    adapter: Adapter,
    taste: Taste,
    prompts: Sequence[str],
    seeds: Sequence[int],
    before: Tensor | None = None,
    before_error: float | None = None,
) -> Judgement:
    """Draws with and without the adapter and lets the taste compare.

    Args:
        network: the base model, without the adapter.
        adapter: the trained LoRA.
        taste: who judges.
        prompts: B held-out prompts.
        seeds: B held-out seeds.
        before: the base model's pictures of them, where they exist already.
        before_error: :func:`base_error` of those, where it is known already.
    """
    if before is None:
        before = draw_pictures(network, prompts, seeds)
    with attached(network, adapter):
        after = draw_pictures(network, prompts, seeds)
    a, b = torch.tensor(scores(taste, before)), torch.tensor(scores(taste, after))
    wins = float((b > a).sum()) + float((b == a).sum()) / 2
    if before_error is None:
        before_error = base_error(network, before, prompts)
    drift = base_error(network, after, prompts) / before_error
    return Judgement(
        before,
        after,
        wilson(wins, len(prompts)),
        float((b - a).mean() / a.std().clamp_min(1e-9)),
        drift,
    )


def held_out_accuracy(
    network: FlowNetwork, adapter: Adapter, pairs: EncodedPairs, reference: Tensor | None = None
) -> Share:
    """Share of held-out pairs that the LoRA leans towards, on a fixed grid of noise.

    The margin is averaged over the grid before it is compared; a tie counts one half.

    Args:
        network: the base model, without the adapter.
        adapter: the trained LoRA.
        pairs: B held-out pairs.
        reference: :func:`leads` of the base model, where they are known already.
    """
    if reference is None:
        reference = leads(network, pairs)
    with attached(network, adapter):
        margin = leads(network, pairs) - reference
    wins = float((margin > 0).sum()) + float((margin == 0).sum()) / 2
    return wilson(wins, len(pairs))


def leads(network: FlowNetwork, pairs: EncodedPairs) -> Tensor:
    """How much better a network predicts the chosen picture than the rejected one, (B,)."""
    denoiser = DemoDenoiser(network)
    words = tuple(pair.conditioning for pair in pairs)
    chosen = torch.stack([pair.chosen for pair in pairs])
    rejected = torch.stack([pair.rejected for pair in pairs])
    found = torch.zeros(len(pairs))
    for level in LEVELS:
        found += _errors(denoiser, rejected, words, level)
        found -= _errors(denoiser, chosen, words, level)
    return found


def base_error(network: FlowNetwork, pictures: Tensor, prompts: Sequence[str]) -> float:
    """The network's mean error on pictures (B, 3, 64, 64) of B prompts."""
    denoiser, words = DemoDenoiser(network), tuple(encode(prompt) for prompt in prompts)
    return float(torch.stack([_errors(denoiser, pictures, words, s).mean() for s in LEVELS]).mean())


@torch.no_grad()
def _errors(
    denoiser: Denoiser, pictures: Tensor, words: tuple[tuple[int, ...], ...], level: float
) -> Tensor:
    generator = torch.Generator().manual_seed(round(level * 100))
    noise = torch.randn(pictures[0].shape, generator=generator)
    errors = []
    for i in range(0, len(pictures), 32):
        part = pictures[i : i + 32]
        rows = Rows(
            part, words[i : i + 32], torch.full((len(part),), level), noise.expand_as(part)
        )
        errors.append(denoiser.predict(rows).residual.square().flatten(1).mean(1))
    return torch.cat(errors)
