"""Which prompts are kept for validation: decided by their names and a seed alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import TypeVar

from .record import LabelledImage, Pair, PairSet, RankedGroup

_Record = TypeVar("_Record", Pair, LabelledImage, RankedGroup)


def place_of(name: str, seed: int) -> float:
    """Where a name lies in 0..1; the same for the same seed, whatever else there is."""
    digest = blake2b(f"split {seed} {name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def some_of(places: Mapping[str, float], share: float) -> set[str]:
    """Those below a share, but at least one, and not all; of a single one nothing."""
    if len(places) < 2:
        return set()
    first, last = min(places, key=places.__getitem__), max(places, key=places.__getitem__)
    return ({name for name, place in places.items() if place < share} | {first}) - {last}


def has_split(records: PairSet) -> bool:
    """True if any record says where it belongs."""
    return any(one.split is not None for one in _all(records))


def split_by_prompt(records: PairSet, percent: int, seed: int = 0) -> PairSet:
    """The same records, each marked as `train` or `val`; `percent` of the prompts are `val`.

    What shares a group or a prompt stays together, so that no prompt is on both sides. Records
    that are split already, and all of them at 0 percent, are left as they are.
    """
    if percent <= 0 or has_split(records):
        return records
    units = _units(_all(records))
    held_out = some_of({unit: place_of(unit, seed) for unit in units.values()}, percent / 100)

    def marked(found: Iterable[_Record]) -> tuple[_Record, ...]:
        return tuple(
            replace(one, split="val" if units[one.group] in held_out else "train")
            for one in found
        )

    return replace(
        records,
        pairs=marked(records.pairs),
        labelled=marked(records.labelled),
        groups=marked(records.groups),
        ties=marked(records.ties),
    )


def _all(records: PairSet) -> Iterator[Pair | LabelledImage | RankedGroup]:
    yield from records.pairs
    yield from records.labelled
    yield from records.groups
    yield from records.ties


def _units(records: Iterable[Pair | LabelledImage | RankedGroup]) -> dict[str, str]:
    """Group -> the unit it belongs to: the first by name of all groups that share prompts."""
    above: dict[str, str] = {}

    def root(name: str) -> str:
        while above[name] != name:
            above[name] = above[above[name]]
            name = above[name]
        return name

    of_prompt: dict[str, str] = {}
    for one in records:
        above.setdefault(one.group, one.group)
        if not one.prompt:  # what has no prompt is held together by its group alone
            continue
        first, second = sorted((root(of_prompt.setdefault(one.prompt, one.group)), root(one.group)))
        above[second] = first
    return {group: root(group) for group in above}
