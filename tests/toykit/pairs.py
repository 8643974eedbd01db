"""Pairs for the toy model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dpo_core.training.dataset import EncodedPair, EncodedPairs

from .flow import PROMPT


def toy_pairs(
    count: int,
    shape: Sequence[int] = (2, 4, 4),
    lean: float = 0.0,
    seed: int = 0,
    chosen_probability: float = 1.0,
) -> EncodedPairs:
    """``count`` pairs of random latents, each with a prompt of its own.

    Args:
        count: how many.
        shape: of one latent.
        lean: added to every chosen and taken from every rejected value: a taste to be learned.
        seed: decides everything.
        chosen_probability: how sure every pick is.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    return EncodedPairs(
        tuple(
            EncodedPair(
                chosen=normal(*shape) + lean,
                rejected=normal(*shape) - lean,
                conditioning=normal(PROMPT),
                key=f"{seed} {tuple(shape)} {i}",
                chosen_probability=chosen_probability,
            )
            for i in range(count)
        )
    )


def joined(*parts: EncodedPairs) -> EncodedPairs:
    return EncodedPairs(tuple(pair for part in parts for pair in part))
