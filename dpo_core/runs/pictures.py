"""The preview pictures of a run, as far as they can be shown."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from ..request import within
from ..saving.filmstrip import INDEX

PREVIEWS = "previews"
MAX_INDEX_BYTES = 4 * 1024 * 1024
MOST_COLUMNS = 200
_FILE = re.compile(r"(?:base|step_\d{8,12})_\d{1,4}\.png")


@dataclass(frozen=True)
class Pictures:
    """What a filmstrip's folder names.

    Attributes:
        prompts: a row each.
        columns: the step, None for the base model, and a file for each prompt; the latest are kept.
        version: changes whenever the pictures do.
    """

    prompts: tuple[str, ...] = ()
    columns: tuple[tuple[int | None, tuple[str, ...]], ...] = ()
    version: int = 0

    @property
    def last(self) -> str | None:
        """The file that stands for the run."""
        return next((files[0] for step, files in reversed(self.columns) if step is not None), None)


def pictures_of(run: Path) -> Pictures:
    """The pictures in a run's folder; damaged or foreign ones are as if they were not there."""
    index = run / PREVIEWS / INDEX
    try:
        if not within(run, index) or index.stat().st_size > MAX_INDEX_BYTES:
            return Pictures()
        version = index.stat().st_mtime_ns // 1_000_000
        said = json.loads(index.read_bytes())
        prompts = tuple(str(prompt) for prompt in said["prompts"])
        columns = []
        for column in said["columns"][-MOST_COLUMNS:]:
            step, files = column["step"], tuple(column["files"])
            named = all(isinstance(name, str) and _FILE.fullmatch(name) for name in files)
            if files and named and (step is None or type(step) is int):
                columns.append((step, files))
        return Pictures(prompts, tuple(columns), version)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Pictures()
