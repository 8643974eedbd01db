"""Metrics as TensorBoard reads them, where the package ``tensorboard`` is installed."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any


class EventLog:
    """Event files in a folder; does nothing without TensorBoard.

    Args:
        folder: where they go.
        after: the last step that counts: what an earlier process wrote beyond it is taken back.
    """

    def __init__(self, folder: Path, after: int) -> None:
        self._writer: Any = None
        if find_spec("tensorboard") is not None:
            # Nothing that is wrong with it may cost a training.
            with self._quietly():
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(folder), purge_step=after + 1)

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """One point of every curve."""
        if self._writer is None:
            return
        with self._quietly():
            for name, value in metrics.items():
                if math.isfinite(value):
                    self._writer.add_scalar(name, value, step)

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            logging.warning("TensorBoard's files are not written any more.", exc_info=True)
            self._writer = None

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            with self._quietly():
                self._writer.close()
