"""Immutable preference records: Picture, Pair, LabelledImage, RankedGroup, and a PairSet of them.

Cheap to make; files are read on demand.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .image_file import DIGEST_BYTES, digest_of_file, open_image, oriented_size, rgb_pixels
from .latent_file import KnownLatent, read_latent
from .problem import PairError, PairProblem, printable

SPLITS = ("train", "val")
SHOWN_SIZES = 5


@dataclass(frozen=True, eq=False)
class Picture:
    """An image by path or in memory. Two pictures are equal when their content is (`digest`)."""

    path: Path | None = None
    _array: NDArray[np.float32] | None = field(default=None, repr=False)
    _known_size: tuple[int, int] | None = field(default=None, repr=False)
    _known_digest: str | None = field(default=None, repr=False)
    _latent_path: Path | None = field(default=None, repr=False)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        size: tuple[int, int] | None = None,
        digest: str | None = None,
        latent: Path | None = None,
    ) -> Picture:
        """The image in a file, not opened yet.

        `size`, `digest`, and the file its `latent` lies in, where the caller knows them; there
        may be no such file.
        """
        return cls(Path(path), None, size, digest, latent)

    @classmethod
    def from_pixels(cls, pixels: Any) -> Picture:
        """An image in memory: (height, width, 3), 0..1, anything numpy takes; copied.

        Values a little outside 0..1 are clipped. Raises PairError for another shape, for values
        that are not finite, or that are clearly not in 0..1.
        """
        array = np.array(pixels, dtype=np.float32, order="C")
        if array.ndim != 3 or array.shape[2] != 3 or not array.size:
            raise _pixel_error(
                f"Image of shape {array.shape}", "Give one RGB image: (height, width, 3)."
            )
        if not np.isfinite(array).all():
            raise _pixel_error(
                "Image holds values that are not numbers", "Check the node that made this image."
            )
        if array.min() < -0.5 or array.max() > 1.5:
            raise _pixel_error(
                f"Image values run from {array.min():g} to {array.max():g}",
                "Scale them to 0..1 first.",
            )
        np.clip(array, 0, 1, out=array)
        return cls(None, array)

    @cached_property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, after EXIF orientation; reads a file's header only.

        Raises PairError when the file cannot be read.
        """
        if self._known_size is not None:
            return self._known_size
        if self._array is not None:
            return self._array.shape[1], self._array.shape[0]
        with open_image(self._file(), self.name) as image:
            return oriented_size(image)

    @cached_property
    def digest(self) -> str:
        """Hex digest of the content: a file's bytes, or the pixels in memory and their shape.

        Raises PairError when the file cannot be read.
        """
        if self._known_digest is not None:
            return self._known_digest
        if self._array is not None:
            return _digest([repr(self._array.shape).encode(), self._array.tobytes()])
        return digest_of_file(self._file(), self.name)

    @property
    def name(self) -> str:
        """How messages call this picture."""
        return "image in memory" if self.path is None else printable(str(self.path))

    def pixels(self) -> NDArray[np.float32]:
        """A fresh array (height, width, 3), float32, 0..1; see `image_file.rgb_pixels`.

        Raises PairError when the file cannot be read.
        """
        if self._array is not None:
            return np.array(self._array, dtype=np.float32)
        with open_image(self._file(), self.name) as image:
            return rgb_pixels(image)

    def latent(self) -> KnownLatent | None:
        """What the picture was decoded from, read anew; None if that is not known.

        No part of what the picture is: with or without it, the picture is the same.
        """
        return None if self._latent_path is None else read_latent(self._latent_path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picture) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def _file(self) -> Path:
        if self.path is None:
            raise ValueError("a Picture needs a path or pixels")
        return self.path


@dataclass(frozen=True)
class Pair:
    """Under one prompt, one picture preferred to another."""

    prompt: str
    """Text as the encoder gets it; empty for an unconditional pair."""
    chosen: Picture
    rejected: Picture
    group: str = ""
    """What must not be torn apart by a split; left empty, the prompt's digest."""
    chosen_probability: float = 1.0
    """Soft label P in 0..1: how likely a person prefers `chosen`."""
    split: str | None = None
    """'train' or 'val' if the source says so, else None."""
    source: str = ""
    """Where the pair came from, for reports."""
    rating_gap: float | None = None
    """Rating of `chosen` minus that of `rejected`, in log odds, where they were rated."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.chosen_probability) and 0 <= self.chosen_probability <= 1):
            raise ValueError(f"chosen_probability {self.chosen_probability} is not in 0..1")
        if self.rating_gap is not None and not math.isfinite(self.rating_gap):
            raise ValueError(f"rating_gap {self.rating_gap} is not a number")
        _require_split(self.split)
        if not self.group:
            object.__setattr__(self, "group", prompt_group(self.prompt))

    @cached_property
    def key(self) -> str:
        """Hex digest of chosen, rejected and prompt: the pair's identity. Reads the images."""
        return _pair_key(self.chosen, self.rejected, self.prompt)


