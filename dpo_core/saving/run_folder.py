"""A run's folder: settings, metrics, frozen reference and checkpoints."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..evaluation.validation import ValidationState
from ..run import TrainState
from ..training.objectives import ObjectiveState
from ..training.plan import Epochs
from .atomic import write_atomically, write_tensors

TENSORS = ("adapter", "optimizer", "average", "best")
"""What a checkpoint holds of a TrainState, besides numbers."""
REFERENCE_ERRORS = "reference_errors.safetensors"
CHECKPOINT = re.compile(r"step_(\d{8})\.safetensors")


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

    def save_checkpoint(self, state: TrainState) -> Path:
        """Writes everything a continuation needs into one file, atomically."""
        path = self._checkpoint(state.step)
        parts = {name: getattr(state, name) for name in TENSORS}
        tensors = {
            f"{part}/{name}": tensor
            for part, held in parts.items()
            for name, tensor in held.items()
        }
        scalars = {
            "step": state.step,
            "rho": state.rho,
            "loss_scale": state.loss_scale,
            "epochs": asdict(state.epochs),
            "visits": state.visits,
            "objective": asdict(state.objective),
            "algorithm": state.algorithm,
            "validation": asdict(state.validation),
        }
        write_tensors(path, tensors, {"state": json.dumps(scalars)})
        return path

    def load_checkpoint(self, step: int) -> TrainState:
        """The state after ``step`` steps.

        Raises:
            FileNotFoundError: there is no such checkpoint.
        """
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in TENSORS}
        with safe_open(self._checkpoint(step), framework="pt") as file:
            scalars = json.loads(file.metadata()["state"])
            for name in file.keys():
                part, rest = name.split("/", 1)
                parts[part][rest] = file.get_tensor(name)
        return TrainState(
            scalars["step"],
            parts["adapter"],
            parts["optimizer"],
            scalars["rho"],
            scalars["loss_scale"],
            Epochs(**scalars["epochs"] | {"batches": tuple(scalars["epochs"]["batches"])}),
            scalars["visits"],
            ObjectiveState(**scalars["objective"]),
            parts["average"],
            scalars["algorithm"],
            ValidationState(**scalars["validation"]),
            parts["best"],
        )

    def checkpoints(self) -> list[int]:
        """Steps that have a checkpoint that can be read, ascending."""
        if not self.path.is_dir():
            return []
        matches = (CHECKPOINT.fullmatch(entry.name) for entry in self.path.iterdir())
        steps = sorted(int(match[1]) for match in matches if match)
        return [step for step in steps if _is_whole(self._checkpoint(step))]

    def remove_checkpoint(self, step: int) -> None:
        """Deletes a checkpoint, if it is there."""
        self._checkpoint(step).unlink(missing_ok=True)

    def append_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds one line to ``metrics.jsonl`` and flushes it."""
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        line = json.dumps({"step": step, **finite}, sort_keys=True) + "\n"
        with open(self.path / "metrics.jsonl", "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # torn by a crash: it must not take this line with it
                    line = "\n" + line
            file.write(line.encode())

    def metrics(self, until: int) -> list[dict[str, float]]:
        """One row per step up to ``until``. Steps done twice count once, torn lines not at all."""
        rows: dict[int, dict[str, float]] = {}
        path = self.path / "metrics.jsonl"
        if path.exists():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    row = json.loads(line)
                    rows[int(row["step"])] = row
                except (ValueError, KeyError, TypeError):
                    continue
        return [rows[step] for step in sorted(rows) if step <= until]

    def history(self, until: int) -> list[dict[str, float]]:
        """As :meth:`metrics`, with the rows of the runs this one goes on from before its own."""
        before: list[dict[str, float]] = []
        if self.content.get("continues"):
            parent, step = self.content["continues"]
            before = RunFolder.at(self.path.parent / parent).history(step)
        return before + self.metrics(until)

    def save_reference(self, reference: Mapping[str, Tensor]) -> None:
        """Keeps the frozen reference with the run, once: continued runs anchor to the original."""
        path = self.path / "reference.safetensors"
        if not path.exists():
            write_tensors(path, reference)

    def save_reference_errors(self, errors: Mapping[str, Tensor], key: str) -> None:
        """Keeps what the reference makes of cached draws; ``key`` says of which reference."""
        write_tensors(self.path / REFERENCE_ERRORS, errors, {"key": key})

    def reference_errors(self, key: str) -> dict[str, Tensor]:
        """What was kept under this key, here or in the run this one goes on from; else nothing."""
        path = self.path / REFERENCE_ERRORS
        if not path.exists():
            if not self.content.get("continues"):
                return {}
            parent = RunFolder.at(self.path.parent / self.content["continues"][0])
            return parent.reference_errors(key)
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("key") != key:
                    return {}
                return {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, SafetensorError):  # damaged: it is only computed again
            return {}

    def _checkpoint(self, step: int) -> Path:
        return self.path / f"step_{step:08d}.safetensors"


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


def _is_whole(path: Path) -> bool:
    """Whether a file has the length its header tells; reads no more than that."""
    try:
        with safe_open(path, framework="pt") as file:
            return "state" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def _as_read(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content as it comes back from its file."""
    read: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return read


def _write_text(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
