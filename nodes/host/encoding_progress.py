"""What the person sees while pairs are encoded: the host's progress bar and a line on the node."""

from __future__ import annotations

import time

import comfy.model_management
import comfy.utils

from .progress import say

SECONDS = 0.25
"""Between two lines on the node."""


class EncodingProgress:
    """Counts what is encoded and what was known, and obeys Stop.

    Args:
        node_id: the node's execution id; None shows no line.
    """

    def __init__(self, node_id: str | None = None) -> None:
        self._bar = comfy.utils.ProgressBar(0, node_id=node_id)
        self._node = node_id
        self._said = 0.0
        self._noun, self._total, self._made, self._known = "", 0, 0, 0
        self._notes: list[str] = []
        self._finished: list[str] = []

    def expect(self, total: int) -> None:
        """So many prompts and pictures come at most."""
        self._bar.total = total

    def begin(self, noun: str, total: int) -> None:
        """Now so many of these come: "prompts", "pictures"."""
        self._end_part()
        self._noun, self._total, self._made, self._known = noun, total, 0, 0

    def one(self, known: bool) -> None:
        """One more is encoded, or was known. Raises what the host stops nodes with."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._made += not known
        self._known += known
        self._bar.update(1)
        if time.monotonic() - self._said > SECONDS:
            self._said = time.monotonic()
            self._show([*self._finished, self._line()])

    def note(self, text: str) -> None:
        """Something the person should know; is said at the end as well."""
        self._notes.append(text)

    def end(self) -> None:
        """Says what was done, on the node and in the console."""
        self._end_part()
        if self._bar.total:
            self._bar.update_absolute(self._bar.total)
        self._show([*self._finished, *self._notes], log=True)

    def _end_part(self) -> None:
        if self._total:
            self._finished.append(self._line())
        self._total = 0

    def _line(self) -> str:
        line = f"encoded {self._made:,} of {self._total:,} {self._noun}"
        return f"{line}, {self._known:,} known already" if self._known else line

    def _show(self, lines: list[str], log: bool = False) -> None:
        if lines:
            say("\n".join(lines), self._node, log)
