"""A change made in a review, and what keeps one from being made."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("remove", "flip", "prompt", "drop", "mend")


class EditError(ValueError):
    """A change that cannot be made. The message says why, and what to do."""


@dataclass(frozen=True)
class Edit:
    """A change that counts.

    Attributes:
        id: under which it can be taken back.
        kind: of KINDS.
        place: the set of a session, or the pair's name in a folder.
        what: the new prompt, or the file that was dropped or renamed.
        at: Unix time in ms.
    """

    id: str
    kind: str
    place: str
    what: str
    at: int
