"""A row of a preference file becomes a record; nothing in it is believed before it is checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..pairs.candidate import pair_problem
from ..pairs.problem import PairError, PairProblem
from ..pairs.record import SPLITS, LabelledImage, Pair, Picture, RankedGroup
from .image_folder import ImageFolder, NoRoom
from .preference_file import PreferenceFile, Row
from .preference_table import label_0

MAX_TEXT_CHARS = 64 * 1024
MAX_GROUP_IMAGES = 1000

_LEAVE_OUT = "Leave the row out, or set on_problem to skip."

Record = Pair | LabelledImage | RankedGroup


@dataclass(frozen=True)
class FoundRow:
    """A row after reading: its record, or what is wrong, or neither if it says nothing."""

    position: int
    record: Record | None = None
    is_tie: bool = False
    problems: tuple[PairProblem, ...] = ()


def read_row(source: PreferenceFile, row: Row, images: ImageFolder) -> FoundRow:
    where = f"{source.file.shown}, row {row.number}"
    try:
        reader = _Reader(row.values, where, images)
        if source.layout == "labelled":
            return _labelled(source, row, reader)
        if source.layout == "ranked":
            return _ranked(source, row, reader)
        return _preference(source, row, reader)
    except NoRoom:
        raise
    except PairError as error:
        return FoundRow(row.number, problems=error.problems)


@dataclass(frozen=True)
class _Reader:
    """A row's values, each checked as it is taken."""

    values: dict[str, Any]
    where: str
    images: ImageFolder

    def text(self, column: str, default: str = "") -> str:
        try:
            text = self.values[column].as_py()
        except UnicodeDecodeError as error:
            raise self.problem(f"{column} is not UTF-8 text") from error
        if text is None:
            return default
        if len(text) > MAX_TEXT_CHARS:
            raise self.problem(f"{column} is longer than {MAX_TEXT_CHARS // 1024} KB")
        return str(text)

    def number(self, column: str) -> float | None:
        value = self.values[column].as_py()
        if value is None:
            return None
        if not math.isfinite(value):
            raise self.problem(f"{column} is not a number")
        return float(value)

    def flag(self, column: str) -> bool | None:
        value = self.values[column].as_py()
        return None if value is None else bool(value)

    def picture(self, column: str) -> Picture:
        return self._picture(self.values[column].as_py(), column)

    def pictures(self, column: str) -> tuple[Picture, ...]:
        held = self.values[column].as_py() or []
        if len(held) > MAX_GROUP_IMAGES:
            raise self.problem(f"{column} holds more than {MAX_GROUP_IMAGES} images")
        return tuple(self._picture(one, column) for one in held)

    def split(self) -> str | None:
        split = self.text("split") or None
        if split is not None and split not in SPLITS:
            raise self.problem("split is neither train nor val")
        return split

    def problem(self, what: str, fix: str = _LEAVE_OUT) -> PairError:
        return PairError([PairProblem(what, self.where, fix)])

    def _picture(self, held: Any, column: str) -> Picture:
        if isinstance(held, dict):
            if held.get("bytes") is None and held.get("path"):
                fix = "Give a dataset that holds the bytes of its images; nothing is downloaded."
                raise self.problem(f"{column} only names an image", fix)
            held = held.get("bytes")
        if not held:
            raise self.problem(f"{column} holds no image")
        return self.images.keep(held, f"{self.where}, {column}")


def _preference(source: PreferenceFile, row: Row, reader: _Reader) -> FoundRow:
    """A row of either layout of pairs."""
    sides, is_tie = ("chosen", "rejected"), False
    own: dict[str, Any] = {}
    if source.layout == "pick_a_pic":
        label = reader.number("label_0")
        if label is None or ("has_label" in source.columns and reader.flag("has_label") is False):
            return FoundRow(row.number)
        if label not in (0, 0.5, 1):
            raise reader.problem(f"label_0 is {label:g}, which is none of 0, 0.5 and 1")
        if source.is_ours:
            own = _own_pair(reader, label)
        is_tie = own.pop("is_tie", label == 0.5)
        sides = ("jpg_1", "jpg_0") if label == 0 and not source.is_ours else ("jpg_0", "jpg_1")
    chosen, rejected = (reader.picture(side) for side in sides)
    sizes = [("chosen", chosen.size), ("rejected", rejected.size)]
    problem = pair_problem(reader.where, sizes, chosen.digest == rejected.digest)
    if problem is not None:
        raise PairError([PairProblem(problem.what, reader.where, _LEAVE_OUT)])
    own = {"split": source.split, "source": reader.where, **own}
    pair = Pair(reader.text(source.columns[0]), chosen, rejected, **own)
    return FoundRow(_position(source, row, reader), pair, is_tie)


def _own_pair(reader: _Reader, label: float) -> dict[str, Any]:
    """The columns of ours; they have to agree with the label, which anyone may have changed."""
    probability, is_tie = reader.number("chosen_probability"), reader.flag("is_tie")
    if probability is None or is_tie is None or not 0 <= probability <= 1:
        raise reader.problem("chosen_probability is not in 0..1, or is_tie is empty")
    if label_0(probability, is_tie) != label:
        raise reader.problem("label_0 contradicts chosen_probability and is_tie")
    return {
        "is_tie": is_tie,
        "chosen_probability": probability,
        "rating_gap": reader.number("rating_gap"),
        **_own(reader),
    }


def _own(reader: _Reader) -> dict[str, Any]:
    return {
        "group": reader.text("group"),
        "split": reader.split(),
        "source": reader.text("source"),
    }


def _labelled(source: PreferenceFile, row: Row, reader: _Reader) -> FoundRow:
    liked = reader.flag("label")
    if liked is None:
        return FoundRow(row.number)
    own = _own(reader) if source.is_ours else {"split": source.split, "source": reader.where}
    prompt, picture = reader.text(source.columns[0]), reader.picture("image")
    image = LabelledImage(prompt, picture, liked, **own)
    return FoundRow(_position(source, row, reader), image)


def _ranked(source: PreferenceFile, row: Row, reader: _Reader) -> FoundRow:
    own = _own(reader) if source.is_ours else {"split": source.split, "source": reader.where}
    ratings = reader.values["ratings"].as_py() or []
    try:
        ratings = tuple(float(rating) for rating in ratings)
        pictures = reader.pictures("images")
        group = RankedGroup(reader.text(source.columns[0]), pictures, ratings, **own)
    except (TypeError, ValueError) as error:
        if isinstance(error, PairError):
            raise
        what = "images and ratings are not as many of each, best first"
        raise reader.problem(what) from error
    return FoundRow(_position(source, row, reader), group)


def _position(source: PreferenceFile, row: Row, reader: _Reader) -> int:
    """Its place among the records of its kind."""
    if not source.is_ours:
        return row.number
    position = reader.number("position")
    if position is None:
        raise reader.problem("position is empty")
    return int(position)
