"""A run's metrics: one line of JSON for every step."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from .atomic import sync_file, write_atomically


class MetricsLog:
    """The file ``metrics.jsonl``. Torn and foreign lines cost no other line.

    Args:
        path: of the file, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds one line, without what is no finite number.

        Raises:
            OSError: no room.
        """
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        line = json.dumps({"step": step, **finite}, sort_keys=True) + "\n"
        with open(self._path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # torn by a crash: it must not take this line with it
                    line = "\n" + line
            file.write(line.encode())

    def rows(self) -> list[dict[str, float]]:
        """One row per step, ascending. Steps done twice count once, torn lines not at all."""
        found: dict[int, dict[str, float]] = {}
        if self._path.exists():
            text = self._path.read_text(encoding="utf-8", errors="replace")
            for row in map(row_of, text.split("\n")):
                if row is not None:
                    found[int(row["step"])] = row
        return [found[step] for step in sorted(found)]

    def forget_after(self, step: int) -> int:
        """Drops the rows after ``step``, and says how many there were.

        Raises:
            OSError: no room.
        """
        rows = self.rows()
        kept = [row for row in rows if row["step"] <= step]
        if len(kept) < len(rows):
            lines = "".join(json.dumps(row, sort_keys=True) + "\n" for row in kept)
            write_atomically(self._path, lambda part: _write(part, lines))
        return len(rows) - len(kept)

    def sync(self) -> None:
        """Returns when the lines would outlast a power cut."""
        if self._path.exists():
            sync_file(self._path)


def row_of(line: str | bytes) -> dict[str, float] | None:
    """A line's row; None where it is not one of ours."""
    try:
        row = json.loads(line)
        if not isinstance(row, dict) or type(row["step"]) is not int:
            return None
        return row if all(map(_is_number, row.values())) else None
    except (ValueError, KeyError, RecursionError):
        return None


def _is_number(value: object) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # a whole number beyond what a float holds
        return False


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
