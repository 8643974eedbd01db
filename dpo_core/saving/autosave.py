"""Checkpoints while training runs, so that a crash or a power cut costs little."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..run import StepReport
from .run_folder import RunFolder

TIME_SHARE = 0.015
"""Of the time of training that writing may take."""
SECONDS = 300.0
"""After which a checkpoint is taken, however few steps there were."""
KEPT = 2
"""While training runs. The one before the last is there in case the last is damaged."""


class Autosave:
    """Writes a checkpoint every so many steps, and removes those it wrote before the last two.

    What is written where a training ends or is stopped is not its business, and stays.

    Args:
        run: where to.
        every: steps from one to the next; less where steps are slow, more where writing is slow
            beside training.
        poll: is called while it writes; what it raises breaks the writing off.
        expected: seconds that writing takes, as long as it has not been measured.
        now: a clock, in seconds; it never goes back.
    """

    def __init__(
        self,
        run: RunFolder,
        every: int,
        poll: Callable[[], None] = lambda: None,
        expected: float = 0.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._every, self._poll, self._now = run, every, poll, now
        self._step: int | None = None
        self._ended, self._cost = now(), expected

    def offer(self, report: StepReport) -> bool:
        """Takes this step's checkpoint if it is time; True if it did.

        Raises:
            OSError: no room. It is tried again when the next one is due.
        """
        first = report.step - 1 if self._step is None else self._step
        self._step = first
        began = self._now()
        soon = report.step - first < self._every and began - self._ended < SECONDS
        if soon or began - self._ended < self._cost / TIME_SHARE:
            return False
        self._step = report.step
        try:
            self._run.save_checkpoint(report.state(), self._poll, autosave=True)
        finally:
            self._ended = self._now()
            self._cost = self._ended - began
        self._run.remove_autosaves(report.step, but=KEPT)
        return True
