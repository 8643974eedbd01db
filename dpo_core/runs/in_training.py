"""The runs that this process is training at the moment."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class RunsInTraining:
    """Ids of runs, entered and left by whoever trains them; safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: Counter[str] = Counter()

    def ids(self) -> frozenset[str]:
        """The runs in training now."""
        with self._lock:
            return frozenset(self._ids)

    @contextmanager
    def entered(self, run: str) -> Iterator[None]:
        """The time during which a run is trained."""
        with self._lock:
            self._ids[run] += 1
        try:
            yield
        finally:
            with self._lock:
                self._ids[run] -= 1
                self._ids += Counter()  # drops what is at zero

    @contextmanager
    def held(self) -> Iterator[frozenset[str]]:
        """A moment in which no training begins; gives the runs in training. Keep it short."""
        with self._lock:
            yield frozenset(self._ids)
