"""Checkpoints while training runs, so that a crash or a power cut costs little."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..run import StepReport
from .run_folder import RunFolder

TIME_SHARE = 0.02
"""Of the time of training that writing may take."""


class Autosave:
    """Writes a checkpoint every so many steps, and removes the one it wrote before.

    What is written where a training ends or is stopped is not its business, and stays.

    Args:
        run: where to.
        every: steps from one to the next; more, where writing is slow beside training.
        now: a clock, in seconds; it never goes back.
    """

    def __init__(
        self, run: RunFolder, every: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._run, self._every, self._now = run, every, now
        self._step: int | None = None
        self._written: int | None = None
        self._ended, self._cost = now(), 0.0

    def offer(self, report: StepReport) -> bool:
        """Takes this step's checkpoint if it is time; True if it did.

        Raises:
            OSError: no room.
        """
        first = report.step - 1 if self._step is None else self._step
        self._step = first
        began = self._now()
        soon = report.step - first < self._every
        if soon or began - self._ended < self._cost / TIME_SHARE:
            return False
        self._run.save_checkpoint(report.state())
        self.clear(but=report.step)
        self._written = report.step
        self._step, self._ended = report.step, self._now()
        self._cost = self._ended - began
        return True

    def clear(self, but: int) -> None:
        """Removes what it wrote, unless at step ``but``: a better one is there."""
        if self._written is not None and self._written != but:
            self._run.remove_checkpoint(self._written)
        self._written = None