@dataclass(frozen=True)
class LabelledImage:
    """Under one prompt, one picture that is liked or disliked on its own."""

    prompt: str
    picture: Picture
    liked: bool
    group: str = ""
    """What must not be torn apart by a split; left empty, the prompt's digest."""
    split: str | None = None
    """'train' or 'val' if the source says so, else None."""
    source: str = ""
    """Where the label came from, for reports."""

    def __post_init__(self) -> None:
        _require_split(self.split)
        if not self.group:
            object.__setattr__(self, "group", prompt_group(self.prompt))

    @cached_property
    def image_key(self) -> str:
        """Hex digest of picture and prompt, whatever the label. Reads the image."""
        return _digest([self.picture.digest.encode(), _encoded(self.prompt)])

    @cached_property
    def key(self) -> str:
        """Hex digest of picture, prompt and label: its identity. Reads the image."""
        return _digest([self.image_key.encode(), b"liked" if self.liked else b"disliked"])


@dataclass(frozen=True)
class RankedGroup:
    """Under one prompt, several pictures in order, best first, with the ratings they got."""

    prompt: str
    pictures: tuple[Picture, ...]
    ratings: tuple[float, ...]
    """One per picture, in log odds, descending; equal ratings are a tie."""
    group: str = ""
    """What must not be torn apart by a split; left empty, the prompt's digest."""
    split: str | None = None
    """'train' or 'val' if the source says so, else None."""
    source: str = ""
    """Where the ranking came from, for reports."""

    def __post_init__(self) -> None:
        if len(self.pictures) < 2 or len(self.pictures) != len(self.ratings):
            raise ValueError("a ranked group needs two or more pictures and a rating for each")
        if not all(math.isfinite(rating) for rating in self.ratings):
            raise ValueError(f"ratings {self.ratings} are not all numbers")
        if any(a < b for a, b in zip(self.ratings, self.ratings[1:], strict=False)):
            raise ValueError(f"ratings {self.ratings} do not descend")
        _require_split(self.split)
        if not self.group:
            object.__setattr__(self, "group", prompt_group(self.prompt))

    @cached_property
    def key(self) -> str:
        """Hex digest of the pictures in their order and the prompt. Reads the images."""
        return _digest(
            [*(picture.digest.encode() for picture in self.pictures), _encoded(self.prompt)]
        )


class _Keyed(Protocol):
    @property
    def key(self) -> str: ...


_AnyRecord = TypeVar("_AnyRecord", bound=_Keyed)


