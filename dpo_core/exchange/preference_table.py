"""The tables of a preference dataset: their columns, and the rows that records become.

Pairs and ties are laid out as Pick-a-Pic does it (`caption`, `jpg_0`, `jpg_1`, `label_0`); what
that has no column for stands in columns of our own, which other readers pass over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..pairs.record import LabelledImage, Pair, PairSet, RankedGroup
from .image_bytes import portable_bytes

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column's name and type, as dataset cards call types."""

    name: str
    type: str
    """string, float64, int64, bool, or image: the bytes of an image file."""
    is_list: bool = False

    @property
    def holds_images(self) -> bool:
        return self.type == "image"


OWN = (
    Column("group", "string"),
    Column("split", "string"),
    Column("source", "string"),
    Column("position", "int64"),
)
"""What a table holds by which it is known as one of ours: the record's place among all, too."""

PAIR_COLUMNS = (
    Column("prompt", "string"),
    Column("caption", "string"),
    Column("jpg_0", "image"),
    Column("jpg_1", "image"),
    Column("label_0", "float64"),
    Column("label_1", "float64"),
    Column("has_label", "bool"),
    Column("is_tie", "bool"),
    Column("chosen_probability", "float64"),
    Column("rating_gap", "float64"),
    *OWN,
)
LABELLED_COLUMNS = (
    Column("prompt", "string"),
    Column("image", "image"),
    Column("label", "bool"),
    *OWN,
)
RANKED_COLUMNS = (
    Column("prompt", "string"),
    Column("images", "image", is_list=True),
    Column("ratings", "float64", is_list=True),
    *OWN,
)


@dataclass(frozen=True)
class Line:
    """A record on its way into a table: its row is made when it is asked for."""

    split: str | None
    row: Callable[[], Row]
    """Reads the images. Raises PairError for one that cannot be read."""


@dataclass(frozen=True)
class Table:
    """A table of a dataset: `name` is its folder's and, but for `data`, its configuration's."""

    name: str
    columns: tuple[Column, ...]
    lines: Callable[[], Iterator[Line]]
    count: int


def tables_of(records: PairSet) -> list[Table]:
    """The tables that hold all records; none that would be empty."""
    preferences = [*((pair, False) for pair in records.pairs), *((t, True) for t in records.ties)]
    tables = [
        Table(
            "data",
            PAIR_COLUMNS,
            lambda: (_pair_line(pair, tie, i) for i, (pair, tie) in enumerate(preferences)),
            len(preferences),
        ),
        Table(
            "labelled",
            LABELLED_COLUMNS,
            lambda: (_labelled_line(one, i) for i, one in enumerate(records.labelled)),
            len(records.labelled),
        ),
        Table(
            "ranked",
            RANKED_COLUMNS,
            lambda: (_ranked_line(one, i) for i, one in enumerate(records.groups)),
            len(records.groups),
        ),
    ]
    return [table for table in tables if table.count]


def label_0(chosen_probability: float, is_tie: bool) -> float:
    """Whether `jpg_0`, the chosen image, is the better one: 1, 0, or 0.5 for neither."""
    if is_tie or chosen_probability == 0.5:
        return 0.5
    return float(chosen_probability > 0.5)


def _pair_line(pair: Pair, is_tie: bool, position: int) -> Line:
    label = label_0(pair.chosen_probability, is_tie)
    prompt = _encodable(pair.prompt)

    def row() -> Row:
        return {
            "prompt": prompt,
            "caption": prompt,
            **portable_bytes({"jpg_0": pair.chosen, "jpg_1": pair.rejected}, pair.prompt),
            "label_0": label,
            "label_1": 1 - label,
            "has_label": True,
            "is_tie": is_tie,
            "chosen_probability": pair.chosen_probability,
            "rating_gap": pair.rating_gap,
            **_own(pair, position),
        }

    return Line(pair.split, row)


def _labelled_line(one: LabelledImage, position: int) -> Line:
    def row() -> Row:
        return {
            "prompt": _encodable(one.prompt),
            **portable_bytes({"image": one.picture}, one.prompt),
            "label": one.liked,
            **_own(one, position),
        }

    return Line(one.split, row)


def _ranked_line(one: RankedGroup, position: int) -> Line:
    def row() -> Row:
        named = {str(i): picture for i, picture in enumerate(one.pictures)}
        return {
            "prompt": _encodable(one.prompt),
            "images": list(portable_bytes(named, one.prompt).values()),
            "ratings": list(one.ratings),
            **_own(one, position),
        }

    return Line(one.split, row)


def _own(record: Pair | LabelledImage | RankedGroup, position: int) -> Row:
    return {
        "group": _encodable(record.group),
        "split": record.split,
        "source": _encodable(record.source),
        "position": position,
    }


def _encodable(text: str) -> str:
    """The text as UTF-8 can hold it: half characters become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
