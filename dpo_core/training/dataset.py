"""Encoded pairs and the buckets in which they can share a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from .denoiser import Denoiser


def tensor_digest(*tensors: Tensor) -> str:
    """Digest of values, shapes and dtypes; the same on every device."""
    digest = blake2b(digest_size=16)
    for tensor in tensors:
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{data.dtype}{tuple(data.shape)}".encode())
        digest.update(data.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class EncodedPair:
    """One preference as the model sees it.

    Attributes:
        chosen: clean latent of the preferred image, shape (C, ...), CPU.
        rejected: clean latent of the other image, same shape.
        conditioning: the prompt as the host encodes it, shared by both sides.
        key: digest of everything above. Noise draws are keyed by it, so a pair keeps its draws
            when others join or leave the dataset.
        prompt: the text, for people.
        chosen_probability: how sure the choice is; 1 means an explicit pick.
        group: what a split must not tear apart, usually the prompt's digest.
        held_out: True if the source keeps this pair for validation.
    """

    chosen: Tensor
    rejected: Tensor
    conditioning: Any
    key: str
    prompt: str = ""
    chosen_probability: float = 1.0
    group: str = ""
    held_out: bool = False


@dataclass(frozen=True)
class EncodedPairs:
    """An immutable training set."""

    pairs: tuple[EncodedPair, ...]
    lineage: tuple[str, ...] = ()
    """As of :class:`~..pairs.record.PairSet`."""
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = blake2b(digest_size=16)
        for pair in self.pairs:
            digest.update(f"{pair.key}:{pair.chosen_probability!r};".encode())
        object.__setattr__(self, "digest", digest.hexdigest())

    def training(self) -> EncodedPairs:
        """Without the pairs their source keeps for validation."""
        return replace(self, pairs=tuple(p for p in self.pairs if not p.held_out))

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[EncodedPair]:
        return iter(self.pairs)

    def __getitem__(self, index: int) -> EncodedPair:
        return self.pairs[index]


def buckets(pairs: Sequence[EncodedPair], denoiser: Denoiser) -> list[list[int]]:
    """Indices of pairs that may share a batch: same latent shape, same conditioning signature.

    Images of different sizes and prompts of different token length are grouped, never resized
    or padded into each other.
    """
    found: dict[Any, list[int]] = {}
    for index, pair in enumerate(pairs):
        shape = tuple(pair.chosen.shape)
        found.setdefault((shape, denoiser.signature(pair.conditioning, shape)), []).append(index)
    return list(found.values())