@dataclass(frozen=True)
class PairSet:
    """Pairs in a fixed order, and labelled images and ranked groups where the source has them.

    Length, iteration and indices are those of the pairs; `is_empty` looks at everything.
    """

    pairs: tuple[Pair, ...] = ()
    labelled: tuple[LabelledImage, ...] = ()
    groups: tuple[RankedGroup, ...] = ()
    lineage: tuple[str, ...] = ()
    """Names of the growing collections, such as preference sessions, that this is a state of:
    training goes on from an earlier state of the same. Empty for a fixed collection."""
    ties: tuple[Pair, ...] = ()
    """Pairs whose two pictures were called equal: neither is preferred, whatever their names."""

    @classmethod
    def folded(
        cls,
        pairs: Iterable[Pair],
        labelled: Iterable[LabelledImage] = (),
        groups: Iterable[RankedGroup] = (),
        lineage: Iterable[str] = (),
        ties: Iterable[Pair] = (),
    ) -> PairSet:
        """A set in which every key occurs once; of exact duplicates the first stays."""
        return cls(
            _first_of_each(pairs),
            _first_of_each(labelled),
            _first_of_each(groups),
            tuple(sorted(set(lineage))),
            _first_of_each(ties),
        )

    def join(self, other: PairSet) -> PairSet:
        """This set's records, then those of `other` that are not among them.

        A fixed set joined to a growing one makes it another collection.
        """
        fixed = [f"with {one.digest}" for one in (self, other) if not one.lineage and len(one)]
        growing = self.lineage or other.lineage
        return PairSet.folded(
            (*self.pairs, *other.pairs),
            (*self.labelled, *other.labelled),
            (*self.groups, *other.groups),
            (*self.lineage, *other.lineage, *(fixed if growing else ())),
            (*self.ties, *other.ties),
        )

    @property
    def is_empty(self) -> bool:
        """True if there is no preference of any kind; ties alone are none."""
        return not (self.pairs or self.labelled or self.groups)

    def contradictions(self) -> tuple[tuple[Pair, Pair], ...]:
        """Pairs of pairs with the same two images and prompt but the opposite preference."""
        seen: dict[str, Pair] = {}
        found: list[tuple[Pair, Pair]] = []
        for pair in self.pairs:
            opposite = seen.get(_pair_key(pair.rejected, pair.chosen, pair.prompt))
            if opposite is not None:
                found.append((opposite, pair))
            seen.setdefault(pair.key, pair)
        return tuple(found)

    @cached_property
    def digest(self) -> str:
        """Hex digest of all that a step of training depends on.

        Keys, soft labels, gaps, ratings, groups, splits and the order of all records.
        """
        records: list[tuple[object, ...]] = [
            (pair.key, pair.chosen_probability, pair.rating_gap, pair.group, pair.split)
            for pair in self.pairs
        ]
        records += [("labelled", one.key, one.group, one.split) for one in self.labelled]
        records += [("group", one.key, one.ratings, one.group, one.split) for one in self.groups]
        records += [("tie", one.key, one.group, one.split) for one in self.ties]
        return _digest(_encoded(repr(record)) for record in records)

    def summary(self) -> list[str]:
        """Text lines for a report: counts of pairs, prompts, splits, sizes, contradictions."""
        prompts = {pair.prompt for pair in self.pairs if pair.prompt}
        empty = sum(not pair.prompt for pair in self.pairs)
        lines = [f"{counted(len(self), 'pair')}, {counted(len(prompts), 'prompt')}"]
        if empty:
            lines.append(f"{counted(empty, 'pair')} with an empty prompt (trained without one)")
        splits = Counter(pair.split for pair in self.pairs if pair.split)
        if splits:
            lines.append("split: " + ", ".join(f"{splits[name]} {name}" for name in SPLITS))
        sizes = Counter(pair.chosen.size for pair in self.pairs).most_common()
        if sizes:
            shown = [f"{w} x {h} ({n})" for (w, h), n in sizes[:SHOWN_SIZES]]
            more = len(sizes) - SHOWN_SIZES
            lines.append("sizes: " + ", ".join([*shown, f"{more} more"] if more > 0 else shown))
        soft = sum(pair.chosen_probability < 1 for pair in self.pairs)
        if soft:
            lines.append(f"{counted(soft, 'pair')} with a soft label")
        opposed = len(self.contradictions())
        if opposed:
            lines.append(f"{counted(opposed, 'pair')} contradicted by the opposite preference")
        if self.labelled:
            lines.append(self._label_counts())
        if self.groups:
            lines.append(counted(len(self.groups), "ranked group"))
        if self.ties:
            lines.append(counted(len(self.ties), "tie"))
        return lines

    def _label_counts(self) -> str:
        liked = sum(one.liked for one in self.labelled)
        both = len(self.labelled) - len({one.image_key for one in self.labelled})
        line = f"{counted(len(self.labelled), 'labelled image')}: {liked} liked, "
        line += f"{len(self.labelled) - liked} disliked"
        return f"{line}, {both} of them both" if both else line

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def prompt_group(prompt: str) -> str:
    """The group of everything under one prompt: the prompt's hex digest."""
    return _digest([_encoded(prompt)])


def _first_of_each(records: Iterable[_AnyRecord]) -> tuple[_AnyRecord, ...]:
    first: dict[str, _AnyRecord] = {}
    for record in records:
        first.setdefault(record.key, record)
    return tuple(first.values())


def _require_split(split: str | None) -> None:
    if split is not None and split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")


def _pair_key(chosen: Picture, rejected: Picture, prompt: str) -> str:
    return _digest([chosen.digest.encode(), rejected.digest.encode(), _encoded(prompt)])


def _digest(parts: Iterable[bytes]) -> str:
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        # The length first, so that no two lists of parts run together to the same bytes.
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.hexdigest()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _pixel_error(what: str, fix: str) -> PairError:
    return PairError([PairProblem(what, "image in memory", fix)])
