"""What is on disk of rounds of online training, so that they go on after a Stop or a restart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from ..saving.atomic import write_atomically
from ..saving.event_log import EventLog
from ..saving.metrics_log import MetricsLog
from ..saving.run_folder import run_id

RECORD, METRICS, SETTINGS = "rounds.json", "metrics.jsonl", "settings.json"
EVENTS = "events"
VERSION = 1


class DamagedRecord(ValueError):
    """The file of the rounds is not what was written."""


class Stand(NamedTuple):
    """A place in training: the id of a run, and a step of it."""

    run: str
    step: int


@dataclass(frozen=True)
class OnlineRound:
    """One round: pictures of the policy as it then was, and what was learned from them.

    Attributes:
        number: from 1.
        start: of the policy that drew the pictures; None if that was the trainer as it came.
        prompts: each of which gets a set of pictures.
        sets: ids of those drawn so far, in the order of the prompts.
        training: id of the run begun on them; empty before.
        end: of the policy after training; None if nothing was trained.
        closed: nothing more is done in this round.
        metrics: of the closed round, by name.
        note: what was out of the ordinary, for people.
        judge: who judged its pictures; empty if people did.
        learned: what of its own was trained on, in words.
    """

    number: int
    start: Stand | None
    prompts: tuple[str, ...]
    sets: tuple[str, ...] = ()
    training: str = ""
    end: Stand | None = None
    closed: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    judge: str = ""
    learned: str = ""

    @property
    def is_drawn(self) -> bool:
        """Whether every prompt has its pictures."""
        return len(self.sets) == len(self.prompts)


class OnlineRecord:
    """``<root>/<id>/``: the rounds of one trainer, found again by what decides them.

    ``rounds.json`` holds the rounds, ``metrics.jsonl`` a line for each that is closed, its number
    as ``step``, and so do ``events/`` where TensorBoard is installed; ``settings.json`` says what
    they are the rounds of.

    Args:
        root: folder of all records.
        content: what the rounds are found again by.

    Raises:
        DamagedRecord: there are rounds, but they cannot be read.
    """

    def __init__(self, root: Path, content: Mapping[str, Any]) -> None:
        self.id = run_id(content)
        self.path = root / self.id
        self._content = dict(content)
        self._rounds = self._read()

    @property
    def rounds(self) -> tuple[OnlineRound, ...]:
        """In their order; at most the last is not closed."""
        return self._rounds

    @property
    def closed(self) -> tuple[OnlineRound, ...]:
        return tuple(one for one in self._rounds if one.closed)

    @property
    def current(self) -> OnlineRound | None:
        """The round that is not closed yet, if one was begun."""
        return self._rounds[-1] if self._rounds and not self._rounds[-1].closed else None

    @property
    def trained(self) -> tuple[OnlineRound, ...]:
        """The rounds that changed the policy."""
        return tuple(one for one in self._rounds if one.end is not None)

    def drawn_before(self, number: int) -> int:
        """How many prompts the rounds before have, whose pictures have seeds of their own."""
        return sum(len(one.prompts) for one in self._rounds[: number - 1])

    def read(self) -> None:
        """Reads again what another may have written meanwhile. Raises DamagedRecord."""
        self._rounds = self._read()

    def open(self) -> None:
        """Makes the folder. Raises OSError."""
        settings = self.path / SETTINGS
        if not settings.exists():
            text = json.dumps(self._content, indent=2, sort_keys=True, default=str) + "\n"
            write_atomically(settings, lambda part: _write(part, text))

    def begin(self, prompts: tuple[str, ...], start: Stand | None) -> OnlineRound:
        """The next round, its pictures yet to be drawn. Raises OSError."""
        made = OnlineRound(len(self._rounds) + 1, start, prompts)
        self._write((*self._rounds, made))
        return made

    def change(self, number: int, **changes: Any) -> OnlineRound:
        """The round of a number with some attributes changed, written down. Raises OSError."""
        rounds = list(self._rounds)
        rounds[number - 1] = replace(rounds[number - 1], **changes)
        self._write(tuple(rounds))
        return rounds[number - 1]

    def close(self, number: int, metrics: Mapping[str, float], note: str = "") -> OnlineRound:
        """Ends a round. Raises OSError."""
        MetricsLog(self.path / METRICS).append(number, metrics)
        with EventLog(self.path / EVENTS, number - 1) as events:
            events.add(number, metrics)
        return self.change(number, closed=True, metrics=dict(metrics), note=note)

    def _write(self, rounds: tuple[OnlineRound, ...]) -> None:
        content = {"version": VERSION, "rounds": [asdict(one) for one in rounds]}
        text = json.dumps(content, indent=1) + "\n"
        write_atomically(self.path / RECORD, lambda part: _write(part, text))
        self._rounds = rounds

    def _read(self) -> tuple[OnlineRound, ...]:
        path = self.path / RECORD
        if not path.exists():
            return ()
        try:
            rounds = tuple(map(_round, json.loads(path.read_bytes())["rounds"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedRecord(
                f"What is noted of the rounds so far cannot be read ({path}: {error}). Put the "
                "file back, or begin anew with another session."
            ) from error
        if [one.number for one in rounds] != list(range(1, len(rounds) + 1)):
            raise DamagedRecord(f"The rounds in {path} are not in order. Use another session.")
        return rounds


def stalled(scores: list[float], patience: int) -> bool:
    """Whether the last ``patience`` scores brought nothing better than what was before them.

    Args:
        scores: one for each round, the first for before all rounds; larger is better.
        patience: 0 never stops.
    """
    if patience < 1 or len(scores) <= patience:
        return False
    return max(scores[-patience:]) <= max(scores[:-patience])


def _round(said: Mapping[str, Any]) -> OnlineRound:
    fields = dict(said)
    for name in ("start", "end"):
        fields[name] = None if fields[name] is None else Stand(*fields[name])
    for name in ("prompts", "sets"):
        fields[name] = tuple(fields[name])
    return OnlineRound(**fields)


def _write(part: Path, text: str) -> None:
    part.write_bytes(text.encode("utf-8"))
