"""A run's folder: settings, metrics, frozen reference and checkpoints."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from torch import Tensor

from ..run import TrainState
from .atomic import write_atomically
from .checkpoint import is_whole, read_checkpoint, write_checkpoint
from .metrics_log import MetricsLog
from .tensor_file import read_tensors, write_tensors

REFERENCE = "reference.safetensors"
REFERENCE_ERRORS = "reference_errors.safetensors"
END, AUTOSAVE = "step", "autosave"
"""How the names of checkpoints begin: where a training ended or was stopped, and in between."""
CHECKPOINT = re.compile(rf"(?:{END}|{AUTOSAVE})_(\d{{8,}})\.safetensors")
KEPT_ENDS = 5
"""Checkpoints that stay where trainings of a run have ended, besides those somebody goes on from.
An older one asked for again is trained again, from the nearest before it."""


def run_id(content: Mapping[str, Any]) -> str:
    """The same base, pairs and settings give the same id."""
    text = json.dumps(content, sort_keys=True, default=str)
    return blake2b(text.encode(), digest_size=10).hexdigest()


class RunFolder:
    """``<root>/<id>/``: found again by content, so a run asked for twice is trained once.

    Args:
        root: folder of all runs.
        content: what decides the result; it is written as ``settings.json``. Its entry
            ``continues``, id and step, names the run of the same root that this one goes on from.
        label: stands before the id in the folder's name, for people.
    """

    def __init__(self, root: Path, content: Mapping[str, Any], label: str = "") -> None:
        self.id = run_id(content)
        self.path = root / f"{label}{self.id}"
        self.content = dict(content)

    @property
    def _log(self) -> MetricsLog:
        return MetricsLog(self.path / "metrics.jsonl")

    @classmethod
    def at(cls, path: Path) -> RunFolder:
        """The run in a folder, whatever became of its settings file."""
        try:
            content = json.loads((path / "settings.json").read_bytes())
        except (OSError, ValueError):
            content = {}
        run = cls(path.parent, content if isinstance(content, dict) else {})
        run.path, run.id = path, path.name
        return run

    def open(self) -> None:
        """Makes the folder and its settings file.

        Raises:
            OSError: no room, no permission.
        """
        settings = self.path / "settings.json"
        if not settings.exists():
            text = json.dumps(self.content, indent=2, sort_keys=True, default=str)
            write_atomically(settings, lambda part: _write_text(part, text + "\n"))

    def save_checkpoint(
        self, state: TrainState, poll: Callable[[], None] = lambda: None, autosave: bool = False
    ) -> Path:
        """Writes everything a continuation needs into one file, atomically.

        Args:
            state: where training stands.
            poll: is called now and then; what it raises breaks the writing off.
            autosave: it is one of those that go when training ends.

        Raises:
            OSError: no room; nothing is left behind.
        """
        # The rows up to here must not be lost where the checkpoint is not.
        self._log.sync()
        path = self._named(AUTOSAVE if autosave else END, state.step)
        write_checkpoint(path, state, poll)
        if not autosave:
            with suppress(OSError):
                self._named(AUTOSAVE, state.step).unlink()
        return path

    def load_checkpoint(self, step: int) -> TrainState:
        """The state after ``step`` steps.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            DamagedFile: it is not what was written.
        """
        return read_checkpoint(self._checkpoint(step))

    def checkpoints(self) -> list[int]:
        """Steps that have a checkpoint of the length its header tells, ascending."""
        return sorted({*self._steps(END), *self._steps(AUTOSAVE)})

    def autosaves(self) -> list[int]:
        """Those of :meth:`checkpoints` that were only written in case of a crash."""
        return [step for step in self._steps(AUTOSAVE) if not self._named(END, step).exists()]

    def remove_autosaves(self, until: int, but: int = 0) -> None:
        """Removes those up to a step, but for the last so many. What lies ahead of it stays."""
        steps = [step for step in self.autosaves() if step <= until]
        for step in steps[: len(steps) - but]:
            self.remove_checkpoint(step)

    def keep_checkpoint(self, step: int) -> None:
        """Makes an autosave, if it is one, a checkpoint that stays."""
        with suppress(FileNotFoundError):
            os.replace(self._named(AUTOSAVE, step), self._named(END, step))

    def prune(self, but: Collection[int] = (), most: int = KEPT_ENDS) -> list[int]:
        """Removes checkpoints where training ended, but for the latest.

        Args:
            but: steps that stay in any case: somebody stands there.
            most: how many stay besides.

        Returns:
            the steps removed.
        """
        removed = [step for step in self._steps(END)[:-most] if step not in but]
        for step in removed:
            self.remove_checkpoint(step)
        return removed

    def continued_at(
        self, but_by: Callable[[Mapping[str, Any]], bool] = lambda content: False
    ) -> set[int]:
        """Steps that other runs of the same folder go on from.

        Args:
            but_by: says of a run's content that it does not count.
        """
        found = set()
        for path in self.path.parent.iterdir() if self.path.parent.is_dir() else ():
            content = RunFolder.at(path).content
            continues = content.get("continues")
            if isinstance(continues, list) and continues[:1] == [self.path.name]:
                found |= set() if but_by(content) else {continues[1]}
        return found

    def disk_use(self) -> int:
        """Bytes of all files."""
        sizes = 0
        for path in self.path.rglob("*"):
            with suppress(OSError):  # it has just gone
                sizes += path.stat().st_size if path.is_file() else 0
        return sizes

    def remove_checkpoint(self, step: int) -> None:
        """Deletes a checkpoint, if it is there and nobody holds it open."""
        for kind in (END, AUTOSAVE):
            with suppress(OSError):
                self._named(kind, step).unlink()

    def append_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds one line to ``metrics.jsonl`` and flushes it.

        Raises:
            OSError: no room.
        """
        self._log.append(step, metrics)

    def metrics(self, until: int) -> list[dict[str, float]]:
        """One row per step up to ``until``. Steps done twice count once, torn lines not at all."""
        return [row for row in self._log.rows() if row["step"] <= until]

    def forget_after(self, step: int) -> int:
        """Drops the metrics of steps after ``step``, which will be done again; says how many."""
        return self._log.forget_after(step)

    def history(self, until: int) -> list[dict[str, float]]:
        """As :meth:`metrics`, with the rows of the runs this one goes on from before its own."""
        before: list[dict[str, float]] = []
        if self.content.get("continues"):
            parent, step = self.content["continues"]
            before = RunFolder.at(self.path.parent / parent).history(step)
        return before + self.metrics(until)

    def save_reference(self, reference: Mapping[str, Tensor]) -> None:
        """Keeps the frozen reference with the run, once: continued runs anchor to the original."""
        path = self.path / REFERENCE
        if not path.exists():
            write_tensors(path, reference, checked=True)

    def reference(self) -> dict[str, Tensor] | None:
        """The frozen reference of the run; None if the bare model is.

        Raises:
            OSError: there is one, but it cannot be read.
        """
        path = self.path / REFERENCE
        return read_tensors(path)[0] if path.exists() else None

    def save_reference_errors(self, errors: Mapping[str, Tensor], key: str) -> None:
        """Keeps what the reference makes of cached draws; ``key`` says of which reference."""
        write_tensors(self.path / REFERENCE_ERRORS, errors, {"key": key}, checked=True)

    def reference_errors(self, key: str) -> dict[str, Tensor]:
        """What was kept under this key, here or in the run this one goes on from; else nothing."""
        path = self.path / REFERENCE_ERRORS
        if not path.exists():
            if not self.content.get("continues"):
                return {}
            parent = RunFolder.at(self.path.parent / self.content["continues"][0])
            return parent.reference_errors(key)
        try:
            errors, metadata = read_tensors(path)
        except OSError:  # damaged: it is only computed again
            return {}
        return errors if metadata.get("key") == key else {}

    def _steps(self, kind: str) -> list[int]:
        if not self.path.is_dir():
            return []
        name = re.compile(rf"{kind}_(\d{{8,}})\.safetensors")
        matches = (name.fullmatch(entry.name) for entry in self.path.iterdir())
        steps = sorted(int(match[1]) for match in matches if match)
        return [step for step in steps if is_whole(self._named(kind, step))]

    def _named(self, kind: str, step: int) -> Path:
        return self.path / f"{kind}_{step:08d}.safetensors"

    def _checkpoint(self, step: int) -> Path:
        end = self._named(END, step)
        return end if end.exists() else self._named(AUTOSAVE, step)


def runs_like(
    root: Path, content: Mapping[str, Any], but_for: Collection[str]
) -> list[RunFolder]:
    """The runs on disk whose content is this one, but for some of its entries; in no order."""
    wanted = _as_read(content)
    found = []
    for path in root.iterdir() if root.is_dir() else ():
        run = RunFolder.at(path)
        names = run.content.keys() | wanted.keys()
        if run_id(run.content) == path.name and all(
            name in but_for or run.content.get(name) == wanted.get(name) for name in names
        ):
            found.append(run)
    return found


def _as_read(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content as it comes back from its file."""
    read: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return read


def _write_text(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
