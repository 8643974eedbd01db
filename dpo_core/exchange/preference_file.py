"""One Parquet file of preferences: which columns it is read from, and its rows, one at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..pairs.listing import ListedFile
from ..pairs.problem import PairError, PairProblem, printable
from .arrow import Arrow

MAX_ROW_GROUP_BYTES = 4 << 30
"""A column's share of a row group, as large as whole files usually are: more is a trap."""
MAX_EXPANSION = 100
"""How many times as large as its file all rows of it may be: images can hardly be compressed."""
BATCH_ROWS = 8
BATCH_BYTES = 64 << 20
"""Rows that are read at once, to be decoded side by side, and bytes after which there are fewer."""

_LAYOUTS = (
    "jpg_0, jpg_1 and label_0 with caption or prompt (as Pick-a-Pic), or chosen, rejected and "
    "prompt"
)
_HELD_OUT = frozenset("validation valid val dev test testing eval evaluation".split())
_TRAINED_ON = frozenset({"train", "training"})
# The columns by which a table of ours is known, and what they hold.
_OWN_KINDS = {"group": "text", "split": "text", "source": "text", "position": "number"}
_OWN_PAIR_KINDS = {"is_tie": "flag", "chosen_probability": "number", "rating_gap": "number"}


@dataclass(frozen=True)
class PreferenceFile:
    """One file of a dataset, and how its rows are to be read."""

    file: ListedFile
    rows: int
    columns: tuple[str, ...]
    layout: str
    """pick_a_pic, chosen_rejected, labelled, or ranked."""
    is_ours: bool
    split: str | None


@dataclass(frozen=True)
class Row:
    """A row of a file, its values as the library holds them: taken out one at a time."""

    number: int
    values: dict[str, Any]


def open_preferences(arrow: Arrow, file: ListedFile) -> PreferenceFile:
    """Look at a file's columns. Raises PairError for one that holds no preferences."""
    try:
        with _parquet(arrow, file) as parquet:
            schema, metadata = parquet.schema_arrow, parquet.metadata
        rows = metadata.num_rows
        kinds = {field.name: _kind(arrow, field.type) for field in schema}
        largest = max(
            (
                metadata.row_group(group).column(column).total_uncompressed_size
                for group in range(metadata.num_row_groups)
                for column in range(metadata.num_columns)
            ),
            default=0,
        )
    except Exception as error:  # whatever a damaged file makes the library say
        raise _damaged(file.shown) from error
    if largest > MAX_ROW_GROUP_BYTES:
        what = f"A part of this file is larger than {MAX_ROW_GROUP_BYTES >> 30} GB"
        raise PairError([PairProblem(what, file.shown, "Leave the file out.")])
    layout, columns = _layout(kinds, file.shown)
    own = _OWN_KINDS | (_OWN_PAIR_KINDS if layout == "pick_a_pic" else {})
    is_ours = layout != "chosen_rejected" and own.items() <= kinds.items()
    if is_ours:
        columns += tuple(own)
    return PreferenceFile(file, rows, columns, layout, is_ours, _split_of(file.name))


def _parquet(arrow: Arrow, file: ListedFile) -> Any:
    """The file, opened so that its pages are read one after another."""
    return arrow.parquet.ParquetFile(file.path, pre_buffer=False, buffer_size=1 << 20)


def _kind(arrow: Arrow, type_: Any) -> str:
    """image, text, number, flag, images, numbers, or something else."""
    types = arrow.core.types
    if types.is_binary(type_) or types.is_large_binary(type_):
        return "image"
    if types.is_struct(type_):
        inside = {type_.field(i).name: type_.field(i).type for i in range(type_.num_fields)}
        return "image" if _kind(arrow, inside.get("bytes", arrow.core.null())) == "image" else ""
    if types.is_string(type_) or types.is_large_string(type_):
        return "text"
    if types.is_integer(type_) or types.is_floating(type_):
        return "number"
    if types.is_boolean(type_):
        return "flag"
    if types.is_list(type_) or types.is_large_list(type_):
        return {"image": "images", "number": "numbers"}.get(_kind(arrow, type_.value_type), "")
    return ""


def _layout(kinds: dict[str, str], shown: str) -> tuple[str, tuple[str, ...]]:
    """Which layout a file has, and the columns it is read from."""
    prompt = "prompt" if kinds.get("prompt") == "text" else "caption"
    layouts = {
        "pick_a_pic": {"jpg_0": "image", "jpg_1": "image", "label_0": "number"},
        "chosen_rejected": {"chosen": "image", "rejected": "image"},
        "labelled": {"image": "image", "label": "flag"},
        "ranked": {"images": "images", "ratings": "numbers"},
    }
    for name, needed in layouts.items():
        if kinds.get(prompt) != "text" or not needed.keys() <= kinds.keys():
            continue
        if all(kinds[column] == kind for column, kind in needed.items()):
            also = ("has_label",) if kinds.get("has_label") == "flag" else ()
            return name, (prompt, *needed, *also)
        texts = [c for c, kind in needed.items() if kind == "image" and kinds[c] == "text"]
        if texts:
            what = "The image columns hold text"
            fix = "Give a dataset that holds the bytes of its images."
            raise PairError([PairProblem(what, f"{shown} ({', '.join(texts)})", fix)])
    raise _unknown_layout(shown, kinds)


def _unknown_layout(shown: str, kinds: dict[str, str]) -> PairError:
    names = printable(", ".join(list(kinds)[:12])) + (", ..." if len(kinds) > 12 else "")
    fix = f"Give a dataset with the columns {_LAYOUTS}."
    return PairError(
        [PairProblem("The columns are not those of preferences", f"{shown} ({names})", fix)]
    )


def _split_of(name: str) -> str | None:
    """What a file is for by the words in its name, else in its folders', the nearest first."""
    for part in reversed(name.lower().removesuffix(".parquet").split("/")):
        words = set(re.split(r"[^a-z0-9]+", part))
        if words & _TRAINED_ON:
            return "train"
        if words & _HELD_OUT:
            return "val"
    return None


def rows_of(
    arrow: Arrow, source: PreferenceFile, most: int, problems: list[PairProblem]
) -> Iterator[list[Row]]:
    """The first rows of a file, a few at a time; where it is damaged they end with a problem."""
    number, size, waiting, waiting_bytes = 0, 0, list[Row](), 0
    try:
        with _parquet(arrow, source.file) as parquet:
            names = list(source.columns)
            # One at a time: a few bytes of a file can stand for any number of large images.
            for batch in parquet.iter_batches(1, columns=names, use_threads=False):
                size += batch.nbytes
                if size > MAX_EXPANSION * source.file.size + BATCH_BYTES:
                    what = f"This file's images are over {MAX_EXPANSION} times as large as itself"
                    where = f"{source.file.shown}, row {number}"
                    problems.append(PairProblem(what, where, "Leave the file out."))
                    break
                waiting.append(Row(number, {name: batch.column(name)[0] for name in names}))
                waiting_bytes += batch.nbytes
                number += 1
                if len(waiting) == BATCH_ROWS or waiting_bytes >= BATCH_BYTES or number == most:
                    yield waiting
                    waiting, waiting_bytes = [], 0
                if number == most:
                    return
            yield waiting
    except (MemoryError, PairError):
        raise
    except Exception:  # as in open_preferences
        yield waiting
        problems += _damaged(f"{source.file.shown}, row {number}").problems


def _damaged(where: str) -> PairError:
    return PairError([PairProblem("The file is damaged", where, "Download or export it again.")])
