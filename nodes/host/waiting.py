"""Nodes that hold the queue until a person has chosen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

TICK_SECONDS = 0.1
NOBODY_SECONDS = 120.0
"""Without any page for so long a node goes on by itself: longer than a reload takes."""


@dataclass(frozen=True)
class Waiting:
    """A paused node: its execution id, the prompt it runs in, what it shows, and to whom."""

    node: str
    prompt_id: str
    session: str
    set_id: str
    user: str
    released: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)


class WaitingRoom:
    """All paused nodes, by prompt and node. Safe to use from any thread."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, str], Waiting] = {}
        self._seen = now()

    def waiting(self, user: str) -> list[Waiting]:
        """Those that wait now for a user, the longest first."""
        with self._lock:
            return [one for one in self._waiting.values() if one.user == user]

    def seen(self) -> None:
        """A page has shown that it is there."""
        self._seen = self._now()

    def release(self, prompt_id: str, node: str, user: str) -> bool:
        """Lets a node go on; False if it does not wait for this user."""
        with self._lock:
            found = self._waiting.get((prompt_id, node))
        if found is None or found.user != user:
            return False
        found.released.set()
        return True

    def wait(
        self, one: Waiting, check_stop: Callable[[], None], page_is_open: Callable[[], bool]
    ) -> bool:
        """Waits until the node is released, or nobody has been there for NOBODY_SECONDS.

        Args:
            check_stop: is called at every tick; what it raises ends the waiting.
            page_is_open: whether any page is connected.

        Returns:
            True if it was released.
        """
        with self._lock:
            self._waiting[one.prompt_id, one.node] = one
        self.seen()
        try:
            while not one.released.wait(TICK_SECONDS):
                check_stop()
                if page_is_open():
                    self.seen()
                elif self._now() - self._seen > NOBODY_SECONDS:
                    return False
            return True
        finally:
            with self._lock:
                del self._waiting[one.prompt_id, one.node]


WAITING_ROOM = WaitingRoom()
