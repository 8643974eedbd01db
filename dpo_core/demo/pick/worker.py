"""Work that takes a while, one piece at a time, while the page goes on answering."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any


class Stopped(Exception):
    """The work was asked to end; what it made so far is on the disk."""


class Worker:
    """A thread that does one thing at a time and can say how far it is.

    Attributes:
        problem: why the last work failed, in a sentence; empty if it did not.
    """

    def __init__(self) -> None:
        self.problem = ""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._at: tuple[str, int, int] | None = None

    @property
    def busy(self) -> bool:
        return self._at is not None

    def state(self) -> dict[str, Any] | None:
        """The stage, how much of it is done and how much there is; None while nothing is done."""
        at = self._at
        return None if at is None else {"stage": at[0], "done": at[1], "total": at[2]}

    def start(self, work: Callable[[], None], stage: str) -> bool:
        """Begins; False if something else is being done."""
        with self._lock:
            if self.busy or self.stopped():
                return False
            self.problem, self._at = "", (stage, 0, 0)
            self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
            self._thread.start()
        return True

    def progress(self, stage: str, done: int, total: int) -> None:
        """For the work to call. Raises Stopped where it should end."""
        self._at = (stage, done, total)
        if self.stopped():
            raise Stopped

    def stopped(self) -> bool:
        return self._stop.is_set()

    def stop(self, patience: float) -> None:
        """Asks the work to end, waits so many seconds for it, and takes no other."""
        self._stop.set()
        thread = self._thread
        if thread is not None:
            thread.join(patience)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Stopped:
            pass
        except OSError as error:
            self.problem = f"This could not be saved ({error.strerror or error}). Make room on the "
            self.problem += "disk, then try again; what was chosen is kept."
        except (ValueError, RuntimeError) as error:
            self.problem = str(error)
        except Exception as error:
            self.problem = f"Something went wrong ({error}); what was chosen is kept."
            traceback.print_exc(file=sys.stderr)
        finally:
            self._at = None
