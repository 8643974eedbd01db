"""Pictures of the same prompts as training went on, kept in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from ..evaluation.strip import MOST_COLUMNS, draw_strip, few_of, thumbnail
from .atomic import write_atomically

INDEX, STRIP = "index.json", "strip.png"
BASE = -1
"""Stands for the model without the LoRA, where otherwise a step stands."""
VERSION = 1


class Filmstrip:
    """One folder: a PNG for each step and prompt, ``index.json`` and ``strip.png``.

    The index names ``prompts``, ``settings``, the ``strip`` and ``columns``: a ``step`` each, null
    for the base, and its ``files``, one for each prompt. A column is in it once all its files are.

    Args:
        folder: of its own; made when the first column is added.
        prompts: a row each.
        settings: all that the pictures depend on besides the LoRA, as JSON has it. Pictures of
            other settings, if the folder holds such, are moved out of the way by the first
            column.
    """

    def __init__(self, folder: Path, prompts: Sequence[str], settings: dict[str, Any]) -> None:
        self.folder, self._prompts, self._settings = folder, list(prompts), settings
        self._small: dict[str, Image.Image] = {}
        self._columns = self._read()

    @property
    def steps(self) -> list[int]:
        """The steps there are pictures of, ascending; :data:`BASE` is not among them."""
        return [step for step in self._columns if step != BASE]

    @property
    def strip(self) -> Path | None:
        """The whole as one picture, if there is one."""
        path = self.folder / STRIP
        return path if self._columns and path.is_file() else None

    def has(self, step: int) -> bool:
        return step in self._columns

    def files(self, step: int) -> list[Path]:
        """The pictures of a column, by prompt."""
        return [self._file(step, number) for number in range(len(self._prompts))]

    def add(self, step: int, pictures: Sequence[Image.Image]) -> None:
        """Keeps a column; one of the same step is replaced.

        Raises:
            OSError: no room, no permission.
        """
        self._make_way()
        for number, picture in enumerate(pictures):
            path = self._file(step, number)
            write_atomically(path, partial(_save, picture))
            self._small[path.name] = thumbnail(picture)
        self._columns = sorted({*self._columns, step})
        self._write_index()
        self._draw()

    def adopt(self, other: Filmstrip, steps: Sequence[int]) -> None:
        """Takes over the columns of these steps that the other has and this one does not.

        Nothing, if the other's are of other settings.

        Raises:
            OSError: no room, no permission; a picture of the other's is damaged.
        """
        if other._settings != self._settings or other._prompts != self._prompts:
            return
        for step in steps:
            if other.has(step) and not self.has(step):
                self.add(step, [_opened(file) for file in other.files(step)])

    def drawn(self, most: int = MOST_COLUMNS) -> Image.Image:
        """The strip with at most so many columns, evenly spaced, the base and the last step's too.

        Args:
            most: 2 or more.
        """
        shown = few_of(self._columns, most)
        return draw_strip(
            [
                ("base" if step == BASE else f"step {step}", self._thumbnails(step))
                for step in shown
            ],
            self._prompts,
        )

    def _thumbnails(self, step: int) -> list[Image.Image]:
        found = []
        for path in self.files(step):
            if path.name not in self._small:
                self._small[path.name] = _thumbnail_of(path)
            found.append(self._small[path.name])
        return found

    def _file(self, step: int, number: int) -> Path:
        name = "base" if step == BASE else f"step_{step:08d}"
        return self.folder / f"{name}_{number}.png"

    def _read(self) -> list[int]:
        """What the folder holds of these prompts and settings."""
        index = _index(self.folder)
        if index.get("settings") != self._settings or index.get("prompts") != self._prompts:
            return []
        columns = [BASE if column["step"] is None else column["step"]
                   for column in index["columns"]]
        return sorted(
            step for step in columns
            if all(path.is_file() for path in self.files(step))
        )

    def _make_way(self) -> None:
        """Moves pictures of other settings to a folder beside this one."""
        if self._columns or not _index(self.folder):
            return
        number = 1
        while (beside := self.folder.with_name(f"{self.folder.name}_{number}")).exists():
            number += 1
        self.folder.rename(beside)

    def _write_index(self) -> None:
        content = {
            "version": VERSION,
            "prompts": self._prompts,
            "settings": self._settings,
            "strip": STRIP,
            "columns": [
                {
                    "step": None if step == BASE else step,
                    "files": [path.name for path in self.files(step)],
                }
                for step in self._columns
            ],
        }
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        write_atomically(self.folder / INDEX, lambda part: _write(part, text))

    def _draw(self) -> None:
        write_atomically(self.folder / STRIP, partial(_save, self.drawn()))


def _index(folder: Path) -> dict[str, Any]:
    """A folder's index; empty if there is none that can be read."""
    try:
        index = json.loads((folder / INDEX).read_bytes())
        columns = index["columns"]
        if all(type(column["step"]) in (int, type(None)) for column in columns):
            return dict(index)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {}


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _thumbnail_of(path: Path) -> Image.Image:
    try:
        return thumbnail(_opened(path))
    except (OSError, SyntaxError, ValueError):  # damaged: its place stays empty
        return Image.new("RGB", (1, 1), (200, 200, 200))


def _save(picture: Image.Image, part: Path) -> None:
    picture.save(part, "PNG", compress_level=1)


def _write(part: Path, text: str) -> None:
    part.write_bytes(text.encode("utf-8"))
