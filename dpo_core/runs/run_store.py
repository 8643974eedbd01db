"""The folder of all runs: what is in it, and taking a run out of it."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..request import within
from ..saving.run_folder import CHECKPOINT, RunFolder, run_id
from .metric_rows import METRICS, last_rows
from .pictures import PREVIEWS, Pictures, pictures_of
from .run_record import RECORD, RunRecord, read_record

RUN_ID = re.compile(r"[0-9a-f]{20}")
SETTINGS = "settings.json"
_DELETED = re.compile(r"\.deleted_[0-9a-f]{20}_[0-9a-f]{8}")
MAX_SETTINGS_BYTES = 16 * 1024 * 1024
MAX_LINEAGE = 10_000
RECENT = 10
"""Steps over which accuracy is averaged."""

Stamp = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class RunSummary:
    """What a list tells of a run.

    Attributes:
        id: name of its folder.
        is_readable: whether its settings are those that its id was made of.
        content: what decided the result, but for digests of weights; empty if it cannot be read.
        record: what was noted down of it.
        step: of its last checkpoint; where it goes on from, if it has none yet.
        last_step: of its last metrics.
        changed: when anything of it was last written, in seconds since 1970.
        size: bytes on the disk.
        accuracy: mean over the last steps; None before the first.
        validation: the row of the last validation; empty without one.
        pictures: of its previews.
    """

    id: str
    is_readable: bool
    content: Mapping[str, Any]
    record: RunRecord
    step: int
    last_step: int
    changed: float
    size: int
    accuracy: float | None
    validation: Mapping[str, float]
    pictures: Pictures

    @property
    def continues(self) -> tuple[str, int] | None:
        """The run and step that it goes on from."""
        return continues(self.content)

    def status(self, in_training: bool) -> str:
        """running, finished, stopped (it can go on), failed, interrupted (by a crash or a power
        cut: what came after the last checkpoint is done again) or damaged."""
        if in_training:
            return "running"
        if not self.is_readable:
            return "damaged"
        if self.record.is_open:
            return "interrupted"
        if self.record.end:
            return self.record.end
        if not self.last_step and not self.step:
            return "stopped"
        return "interrupted" if self.last_step > self.step else "finished"


def continues(content: Mapping[str, Any]) -> tuple[str, int] | None:
    """The run and step that a run of this content goes on from."""
    said = content.get("continues")
    if not isinstance(said, (list, tuple)) or len(said) != 2:
        return None
    run, step = said
    if isinstance(run, str) and RUN_ID.fullmatch(run) and isinstance(step, int):
        return run, step
    return None


class RunStore:
    """All runs below a folder; what is not a run there is passed over.

    Args:
        root: the folder, which need not exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Stamp, RunSummary]] = {}

    def summaries(self) -> list[RunSummary]:
        """Every run, the one last changed first."""
        found = []
        for entry in self._entries():
            try:
                if RUN_ID.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                    found.append(self._summary(Path(entry.path)))
            except OSError:  # it went away meanwhile, or may not be read
                continue
        with self._lock:
            known = {one.id for one in found}
            self._known = {name: kept for name, kept in self._known.items() if name in known}
        return sorted(found, key=lambda one: (one.changed, one.id), reverse=True)

    def folder(self, run: str) -> Path | None:
        """The folder of a run, None if there is none of that id. Links are not followed."""
        if not RUN_ID.fullmatch(run):
            return None
        path = self.root / run
        try:
            return path if stat.S_ISDIR(path.lstat().st_mode) else None
        except OSError:
            return None

    def summary(self, folder: Path) -> RunSummary:
        """One run. Raises OSError."""
        return self._summary(folder)

    def lineage(self, folder: Path) -> list[tuple[Path, int]]:
        """The runs that a run goes on from, the earliest first, and the last step of each."""
        found: list[tuple[Path, int]] = []
        seen = {folder.name}
        before = continues(content_of(folder))
        while before is not None and before[0] not in seen and len(found) < MAX_LINEAGE:
            parent, step = self.folder(before[0]), before[1]
            if parent is None:
                break
            seen.add(before[0])
            found.insert(0, (parent, step))
            before = continues(content_of(parent))
        return found

    def put_aside(self, folder: Path) -> Path:
        """Takes a run's folder out of sight in one move; gives where it is now.

        Raises:
            OSError: it is in use or may not be moved.
        """
        aside = self.root / f".deleted_{folder.name}_{secrets.token_hex(4)}"
        os.rename(folder, aside)
        with self._lock:
            self._known.pop(folder.name, None)
        return aside

    def sweep(self) -> None:
        """Removes what was put aside, also by those who could not finish it."""
        for entry in self._entries():
            if _DELETED.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)

    def _entries(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.root) as entries:
                return list(entries)
        except OSError:  # no run yet
            return []

    def _summary(self, folder: Path) -> RunSummary:
        stamp = _stamp(folder)
        with self._lock:
            known = self._known.get(folder.name)
        if known is not None and known[0] == stamp:
            return known[1]
        summary = _summarised(folder)
        with self._lock:
            self._known[folder.name] = stamp, summary
        return summary


def content_of(folder: Path) -> dict[str, Any]:
    """What decided a run's result; empty if it cannot be read."""
    path = folder / SETTINGS
    try:
        if not within(folder, path) or path.stat().st_size > MAX_SETTINGS_BYTES:
            return {}
        return RunFolder.at(folder).content
    except (OSError, RecursionError):
        return {}


def files_of(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below a folder, by its name from there on; links are not followed."""
    pending = [folder]
    while pending:
        here = pending.pop()
        try:
            with os.scandir(here) as entries:
                inside = list(entries)
        except OSError:
            continue
        for entry in inside:
            try:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    name = Path(entry.path).relative_to(folder).as_posix()
                    yield name, entry.stat(follow_symlinks=False)
            except OSError:
                continue


def _stamp(folder: Path) -> Stamp:
    """Changes whenever something that a summary tells does."""
    found = []
    for name in ("", SETTINGS, RECORD, METRICS, PREVIEWS):
        try:
            facts = (folder / name).lstat()
            found.append((facts.st_mtime_ns, facts.st_size))
        except OSError:
            found.append((0, -1))
    return tuple(found)


def _summarised(folder: Path) -> RunSummary:
    files = dict(files_of(folder))
    content = content_of(folder)
    # Some are of validation alone.
    rows, validation = last_rows(folder, 2 * RECENT)
    before = continues(content)
    steps = [int(match[1]) for name in files if (match := CHECKPOINT.fullmatch(name))]
    recent = [row["dpo/accuracy"] for row in rows if "dpo/accuracy" in row][-RECENT:]
    return RunSummary(
        id=folder.name,
        is_readable=run_id(content) == folder.name,
        content=_slim(content),
        record=read_record(folder),
        step=max(steps, default=0 if before is None else before[1]),
        last_step=int(rows[-1]["step"]) if rows else 0,
        changed=max([facts.st_mtime for facts in files.values()] + [folder.lstat().st_mtime]),
        size=sum(facts.st_size for facts in files.values()),
        accuracy=sum(recent) / len(recent) if recent else None,
        validation=validation or {},
        pictures=pictures_of(folder),
    )


def _slim(content: Mapping[str, Any]) -> dict[str, Any]:
    """Without the digests of a refined LoRA, of which there is one for each layer."""
    slim = {name: value for name, value in content.items() if name != "lineage"}
    adapter = content.get("adapter")
    if isinstance(adapter, dict) and "weights" in adapter:
        slim["adapter"] = {name: value for name, value in adapter.items() if name != "weights"}
    return slim
