"""Images of a folder that can be ranked together: one prompt, one size, each picture once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from ..metadata.prompt_text import tidy_prompt
from .found_image import FoundImage
from .picture_bytes import DIGEST_BYTES
from .scan import SETTLED_AFTER


@dataclass(frozen=True)
class Group:
    """Images made with one prompt, of one size.

    Attributes:
        id: hex digest of prompt and size.
        prompt: None if it is not known.
        images: oldest first; of exact copies the oldest.
        copies: the ids of images folded into one of these, by its id.
        newest: when the last was made, Unix time in ms.
        settled: False while the scan may well find more of it.
    """

    id: str
    prompt: str | None
    width: int
    height: int
    images: tuple[FoundImage, ...]
    copies: Mapping[str, tuple[str, ...]]
    newest: int
    settled: bool


def group_id(prompt: str | None, width: int, height: int) -> str:
    text = repr((prompt, width, height)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=DIGEST_BYTES).hexdigest()


def grouped(
    images: Iterable[FoundImage], prompts: Mapping[str, str], is_running: bool
) -> dict[str, Group]:
    """The groups by their id, in the order of their first image.

    Args:
        images: as they were read; those with problems are in no group.
        prompts: given by a person, by image; they replace those found.
        is_running: the scan goes on.
    """
    members: dict[tuple[str | None, int, int], list[tuple[int, FoundImage]]] = {}
    place = 0
    for place, image in enumerate(images):
        if not image.problem:
            prompt = prompts.get(image.id, image.prompt)
            key = None if prompt is None else tidy_prompt(prompt), image.width, image.height
            members.setdefault(key, []).append((place, image))
    groups = (
        _group(key, found, not is_running or place - found[-1][0] >= SETTLED_AFTER)
        for key, found in members.items()
    )
    return {group.id: group for group in groups}


def _group(
    key: tuple[str | None, int, int], found: list[tuple[int, FoundImage]], settled: bool
) -> Group:
    images = sorted((image for _, image in found), key=lambda one: (one.mtime_ns, one.name))
    same: dict[str, list[str]] = {}
    for image in images:
        same.setdefault(image.digest or image.id, []).append(image.id)
    first = {ids[0] for ids in same.values()}
    copies = {ids[0]: tuple(ids[1:]) for ids in same.values() if len(ids) > 1}
    distinct = tuple(image for image in images if image.id in first)
    return Group(group_id(*key), *key, distinct, copies, images[-1].at, settled)


def in_shares(images: tuple[FoundImage, ...], most: int) -> list[tuple[FoundImage, ...]]:
    """Images in as few shares of at most ``most`` as can be, each nearly as large as the next."""
    count = -(-len(images) // most)
    numbered = enumerate(images)
    return [
        tuple(image for _, image in share)
        for _, share in groupby(numbered, lambda one: one[0] * count // len(images))
    ]
