"""What a run's other files do not say: who trained it on what, how it ended, its LoRA files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..saving.atomic import write_atomically

RECORD = "run.json"
ENDS = ("finished", "stopped", "failed")
MAX_BYTES = 1024 * 1024
MAX_LORAS = 200
"""The latest are kept."""


@dataclass(frozen=True)
class SavedLora:
    """A LoRA file that was made of a run.

    Attributes:
        file: from the output folder on, with forward slashes.
        step: that it holds.
        saved: when, in seconds since 1970.
    """

    file: str
    step: int
    saved: float


@dataclass(frozen=True)
class RunRecord:
    """A run as those who trained it have noted it down.

    Attributes:
        model: name of the base model's file; its kind where it has none.
        pairs: records trained on.
        noun: what such a record is called.
        held_out: records kept for validation.
        target: step that the last training was to reach.
        started: when the last training began, in seconds since 1970; 0 if none is known of.
        ended: when it ended; 0 while it has not.
        end: how, one of ``ENDS``; empty while it has not.
        reason: why it ended before its time.
        execution_mode: how passes were scheduled, which no result depends on.
        gradient_checkpointing: likewise.
        auto_mode: the execution mode that was chosen by itself; empty if none was.
        loras: files made of it, in the order they were saved.
    """

    model: str = ""
    pairs: int = 0
    noun: str = "pair"
    held_out: int = 0
    target: int = 0
    started: float = 0.0
    ended: float = 0.0
    end: str = ""
    reason: str = ""
    execution_mode: str = ""
    gradient_checkpointing: bool = False
    auto_mode: str = ""
    loras: tuple[SavedLora, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether a training has begun that has not said how it ended."""
        return self.started > 0 and self.end == ""


def read_record(folder: Path) -> RunRecord:
    """The record of a run's folder; what is missing or damaged in it is as if it were not known."""
    path = folder / RECORD
    try:
        if path.is_symlink() or path.stat().st_size > MAX_BYTES:
            return RunRecord()
        said = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return RunRecord()
    if not isinstance(said, dict):
        return RunRecord()
    known = _fitting(RunRecord, said)
    listed = said.get("loras")
    known["loras"] = tuple(
        SavedLora(**lora)
        for one in (listed if isinstance(listed, list) else [])
        if isinstance(one, dict) and len(lora := _fitting(SavedLora, one)) == 3
    )
    if known.get("end") not in ENDS:
        known.pop("end", None)
    return RunRecord(**known)


def write_record(folder: Path, record: RunRecord) -> None:
    """Writes the record atomically.

    Raises:
        OSError: no room, no permission.
    """
    kept = asdict(record) | {"loras": [asdict(one) for one in record.loras[-MAX_LORAS:]]}
    text = json.dumps({"v": 1, **kept}, indent=1, sort_keys=True) + "\n"
    write_atomically(folder / RECORD, lambda part: _write(part, text))


_PLAIN = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}


def _fitting(kind: type, said: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that are of the type that the field of that name has."""
    found = {}
    for one in fields(kind):
        types, value = _PLAIN.get(str(one.type)), said.get(one.name)
        if types is None or not isinstance(value, types):
            continue
        if isinstance(value, bool) != (bool in types):
            continue
        if isinstance(value, float) and not math.isfinite(value):
            continue
        found[one.name] = value
    return found


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
