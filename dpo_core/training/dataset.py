"""Encoded preferences and the buckets in which they can share a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Protocol

import torch
from torch import Tensor

from ..pairs.record import counted
from .denoiser import Denoiser
from .objectives import Labels, Objective
from .objectives.kto import kto_weights


def tensor_digest(*tensors: Tensor) -> str:
    """Digest of values, shapes and dtypes; the same on every device."""
    digest = blake2b(digest_size=16)
    for tensor in tensors:
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{data.dtype}{tuple(data.shape)}".encode())
        digest.update(data.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Record(Protocol):
    """What all kinds of preferences have in common."""

    @property
    def latents(self) -> tuple[Tensor, ...]:
        """Clean latents of its images, each of shape (C, ...), CPU; for pairs chosen, rejected."""

    @property
    def conditioning(self) -> Any:
        """The prompt as the host encodes it, shared by all images."""

    @property
    def key(self) -> str:
        """Digest of everything above. Noise draws are keyed by it, so a record keeps its draws
        when others join or leave the dataset."""

    @property
    def prompt(self) -> str:
        """The text, for people."""

    @property
    def group(self) -> str:
        """What a split must not tear apart, usually the prompt's digest."""


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
        rating_gap: rating of chosen minus that of rejected, in log odds, where they were rated.
        tie: True if neither image was preferred.
    """

    chosen: Tensor
    rejected: Tensor
    conditioning: Any
    key: str
    prompt: str = ""
    chosen_probability: float = 1.0
    group: str = ""
    held_out: bool = False
    rating_gap: float | None = None
    tie: bool = False

    @property
    def latents(self) -> tuple[Tensor, ...]:
        return self.chosen, self.rejected


@dataclass(frozen=True)
class EncodedImage:
    """One image that is liked or disliked on its own. Other attributes as of `EncodedPair`.

    Attributes:
        latent: clean latent, shape (C, ...), CPU.
        liked: thumbs up or down.
        weight: of its loss; makes up for unequal numbers of liked and disliked images.
    """

    latent: Tensor
    conditioning: Any
    key: str
    liked: bool
    prompt: str = ""
    group: str = ""
    held_out: bool = False
    weight: float = 1.0

    @property
    def latents(self) -> tuple[Tensor, ...]:
        return (self.latent,)


@dataclass(frozen=True)
class EncodedGroup:
    """Images of one prompt in order, best first. Other attributes as of `EncodedPair`.

    Attributes:
        latents: clean latents, each of one shape (C, ...), CPU.
        ratings: one for each, in log odds, descending.
    """

    latents: tuple[Tensor, ...]
    ratings: tuple[float, ...]
    conditioning: Any
    key: str
    prompt: str = ""
    group: str = ""
    held_out: bool = False


@dataclass(frozen=True)
class EncodedPairs:
    """An immutable training set: pairs, and single images and ranked groups where there are any.

    Length, iteration and indices are those of the pairs.
    """

    pairs: tuple[EncodedPair, ...]
    labelled: tuple[EncodedImage, ...] = ()
    groups: tuple[EncodedGroup, ...] = ()
    lineage: tuple[str, ...] = ()
    """As of :class:`~..pairs.record.PairSet`."""
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = blake2b(digest_size=16)
        for pair in self.pairs:
            said = (pair.chosen_probability, pair.rating_gap, pair.tie)
            digest.update(f"{pair.key}:{said!r};".encode())
        for one in self.labelled:
            digest.update(f"{one.key}:{(one.liked, one.weight)!r};".encode())
        for group in self.groups:
            digest.update(f"{group.key}:{group.ratings!r};".encode())
        object.__setattr__(self, "digest", digest.hexdigest())

    def training(self) -> EncodedPairs:
        """Without what its source keeps for validation."""
        return self._part(held_out=False)

    def held_out(self) -> EncodedPairs:
        """What its source keeps for validation."""
        return self._part(held_out=True)

    def _part(self, held_out: bool) -> EncodedPairs:
        return replace(
            self,
            pairs=tuple(one for one in self.pairs if one.held_out is held_out),
            labelled=tuple(one for one in self.labelled if one.held_out is held_out),
            groups=tuple(one for one in self.groups if one.held_out is held_out),
        )

    def used_by(self, objective: Objective) -> EncodedPairs:
        """Only the records ``objective`` learns from, all of one kind; see :attr:`records`.

        Single images are those with a thumb, and both sides of pairs whose images have none.
        Groups are the ranked ones, and pairs that are no part of one as groups of two. A tie
        teaches nothing but how to tie.
        """
        if objective.reads == "images":
            return replace(self, pairs=(), labelled=_weighed(_single_images(self)), groups=())
        if objective.reads == "groups":
            return replace(self, pairs=(), labelled=(), groups=_all_groups(self))
        pairs = tuple(pair for pair in self.pairs if objective.takes_ties or not pair.tie)
        return replace(self, pairs=pairs, labelled=(), groups=())

    @property
    def records(self) -> Sequence[Record]:
        """The records, where they are all of one kind."""
        return self.pairs or self.labelled or self.groups

    @property
    def counted(self) -> str:
        """How many :attr:`records` there are, in words."""
        return counted(len(self.records), self.noun)

    @property
    def noun(self) -> str:
        """What people call one of the :attr:`records`."""
        return "ranked group" if self.groups else "single image" if self.labelled else "pair"

    def problems(self, objective: Objective) -> list[str]:
        """Why ``objective`` cannot learn from this, each with its fix; empty if it can."""
        if objective.reads == "images":
            missing = "there are none. Mark images in the Rank Images node, or load a folder."
            used = self.used_by(objective).labelled
            return [] if used else [f"{objective.loss} learns from liked and disliked images, and "
                                    f"{missing}"]
        if objective.reads == "groups":
            used_groups = self.used_by(objective).groups
            return [] if used_groups else [
                f"{objective.loss} learns from rankings, and there are none. Rank images in the "
                "Rank Images node."
            ]
        pairs = self.used_by(objective).pairs
        if not pairs:
            return [self._no_pairs()]
        unrated = sum(pair.rating_gap is None for pair in pairs)
        if objective.needs_ratings and unrated:
            return [
                f"{objective.loss} learns from ratings, and {unrated} of {len(pairs)} pairs have "
                "none. Ratings come with pairs from the Rank Images node; for others choose "
                "another loss, such as sigmoid."
            ]
        return []

    def _no_pairs(self) -> str:
        if self.labelled:
            return (
                f"There are no pairs here, only {len(self.labelled)} liked or disliked images. "
                "Connect an Objective node with loss kto, which learns from those."
            )
        if self.pairs:
            return "All pairs here are ties. Choose loss davidson in an Objective node."
        return "There is no pair to train on."

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[EncodedPair]:
        return iter(self.pairs)

    def __getitem__(self, index: int) -> EncodedPair:
        return self.pairs[index]


def buckets(records: Sequence[Record], denoiser: Denoiser) -> list[list[int]]:
    """Indices of records that may share a batch.

    They have as many images, of the same latent shape, and the same conditioning signature.
    Images of different sizes and prompts of different token length are grouped, never resized
    or padded into each other.
    """
    found: dict[Any, list[int]] = {}
    for index, record in enumerate(records):
        shape = tuple(record.latents[0].shape)
        alike = (len(record.latents), shape, denoiser.signature(record.conditioning, shape))
        found.setdefault(alike, []).append(index)
    return list(found.values())


def labels_of(records: Sequence[Record]) -> Labels:
    """What is known of records of one kind, fp64, CPU."""
    sure = torch.ones(len(records), dtype=torch.float64)
    pairs = [one for one in records if isinstance(one, EncodedPair)]
    images = [one for one in records if isinstance(one, EncodedImage)]
    groups = [one for one in records if isinstance(one, EncodedGroup)]
    if pairs:
        gaps = [pair.rating_gap for pair in pairs if pair.rating_gap is not None]
        return Labels(
            _column([pair.chosen_probability for pair in pairs]),
            rating_gap=_column(gaps) if len(gaps) == len(pairs) else None,
            tie=_column([pair.tie for pair in pairs]),
        )
    if images:
        return Labels(
            sure,
            liked=_column([image.liked for image in images]),
            weight=_column([image.weight for image in images]),
        )
    return Labels(sure, ratings=torch.stack([_column(group.ratings) for group in groups], 1))


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _single_images(dataset: EncodedPairs) -> list[EncodedImage]:
    found = list(dataset.labelled)
    seen = {(tensor_digest(one.latent), one.prompt) for one in found}
    sides: set[tuple[str, str, bool]] = set()
    for pair in dataset.pairs:
        for liked, latent in ((True, pair.chosen), (False, pair.rejected)):
            image = tensor_digest(latent), pair.prompt
            if pair.tie or image in seen or (*image, liked) in sides:
                continue
            sides.add((*image, liked))
            key = f"{pair.key} {'chosen' if liked else 'rejected'}"
            found.append(
                EncodedImage(
                    latent, pair.conditioning, key, liked, pair.prompt, pair.group, pair.held_out
                )
            )
    return found


def _weighed(images: Sequence[EncodedImage]) -> tuple[EncodedImage, ...]:
    liked = sum(image.liked for image in images)
    for_liked, for_disliked = kto_weights(liked, len(images) - liked)
    return tuple(
        replace(image, weight=for_liked if image.liked else for_disliked) for image in images
    )


def _all_groups(dataset: EncodedPairs) -> tuple[EncodedGroup, ...]:
    ranked = [
        (group.prompt, {tensor_digest(latent) for latent in group.latents})
        for group in dataset.groups
    ]

    def is_ranked(pair: EncodedPair) -> bool:
        images = {tensor_digest(latent) for latent in pair.latents}
        return any(prompt == pair.prompt and images <= group for prompt, group in ranked)

    return dataset.groups + tuple(
        EncodedGroup(
            pair.latents, (pair.rating_gap or 1.0, 0.0), pair.conditioning, pair.key, pair.prompt,
            pair.group, pair.held_out,
        )
        for pair in dataset.pairs
        if not pair.tie and not is_ranked(pair)
    )
