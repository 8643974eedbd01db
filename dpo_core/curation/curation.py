"""Scanned folders and what is kept of them: index, diary, thumbnails; one object per folder.

`<root>/<id>/` holds `about.json`, `index.jsonl`, `diary.jsonl` and `thumbnails/<image>.webp`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..pairs.image_file import open_image, rgb_bytes
from ..pairs.problem import printable
from ..ranking.durable_file import whole_file
from ..ranking.session import SessionState
from ..ranking.thumbnails import MAX_SIDE, write_thumbnail
from .diary import DiaryLog
from .found_image import FoundImage
from .groups import Group, grouped
from .index import Index
from .progress import SessionProgress
from .scan import Scan

CURATION_ID = re.compile(r"[0-9a-f]{20}")
ABOUT = "about.json"
_MAX_ABOUT_BYTES = 64 * 1024
_DECODING_AT_ONCE = 2
_MOST_SESSIONS = 16


@dataclass(frozen=True)
class Known:
    """A folder that was scanned: its `id`, and when it was last opened, Unix time in ms."""

    id: str
    folder: Path
    opened: int


class Curation:
    """One scanned folder.

    Args:
        place: where what is known of it is kept.
        folder: with the images, resolved.
        without: as for `Scan`.
    """

    def __init__(self, place: Path, folder: Path, without: Collection[Path]) -> None:
        self.id, self.folder = place.name, folder
        self.scan = Scan(folder, Index(place / "index.jsonl"), without)
        self.diary = DiaryLog(place)
        self.opening = threading.Lock()
        """Held while images are given to a session."""
        self._thumbnails = place / "thumbnails"
        self._decoding = threading.Semaphore(_DECODING_AT_ONCE)
        self._groups: tuple[object, Mapping[str, Group]] = (None, {})
        self._progress: dict[str, tuple[object, SessionProgress]] = {}

    def progress(self, session: str, state: SessionState | None) -> SessionProgress:
        """What a session, which may have no state yet, has made of the groups."""
        diary = self.diary.read()
        key = None if state is None else (state.digest(), len(state.sets)), diary.revision
        known = self._progress.get(session)
        if known is None or known[0] != key:
            if len(self._progress) >= _MOST_SESSIONS:
                self._progress.clear()  # they are only kept for speed
            known = self._progress[session] = key, SessionProgress(session, state, diary)
        return known[1]

    def groups(self) -> Mapping[str, Group]:
        """All groups by id."""
        findings, diary = self.scan.findings(), self.diary.read()
        is_running = self.scan.status().is_running
        key = findings.revision, diary.revision, is_running
        if self._groups[0] != key:
            images, before = findings.images.values(), self._groups[1]
            self._groups = key, grouped(images, diary.prompts, is_running, before)
        return self._groups[1]

    def thumbnail(self, image: FoundImage) -> Path | None:
        """The small copy of an image, made if it is not there; None for one that is small itself.

        Raises PairError, OSError.
        """
        if max(image.width, image.height) <= MAX_SIDE:
            return None
        path = self._thumbnails / f"{image.id}.webp"
        if not _has_content(path):
            with self._decoding:
                if not _has_content(path):
                    self._make(image, path)
        return path if path.exists() else None

    def _make(self, image: FoundImage, path: Path) -> None:
        with open_image(self.folder / image.name, printable(image.name)) as opened:
            if opened.mode in ("RGB", "L"):
                opened.thumbnail((MAX_SIDE, MAX_SIDE), reducing_gap=2.0)  # before it is turned
            pixels = rgb_bytes(opened)
            self._thumbnails.mkdir(parents=True, exist_ok=True)
            write_thumbnail(Image.fromarray(pixels), path)


class CurationStore:
    """The scanned folders of a person.

    Args:
        root: where what is known of them is kept.
        without: folders that are not looked into, below whatever folder is scanned.
    """

    def __init__(self, root: Path, without: Collection[Path] = ()) -> None:
        self.root, self._without = root, tuple(without)
        self._lock = threading.Lock()
        self._open: dict[str, Curation] = {}

    def known(self) -> list[Known]:
        """All that were scanned, the last opened first."""
        if not self.root.is_dir():
            return []
        found = [self._about(entry.name) for entry in self.root.iterdir()]
        return sorted((one for one in found if one), key=lambda one: -one.opened)

    def open(self, folder: Path) -> Curation:
        """The scanned folder, or a new one. Raises OSError.

        Args:
            folder: resolved.
        """
        text = str(folder).encode("utf-8", "surrogateescape")
        curation_id = hashlib.blake2b(text, digest_size=10).hexdigest()
        place = self.root / curation_id
        place.mkdir(parents=True, exist_ok=True)
        about = {"v": 1, "folder": str(folder), "opened": time.time_ns() // 1_000_000}
        with whole_file(place / ABOUT) as file:
            file.write(json.dumps(about).encode())
        return self._opened(curation_id, folder)

    def curation(self, curation_id: str) -> Curation | None:
        """One that was opened before, also by an earlier process; None if there is none."""
        with self._lock:
            if curation_id in self._open:
                return self._open[curation_id]
        known = self._about(curation_id)
        return None if known is None else self._opened(known.id, known.folder)

    def _opened(self, curation_id: str, folder: Path) -> Curation:
        with self._lock:
            if curation_id not in self._open:
                place = self.root / curation_id
                self._open[curation_id] = Curation(place, folder, self._without)
            return self._open[curation_id]

    def _about(self, curation_id: str) -> Known | None:
        if not CURATION_ID.fullmatch(curation_id):
            return None
        try:
            with open(self.root / curation_id / ABOUT, "rb") as file:
                about = json.loads(file.read(_MAX_ABOUT_BYTES))
            folder, opened = about["folder"], about["opened"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        if not isinstance(folder, str) or type(opened) is not int:
            return None
        return Known(curation_id, Path(folder), opened)


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
