"""A trial's result on the disk: what was run once is found again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from ..saving.atomic import write_atomically

Row = dict[str, Any]


def found_or_run(path: Path, run: Callable[[], Row]) -> Row:
    """The result a file holds, or that of ``run``, which is then kept there.

    Raises:
        OSError: the file cannot be written.
    """
    if path.exists():
        row: Row = json.loads(path.read_text(encoding="utf-8"))
        return row
    row = run()
    _write(path, json.dumps(row, indent=2) + "\n")
    return row


def write_summary(folder: Path, table: str, plot: Image.Image) -> None:
    """Leaves ``table.md`` and ``plot.png``.

    Raises:
        OSError: the folder cannot be written.
    """
    _write(folder / "table.md", table)
    write_atomically(folder / "plot.png", lambda part: plot.save(part, format="PNG"))


def _write(path: Path, text: str) -> None:
    def write(part: Path) -> None:
        part.write_text(text, encoding="utf-8", newline="\n")

    write_atomically(path, write)
