"""Which picture of each couple is whose, kept apart from the votes until it is revealed.

`<session>/blind.jsonl` is append-only and durable like `votes.jsonl`, and no answer to a page that
ranks is made of it. Records besides :func:`couple.couple_record`:

| kind | fields |
|---|---|
| reveal | `comparison`, `outcomes`: {set: {`result`: a, b, tie; `by`: a judge's name, or ""}} |

What a reveal says of a set stays: whoever votes afterwards is not blind any more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..ranking.vote_log import VoteLog
from .couple import Couple, Sides, couple_record, read_couple
from .outcome import RESULTS, Outcome

KEY_NAME = "blind.jsonl"


@dataclass
class KeyEntry:
    """One comparison of a session.

    Attributes:
        sides: what is compared.
        couples: in the order they came.
        revealed: what was said of each set when it was revealed.
    """

    sides: Sides
    couples: list[Couple] = field(default_factory=list)
    revealed: dict[str, Outcome] = field(default_factory=dict)


class AnswerKey:
    """The answer key of a session; any number of them may be open on one folder.

    Args:
        folder: of the session.
    """

    def __init__(self, folder: Path) -> None:
        self._log = VoteLog(folder / KEY_NAME)

    def entry(self, comparison: str) -> KeyEntry | None:
        """A comparison by its id; None if there is none. Damaged lines are passed over."""
        found: KeyEntry | None = None
        for record in self._log.read().records:
            if record.get("comparison") != comparison:
                continue
            if record.get("kind") == "couple" and (one := read_couple(record)):
                found = found or KeyEntry(one[0])
                found.couples.append(one[1])
            elif record.get("kind") == "reveal" and found is not None:
                for set_id, outcome in _outcomes(record).items():
                    found.revealed.setdefault(set_id, outcome)
        return found

    def add(self, sides: Sides, couple: Couple) -> Couple:
        """Stores a couple, durably; the one there is, if its set is known already.

        Raises:
            LogLockedError, OSError: it could not be written.
        """
        stored, _ = self._log.append(couple_record(sides, couple))
        known = read_couple(stored)
        return couple if known is None else known[1]

    def reveal(self, comparison: str, outcomes: Mapping[str, Outcome]) -> None:
        """Stores what was said of sets, durably, before anybody is told. Raises as `add` does."""
        said = {set_id: one._asdict() for set_id, one in sorted(outcomes.items())}
        digest = hashlib.blake2b(json.dumps(said).encode(), digest_size=16).hexdigest()
        self._log.append(
            {
                "v": 1,
                "id": f"reveal:{comparison}:{digest}",
                "kind": "reveal",
                "comparison": comparison,
                "outcomes": said,
            }
        )

    def fingerprint(self) -> str:
        """Changes with every reveal, and not with couples: those are no news to who brings them."""
        hasher = hashlib.blake2b(digest_size=16)
        for record in self._log.read().records:
            if record.get("kind") == "reveal":
                hasher.update(str(record["id"]).encode("utf-8", "replace"))
        return hasher.hexdigest()


def _outcomes(record: Mapping[str, Any]) -> dict[str, Outcome]:
    said = record.get("outcomes")
    if not isinstance(said, dict):
        return {}
    return {
        set_id: Outcome(one["result"], str(one.get("by", "")))
        for set_id, one in said.items()
        if isinstance(one, dict) and one.get("result") in RESULTS
    }
