"""Metrics for the page while training runs: a few times a second, whatever the step takes."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from comfy.model_management import InterruptProcessingException

from ...dpo_core.evaluation.diagnostics import Finding
from ...dpo_core.evaluation.pace import Pace
from ...dpo_core.run import StepReport

SECONDS = 0.2
"""Between two messages, at least."""
EVENT = "dpo.metrics"


class LiveMetrics:
    """Hears of every report and sends the rows on in batches; a context that ends with the last.

    Sending happens at once where the last message is long enough ago, and else in a timer's
    thread, so that training never waits and no row stays behind during a long step.

    Args:
        send: takes an event's name and data; may be called from any thread.
        place: where it trains: node, prompt_id, workflow.
        run: id of the run.
        step: done before.
        target: step that training goes to.
        now: a clock, in seconds; it never goes back.
    """

    def __init__(
        self,
        send: Callable[[str, dict[str, Any]], object],
        place: Mapping[str, str],
        run: str,
        step: int,
        target: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send, self._place, self._now = send, dict(place), now
        self._lock = threading.Lock()
        self._rows: list[dict[str, float]] = []
        self._first = 0
        self._sent_at = -math.inf
        self._timer: threading.Timer | None = None
        self._pace = Pace(now)
        self._run, self._step, self._target = run, step, target
        self._warnings: list[dict[str, Any]] = []
        self._broken = False

    def __call__(self, report: StepReport) -> None:
        """Takes a step's metrics."""
        row: dict[str, float] = {"step": report.step}
        row |= {name: value for name, value in report.metrics.items() if math.isfinite(value)}
        with self._lock:
            self._pace.take("dpo/val_loss" in row)
            self._rows.append(row)
            self._step = report.step
            wait = self._sent_at + SECONDS - self._now()
            if wait <= 0:
                self._flush()
            elif self._timer is None:
                self._timer = threading.Timer(wait, self._late)
                self._timer.daemon = True
                self._timer.start()

    def warn(self, finding: Finding) -> None:
        """Takes a warning: it stands in every message from now on."""
        with self._lock:
            self._warnings.append(warning(finding))

    def now(self) -> dict[str, Any]:
        """Where training stands, without rows."""
        with self._lock:
            return self._state()

    def _state(self) -> dict[str, Any]:
        return {
            **self._place,
            "run": self._run,
            "step": self._step,
            "target": self._target,
            "seconds_per_step": self._pace.seconds_per_step,
            "seconds_left": self._pace.seconds_left(self._target - self._step),
            "warnings": list(self._warnings),
        }

    def _late(self) -> None:
        with self._lock:
            self._timer = None
            if self._rows:
                self._flush()

    def _flush(self, ended: str = "") -> None:
        """Sends what is there. What goes wrong here must not cost a training."""
        rows, self._rows = self._rows, []
        first, self._first = self._first, self._first + len(rows)
        self._sent_at = self._now()
        if self._broken:
            return
        message = {"first": first, "rows": rows, "done": bool(ended), "ended": ended}
        try:
            self._send(EVENT, self._state() | message)
        except Exception:
            logging.warning("DPO: the page is not told of this training any more.", exc_info=True)
            self._broken = True

    def __enter__(self) -> LiveMetrics:
        TRAINING.add(self)
        # Before the first step, which may take long: the page shows that something happens.
        with self._lock:
            self._flush()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        TRAINING.discard(self)
        stopped = kind is not None and issubclass(kind, InterruptProcessingException)
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._flush("finished" if kind is None else "stopped" if stopped else "failed")


TRAINING: set[LiveMetrics] = set()
"""What trains now. The host runs one prompt at a time."""


def warning(finding: Finding) -> dict[str, Any]:
    """A finding as the page takes it."""
    return {"step": finding.step, "text": finding.text, "serious": finding.serious}


def training_now() -> list[Mapping[str, Any]]:
    """Where every training that runs stands."""
    return [one.now() for one in list(TRAINING)]
