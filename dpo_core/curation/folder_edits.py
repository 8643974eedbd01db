"""Changes to a pair folder that any trainer sees, and that can all be taken back.

Files are renamed, never deleted or written over: what is taken out lies in the hidden folder
`.dpo_review/kept` inside the pair folder, which no loader reads. Every change is written to
`.dpo_review/journal.jsonl` before it is made, and each of its steps when it is done, so that one
that was broken off is finished when the folder is next looked at.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..ranking.durable_file import sync_folder, whole_file
from ..ranking.vote import VoteError
from ..ranking.vote_log import VoteLog
from .edit import Edit, EditError

FOLDER = ".dpo_review"
JOURNAL = "journal.jsonl"
VERSION = 1
_LATER = "Something changed there since. Take back the later changes first, or look again."
_LOCKS: dict[Path, threading.RLock] = {}
"""By folder: of two changes at once each would take the other for one that was broken off."""

Step = Sequence[str]
"""("move", from, to) or ("write", file, text); files relative to the folder."""


class FolderEdits:
    """The changes made to one pair folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._place = folder / FOLDER
        self._journal = VoteLog(self._place / JOURNAL)
        self._lock = _LOCKS.setdefault(folder, threading.RLock())

    def edits(self) -> list[Edit]:
        """Those that count, the newest first."""
        begun = self._begun()
        undone = _undone(begun)
        found = [
            Edit(one["id"], one["kind"], one["place"], one["what"], one.get("at", 0))
            for one in begun
            if one["kind"] != "undo" and one["id"] not in undone
        ]
        return found[::-1]

    def was_made(self, edit_id: str) -> bool:
        return any(one["id"] == edit_id for one in self._begun())

    def make(self, edit_id: str, kind: str, place: str, what: str, steps: Iterable[Step]) -> None:
        """Makes a change, durably; the same id counts once. Raises EditError, OSError."""
        self._begin({"id": edit_id, "kind": kind, "place": place, "what": what}, [*steps])

    def undo(self, edit_id: str, undo_id: str) -> None:
        """Takes a change back. Raises EditError, OSError."""
        with self._lock:
            begun = {one["id"]: one for one in self._begun()}
            if undo_id in begun:
                return
            edit = begun.get(edit_id)
            if edit is None or edit_id in _undone([*begun.values()]):
                raise EditError("There is nothing of that id to take back.")
            steps: list[Step] = []
            for step in reversed(edit["steps"]):
                if step[0] == "move":
                    steps.append(("move", step[2], step[1]))
                else:
                    steps.append(("move", step[1], self.kept(undo_id, step[1])))
            record = {"id": undo_id, "kind": "undo", "of": edit_id, "place": edit["place"]}
            self._begin({**record, "what": edit["what"]}, steps)

    def recover(self) -> bool:
        """Finishes a change that was broken off; True if there was one. Raises OSError."""
        if self._leads_elsewhere() is not None or not self._journal.path.exists():
            return False
        found = False
        with self._lock:
            done = {one.get("of") for one in self._records() if one.get("kind") == "done"}
            for edit in self._begun():
                if edit["id"] not in done:
                    found = True
                    try:
                        self._run(edit)
                    except EditError:  # no record of ours: it leads out of the folder
                        self._mark(f"{edit['id']}/done", "done", edit["id"])
        return found

    def kept(self, edit_id: str, name: str) -> str:
        """Where a file goes that is taken out."""
        digest = hashlib.blake2b(edit_id.encode(), digest_size=8).hexdigest()
        return f"{FOLDER}/kept/{digest}/{name}"

    def _begin(self, record: Mapping[str, Any], steps: list[Step]) -> None:
        with self._lock:
            if link := self._leads_elsewhere():
                what = f"{link.relative_to(self._folder)} in this folder is a link"
                raise EditError(f"{what}. Put the file or folder itself there.")
            self.recover()
            if self.was_made(record["id"]):
                return
            self._require_possible(steps)
            self._place.mkdir(exist_ok=True)
            edit = {"v": VERSION, "step": "begun", **record, "steps": [[*one] for one in steps]}
            try:
                self._journal.append(edit)
            except VoteError as error:
                raise EditError(
                    "These files have names that cannot be written down. Rename them first."
                ) from error
            self._run(edit)

    def _run(self, edit: Mapping[str, Any]) -> None:
        done = {one["id"] for one in self._records()}
        for number, step in enumerate(edit["steps"]):
            mark = f"{edit['id']}/{number}"
            if mark not in done:
                self._do(step)
                self._mark(mark, "step", edit["id"])
        self._mark(f"{edit['id']}/done", "done", edit["id"])

    def _mark(self, mark: str, kind: str, of: str) -> None:
        self._journal.append({"v": VERSION, "id": mark, "kind": kind, "of": of})

    def _do(self, step: Step) -> None:
        path = self._inside(step[-1] if step[0] == "move" else step[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        if step[0] == "write":
            if not os.path.lexists(path):  # else it was written, or is another program's
                with whole_file(path) as file:
                    file.write(step[2].encode("utf-8", "replace") + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
        else:
            source = self._inside(step[1])
            # Broken off between the renaming and its mark, it is there already. A file that
            # another program has moved since stays where that put it.
            if os.path.lexists(source) and not os.path.lexists(path):
                os.rename(source, path)
                sync_folder(source.parent)
        sync_folder(path.parent)

    def _require_possible(self, steps: Sequence[Step]) -> None:
        """Goes through the steps without making them. Raises EditError."""
        gone: set[str] = set()
        made: set[str] = set()
        for step in steps:
            there = {
                name: name in made or (name not in gone and os.path.lexists(self._inside(name)))
                for name in (step[1:] if step[0] == "move" else step[1:2])
            }
            if step[0] == "move" and (not there[step[1]] or there[step[2]]):
                raise EditError(_LATER)
            if step[0] == "write" and there[step[1]]:
                raise EditError(_LATER)
            if step[0] == "move":
                made.discard(step[1])
                gone.add(step[1])
            made.add(step[-1] if step[0] == "move" else step[1])

    def _inside(self, name: str) -> Path:
        """Raises EditError for a file whose folder lies elsewhere."""
        path = self._folder / name
        try:
            inside = path.parent.resolve().is_relative_to(self._folder)
        except (OSError, ValueError, RuntimeError):
            inside = False
        if not inside or "\0" in name or ".." in Path(name).parts:
            raise EditError("A link leads out of the folder. Put the files themselves there.")
        return path

    def _leads_elsewhere(self) -> Path | None:
        """What of the journal is a link: it would be written to where that leads."""
        names = (self._place, self._journal.path, self._journal.path.with_suffix(".lock"))
        return next((path for path in names if path.is_symlink()), None)

    def _records(self) -> list[Mapping[str, Any]]:
        if self._leads_elsewhere() is not None:
            return []
        return [one for one in self._journal.read().records if one.get("v") == VERSION]

    def _begun(self) -> list[Mapping[str, Any]]:
        return [one for one in self._records() if one.get("step") == "begun" and _is_sound(one)]


def _is_sound(record: Mapping[str, Any]) -> bool:
    steps = record.get("steps")
    return (
        all(isinstance(record.get(name), str) for name in ("kind", "place", "what"))
        and type(record.get("at", 0)) is int
        and isinstance(steps, list)
        and all(
            isinstance(step, list) and len(step) == 3 and all(isinstance(one, str) for one in step)
            for step in steps
        )
    )


def _undone(begun: Sequence[Mapping[str, Any]]) -> set[str]:
    """From the last to the first: an undo that was undone no longer counts."""
    undone: set[str] = set()
    for one in reversed(begun):
        if one["kind"] == "undo" and one["id"] not in undone:
            undone.add(str(one.get("of")))
    return undone
