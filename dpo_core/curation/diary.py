"""What a person did with a folder's groups: opened, skipped, finished, given a prompt.

An append-only log beside the index. Choices among images are not in it: those are votes of a
session, and of them the session's own log is the only truth.

Every record has `v`, `id` (the same id counts once), `kind`, `at` (Unix time in ms).

| kind | fields |
|---|---|
| opened | `session`, `group`, `set`, `images`: {image of the folder: image of the session} |
| skipped, finished | `session`, `group` |
| prompt | `images`: [image], `prompt` |
| undo | `strikes`: the id of a record that no longer counts; not one of `opened` |
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..ranking.vote_log import VoteLog

VERSION = 1
LOG_NAME = "diary.jsonl"
SET_ASIDE = ("skipped", "finished")
MAX_PROMPTED = 4096
"""Images that one record gives a prompt."""
RECORD_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class DiaryError(ValueError):
    """An entry that cannot be made. The message says why."""


@dataclass(frozen=True)
class Opened:
    """A part of a group that was given to a session as one set.

    Attributes:
        set_id: of the session.
        images: image of the session by image of the folder.
    """

    set_id: str
    images: Mapping[str, str]


@dataclass
class Diary:
    """What counts of the log.

    Attributes:
        opened: by session and group, in the order they were.
        set_aside: the last word on a group by session and group: the record's id and kind.
        prompts: by image.
        revision: another one means another content.
    """

    opened: dict[tuple[str, str], list[Opened]] = field(default_factory=lambda: defaultdict(list))
    set_aside: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    revision: str = ""


class DiaryLog:
    """The diary of one scanned folder."""

    def __init__(self, folder: Path) -> None:
        self._log = VoteLog(folder / LOG_NAME)
        self._diary = Diary(revision="-")

    def read(self) -> Diary:
        """As it is on disk now; not to be changed."""
        reading = self._log.read()
        if reading.digest != self._diary.revision:
            self._diary = _replayed(reading.records, reading.digest)
        return self._diary

    def opened(self, session: str, group: str, set_id: str, images: Mapping[str, str]) -> None:
        """Raises OSError, as do the others."""
        text = "\n".join([session, group, set_id, *sorted(images)])
        record_id = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        self._add(
            {"id": record_id, "kind": "opened", "session": session, "group": group,
             "set": set_id, "images": dict(images)}
        )  # fmt: skip

    def set_aside(self, record_id: str, kind: str, session: str, group: str) -> None:
        """Skips a group, or finishes it early."""
        self._add({"id": record_id, "kind": kind, "session": session, "group": group})

    def give_prompt(self, record_id: str, images: Sequence[str], prompt: str) -> None:
        """Raises DiaryError for too many images."""
        for start in range(0, len(images), MAX_PROMPTED):
            part = record_id if start == 0 else f"{record_id[:56]}.{start}"
            self._add(
                {"id": part, "kind": "prompt", "of": record_id, "prompt": prompt,
                 "images": list(images[start : start + MAX_PROMPTED])}
            )  # fmt: skip

    def undo(self, record_id: str, undo_id: str) -> None:
        """Takes back a skip, a finish or a prompt. Raises DiaryError if there is none."""
        kinds = {record["id"]: record.get("kind") for record in self._log.read().records}
        if kinds.get(record_id) not in (*SET_ASIDE, "prompt"):
            raise DiaryError("There is nothing of that id to take back.")
        self._add({"id": undo_id, "kind": "undo", "strikes": record_id})

    def _add(self, record: dict[str, Any]) -> None:
        if not RECORD_ID.fullmatch(record["id"]):
            raise DiaryError("`id` must be 1 to 64 letters, digits, dots, dashes or underscores.")
        self._log.path.parent.mkdir(parents=True, exist_ok=True)
        stored, _ = self._log.append({"v": VERSION, **record})
        if any(stored.get(name) != value for name, value in record.items()):
            raise DiaryError("This id was used for something else before.")


def _replayed(records: Sequence[Mapping[str, Any]], revision: str) -> Diary:
    diary = Diary(revision=revision)
    struck = {record.get("strikes") for record in records if record.get("kind") == "undo"}
    for record in records:
        kind = record.get("kind")
        if record.get("v") != VERSION or record["id"] in struck or record.get("of") in struck:
            continue
        try:
            _take(diary, kind, record)
        except (KeyError, TypeError, AttributeError):
            continue  # damaged
    return diary


def _take(diary: Diary, kind: Any, record: Mapping[str, Any]) -> None:
    if kind == "prompt":
        prompt = str(record["prompt"])
        diary.prompts.update(dict.fromkeys(map(str, record["images"]), prompt))
    elif kind == "opened":
        images = {str(image): str(stored) for image, stored in record["images"].items()}
        key = str(record["session"]), str(record["group"])
        diary.opened[key].append(Opened(str(record["set"]), images))
    elif kind in SET_ASIDE:
        key = str(record["session"]), str(record["group"])
        diary.set_aside[key] = record["id"], str(kind)
