"""Images of a folder that can be ranked together: one prompt, one size, each picture once."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from .found_image import FoundImage
from .picture_bytes import DIGEST_BYTES
from .scan import SETTLED_AFTER


@dataclass(frozen=True, slots=True)
class Group:
    """Images made with one prompt, of one size.

    Attributes:
        id: hex digest of prompt and size.
        prompt: None if it is not known.
        images: oldest first; of exact copies the oldest.
        copies: the ids of images folded into one of these, by its id.
        newest: when the last was made, Unix time in ms.
        settled: False while the scan may well find more of it.
        found: all its images, copies too, in the order they were read.
    """

    id: str
    prompt: str | None
    width: int
    height: int
    images: tuple[FoundImage, ...]
    copies: Mapping[str, tuple[str, ...]]
    newest: int
    settled: bool
    found: tuple[FoundImage, ...]


def group_id(prompt: str | None, width: int, height: int) -> str:
    text = repr((prompt, width, height)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=DIGEST_BYTES).hexdigest()


def grouped(
    images: Iterable[FoundImage],
    prompts: Mapping[str, str],
    is_running: bool,
    before: Mapping[str, Group] | None = None,
) -> dict[str, Group]:
    """The groups by their id, in the order of their first image.

    Args:
        images: as they were read; those with problems are in no group.
        prompts: given by a person, by image; they replace those found.
        is_running: the scan goes on.
        before: groups from before. Those that did not change stay the same objects: a page asks
            every second while thousands are read, and objects that come and go make Python search
            all of ComfyUI's memory for garbage, for which everything waits.
    """
    members: dict[tuple[str | None, int, int], list[FoundImage]] = {}
    last: dict[tuple[str | None, int, int], int] = {}
    place = 0
    for place, image in enumerate(images):
        if not image.problem:
            key = prompts.get(image.id, image.prompt), image.width, image.height
            members.setdefault(key, []).append(image)
            last[key] = place
    groups: dict[str, Group] = {}
    for key, found in members.items():
        group_name = group_id(*key)
        settled = not is_running or place - last[key] >= SETTLED_AFTER
        known = None if before is None else before.get(group_name)
        if known is None or known.settled != settled or not _same(known.found, found):
            known = _group(group_name, key, found, settled)
        groups[group_name] = known
    return groups


def _same(before: Sequence[FoundImage], now: Sequence[FoundImage]) -> bool:
    return len(before) == len(now) and all(map(operator.is_, before, now))


def _group(
    name: str, key: tuple[str | None, int, int], found: list[FoundImage], settled: bool
) -> Group:
    images = sorted(found, key=lambda one: (one.mtime_ns, one.name))
    newest = images[-1].at
    copies: dict[str, tuple[str, ...]] = {}
    if any(image.digest for image in images):
        same: dict[str, list[str]] = {}
        for image in images:
            same.setdefault(image.digest or image.id, []).append(image.id)
        copies = {ids[0]: tuple(ids[1:]) for ids in same.values() if len(ids) > 1}
        images = [image for image in images if same[image.digest or image.id][0] == image.id]
    return Group(name, *key, tuple(images), copies, newest, settled, tuple(found))


def in_shares(images: tuple[FoundImage, ...], most: int) -> list[tuple[FoundImage, ...]]:
    """Images in as few shares of at most ``most`` as can be, each nearly as large as the next."""
    count = -(-len(images) // most)
    numbered = enumerate(images)
    return [
        tuple(image for _, image in share)
        for _, share in groupby(numbered, lambda one: one[0] * count // len(images))
    ]
