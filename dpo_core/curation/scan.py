"""A folder is read beside what else goes on: headers and metadata of its images, newest first."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from ..pairs.listing import ListedFile, list_folder
from ..pairs.problem import PairError, PairProblem, describe_problems
from .found_image import FoundImage, content_digest, look_at
from .index import Index

BATCH = 64
"""So many images are written to the index at once; a killed process reads them again."""
BATCH_SECONDS = 0.5
REST = 0.5
"""After each image the scan rests for this part of the time it computed. Its thread has the common
priority: with a lower one it could keep the interpreter's lock while others wait for it."""
SETTLED_AFTER = 40
"""A group that so many images in a row did not belong to is hardly going to grow."""


@dataclass(frozen=True)
class ScanStatus:
    """How far a scan has come.

    Attributes:
        state: "new", "listing", "reading", "done", "stopped" or "failed".
        listed: images in the folder, 0 until it is listed.
        read: those known by now.
        from_index: those that were known from before.
        problems: of the folder itself, such as links that lead out of it.
        error: why it failed; else why the index could not be saved.
        seconds: for how long it has been at it, or was.
    """

    state: str = "new"
    listed: int = 0
    read: int = 0
    from_index: int = 0
    problems: tuple[PairProblem, ...] = ()
    error: str = ""
    seconds: float = 0.0

    @property
    def is_running(self) -> bool:
        return self.state in ("listing", "reading")


@dataclass(frozen=True)
class Findings:
    """What is known of a folder at one moment.

    Attributes:
        revision: another number means other images.
        images: by their id, in the order they were read.
    """

    revision: int = 0
    images: Mapping[str, FoundImage] = field(default_factory=lambda: MappingProxyType({}))


class Scan:
    """Reads one folder, in a thread of its own.

    Args:
        folder: resolved.
        index: of this folder.
        without: folders below it that are not read, resolved.
    """

    def __init__(self, folder: Path, index: Index, without: Collection[Path] = ()) -> None:
        self.folder = folder
        self._index, self._without = index, without
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._status = ScanStatus()
        self._began = 0.0
        self._images: dict[str, FoundImage] = {}
        self._revision = 0
        self._findings = Findings()
        self._known: dict[str, FoundImage] | None = None
        self._first_of_hint: dict[str, str] = {}
        self._unsaved: list[FoundImage] = []

    def start(self) -> None:
        """Begins, or looks again at what has changed; does nothing while it is at it."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive() and not self._stop.is_set():
                return
            before, self._thread = self._thread, None
        if before is not None:
            before.join()
        with self._lock:
            if self._thread is None:
                self._stop.clear()
                self._began = time.monotonic()
                self._status = ScanStatus("listing")
                self._thread = threading.Thread(target=self._run, name="dpo-scan", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Ends it after the image it is at, with all it has read saved; waits for that."""
        self._stop.set()
        thread = self._thread
        if thread is not None:
            thread.join()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the end; True if it has come."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def status(self) -> ScanStatus:
        with self._lock:
            if self._status.is_running:
                return replace(self._status, seconds=time.monotonic() - self._began)
            return self._status

    def findings(self) -> Findings:
        """All images known by now, those with problems among them."""
        with self._lock:
            if self._findings.revision != self._revision:
                self._findings = Findings(self._revision, MappingProxyType(dict(self._images)))
            return self._findings

    def image(self, image_id: str) -> FoundImage | None:
        with self._lock:
            return self._images.get(image_id)

    def _run(self) -> None:
        try:
            finished = self._read_folder()
            self._save()
            if finished:
                self._tidy()
            self._end("done" if finished else "stopped")
        except PairError as error:
            self._end("failed", " ".join(describe_problems(error.problems)))
        except Exception as error:
            logging.exception("DPO: the scan of a folder broke off")
            self._end("failed", f"The scan broke off ({error}). What it has read is kept.")

    def _end(self, state: str, error: str = "") -> None:
        with self._lock:
            seconds = time.monotonic() - self._began
            self._status = replace(
                self._status, state=state, error=error or self._status.error, seconds=seconds
            )

    def _read_folder(self) -> bool:
        if self._known is None:
            self._known = self._index.load()
        listing = list_folder(self.folder, self._without)
        captions = {file.bare: file for file in listing.captions}
        files = sorted(listing.images, key=lambda file: -file.mtime_ns)
        unread = self._take_known(files, captions)
        problems = tuple(listing.problems)
        with self._lock:
            known = len(self._images)
            self._status = replace(
                self._status, state="reading", listed=len(files), read=known, from_index=known,
                problems=problems,
            )  # fmt: skip
        saved = time.monotonic()
        for file in unread:
            began = time.thread_time()
            if self._stop.is_set():
                return False
            self._take(look_at(file, captions.get(file.bare)))
            if len(self._unsaved) >= BATCH or time.monotonic() - saved > BATCH_SECONDS:
                self._save()
                saved = time.monotonic()
            time.sleep((time.thread_time() - began) * REST)
        return True

    def _take_known(
        self, files: list[ListedFile], captions: Mapping[str, ListedFile]
    ) -> list[ListedFile]:
        """Takes over what has not changed; the files that have."""
        known, unread = self._known or {}, []
        images: dict[str, FoundImage] = {}
        for file in files:
            image = known.get(file.name)
            if image is not None and image.is_of(file, captions.get(file.bare)):
                images[image.id] = image
            else:
                unread.append(file)
        with self._lock:
            self._known = {image.name: image for image in images.values()}
            self._first_of_hint = {}
            for image in images.values():
                if image.hint:
                    self._first_of_hint.setdefault(image.hint, image.id)
            if images.keys() != self._images.keys():
                self._revision += 1
            self._images = images
        return unread

    def _take(self, image: FoundImage) -> None:
        twin = self._images.get(self._first_of_hint.get(image.hint, ""))
        if image.hint and twin is not None and twin.id != image.id:
            image = replace(image, digest=content_digest(self.folder, image))
            if not twin.digest:
                twin = replace(twin, digest=content_digest(self.folder, twin))
                self._put(twin)
        self._put(image)
        with self._lock:
            self._status = replace(self._status, read=self._status.read + 1)

    def _put(self, image: FoundImage) -> None:
        with self._lock:
            if image.hint:
                self._first_of_hint.setdefault(image.hint, image.id)
            self._images[image.id] = image
            if self._known is not None:
                self._known[image.name] = image
            self._revision += 1
        self._unsaved.append(image)

    def _save(self) -> None:
        unsaved, self._unsaved = self._unsaved, []
        try:
            self._index.add(unsaved)
        except OSError as error:
            with self._lock:
                reason = f"What was read could not be saved ({error.strerror}); it will be read "
                self._status = replace(self._status, error=f"{reason}again after a restart.")

    def _tidy(self) -> None:
        try:
            self._index.tidy(self.findings().images.values())
        except OSError:
            return  # it is as it was
