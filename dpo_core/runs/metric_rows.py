"""Rows of a run's metrics for a chart: as many as it can show, without reading all into memory."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..request import within
from ..saving.metrics_log import row_of

METRICS = "metrics.jsonl"
MAX_LINE_BYTES = 64 * 1024
"""A longer line is none of ours."""
TAIL_BYTES = 256 * 1024
_STEP = re.compile(rb'"step": ?(\d{1,9})\b')
_VALIDATION = b'"dpo/val_accuracy"'

Row = dict[str, float]


class _Lines(NamedTuple):
    """Where the rows of a file stand, by step; arrays of one length."""

    path: Path
    steps: NDArray[np.int64]
    offsets: NDArray[np.int64]
    is_validation: NDArray[np.bool_]


def rows_of(
    folders: Sequence[tuple[Path, int | None]], after: int, most: int
) -> tuple[list[Row], int]:
    """Rows of a run and of those it goes on from.

    Args:
        folders: of the runs, the earliest first, each with the last step that counts of it.
        after: rows of later steps only.
        most: rows to give, 2 or more. Of more than that every so many are taken, the last among
            them, and those of validation before others.

    Returns:
        the rows in order, and the last step there is, -1 if there is none.
    """
    files = [found for folder, until in folders if len((found := _lines(folder, until)).steps)]
    if not files:
        return [], -1
    wanted = [found.steps > after for found in files]
    marked = np.concatenate(
        [one.is_validation[which] for one, which in zip(files, wanted, strict=True)]
    )
    chosen = _thinned(marked, most)
    rows: list[Row] = []
    first = 0
    for one, which in zip(files, wanted, strict=True):
        places = np.flatnonzero(which)
        here = chosen[(chosen >= first) & (chosen < first + len(places))] - first
        first += len(places)
        for row in _read(one, places[here]):
            if rows and rows[-1]["step"] == row["step"]:  # where one run goes on from another
                rows[-1] = rows[-1] | row
            else:
                rows.append(row)
    return rows, int(files[-1].steps[-1])


def last_rows(folder: Path, count: int) -> tuple[list[Row], Row | None]:
    """What stands at the end of a run's metrics, without reading more of them than that.

    Args:
        folder: of the run.
        count: how many rows.

    Returns:
        the last rows in the order they were written, and the last one of a validation.
    """
    path = folder / METRICS
    if not within(folder, path):
        return [], None
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL_BYTES))
        lines = file.read(TAIL_BYTES).split(b"\n")
    if size > TAIL_BYTES:
        lines = lines[1:]  # it begins somewhere inside a line
    rows: list[Row] = []
    validation = None
    for line in reversed(lines):
        marked = validation is None and _VALIDATION in line
        if not marked and len(rows) >= count:
            continue
        row = row_of(line)
        if row is not None:
            rows[:0] = [row] if len(rows) < count else []
            validation = row if marked else validation
    return rows, validation


def _lines(folder: Path, until: int | None) -> _Lines:
    """Every step's line; of a step done twice the later one."""
    path = folder / METRICS
    steps, offsets, marks = array("q"), array("q"), array("b")
    if within(folder, path):
        offset = 0
        with open(path, "rb") as file:
            for line in file:
                match = _STEP.search(line) if len(line) <= MAX_LINE_BYTES else None
                if match and line.endswith(b"}\n") and (until is None or int(match[1]) <= until):
                    steps.append(int(match[1]))
                    offsets.append(offset)
                    marks.append(_VALIDATION in line)
                offset += len(line)
    known = np.array(steps, dtype=np.int64)
    _, from_the_end = np.unique(known[::-1], return_index=True)
    latest = len(known) - 1 - from_the_end
    return _Lines(
        path,
        known[latest],
        np.array(offsets, dtype=np.int64)[latest],
        np.array(marks, dtype=np.bool_)[latest],
    )


def _thinned(is_validation: NDArray[np.bool_], most: int) -> NDArray[np.intp]:
    """The places to keep, ascending."""
    everything = np.arange(len(is_validation))
    if len(everything) <= most:
        return everything
    kept = _spread(np.flatnonzero(is_validation), most // 2)
    return np.union1d(kept, _spread(everything, most - len(kept)))


def _spread(places: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """At most so many of them, evenly, the last among them."""
    if len(places) <= most:
        return places
    return places[np.arange(1, most + 1) * len(places) // most - 1]


def _read(lines: _Lines, places: NDArray[np.intp]) -> Iterator[Row]:
    if not len(places):
        return
    with open(lines.path, "rb") as file:
        for at in places.tolist():
            file.seek(int(lines.offsets[at]))
            row = row_of(file.readline(MAX_LINE_BYTES))
            if row is not None and row["step"] == lines.steps[at]:
                yield row
