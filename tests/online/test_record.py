"""Rounds on disk: what a restart finds, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dpo_core.online.record import (
    EVENTS,
    METRICS,
    RECORD,
    DamagedRecord,
    OnlineRecord,
    Stand,
    stalled,
)

CONTENT = {"session": "taste", "base": "a model"}


def played(root: Path) -> OnlineRecord:
    record = OnlineRecord(root, CONTENT)
    record.open()
    one = record.begin(("a cat", "a dog"), None)
    record.change(one.number, sets=("1" * 32,))
    record.change(one.number, sets=("1" * 32, "2" * 32), training="run", end=Stand("run", 50))
    record.close(one.number, {"objective/scores": 0.5, "beta": float("nan")}, "a note")
    return record


def test_another_process_finds_the_rounds_as_they_were(tmp_path: Path) -> None:
    record = played(tmp_path)
    second = record.begin(("a \u732b",), Stand("run", 50))
    found = OnlineRecord(tmp_path, CONTENT)
    assert found.rounds[1] == second and found.current == second
    (first,) = found.closed
    assert (first.prompts, first.sets) == (("a cat", "a dog"), ("1" * 32, "2" * 32))
    assert first.end == Stand("run", 50) and first.note == "a note" and first.is_drawn
    assert found.trained == (first,) and not second.is_drawn
    row = json.loads((found.path / METRICS).read_text())
    assert row == {"step": 1, "objective/scores": 0.5}


def test_what_another_process_has_written_meanwhile_is_read_again(tmp_path: Path) -> None:
    early = OnlineRecord(tmp_path, CONTENT)
    played(tmp_path)
    assert early.rounds == ()
    early.read()
    assert len(early.closed) == 1 and early.drawn_before(2) == 2


def test_tensorboard_reads_a_point_for_each_round(tmp_path: Path) -> None:
    record = played(tmp_path)
    record.close(record.begin(("a cat",), None).number, {"objective/scores": 0.75})
    events = EventAccumulator(str(record.path / EVENTS))
    events.Reload()
    points = [(one.step, one.value) for one in events.Scalars("objective/scores")]
    assert points == [(1, 0.5), (2, 0.75)]


def test_another_content_has_other_rounds(tmp_path: Path) -> None:
    played(tmp_path)
    assert OnlineRecord(tmp_path, CONTENT | {"session": "another"}).rounds == ()


def test_a_round_that_cannot_be_written_is_not_taken_as_written(tmp_path: Path) -> None:
    record = played(tmp_path)
    (record.path / RECORD).unlink()
    (record.path / RECORD).mkdir()  # in the way of the file
    with pytest.raises(OSError):
        record.begin(("a cat",), None)
    assert len(record.rounds) == 1


@pytest.mark.parametrize(
    "text", ["", "{", '{"rounds": [{"number": 1}]}', '{"rounds": {}}x', '{"rounds": 3}']
)
def test_rounds_that_cannot_be_read_are_not_begun_anew(tmp_path: Path, text: str) -> None:
    record = played(tmp_path)
    (record.path / RECORD).write_text(text)
    with pytest.raises(DamagedRecord, match="another session"):
        OnlineRecord(tmp_path, CONTENT)
    assert (record.path / RECORD).read_text() == text


def test_rounds_out_of_order_are_refused(tmp_path: Path) -> None:
    record = played(tmp_path)
    record.begin(("a cat",), None)
    content = json.loads((record.path / RECORD).read_text())
    content["rounds"].reverse()
    (record.path / RECORD).write_text(json.dumps(content))
    with pytest.raises(DamagedRecord, match="not in order"):
        OnlineRecord(tmp_path, CONTENT)


@pytest.mark.parametrize(
    ("scores", "patience", "stops"),
    [
        ([0.1, 0.2, 0.3], 1, False),
        ([0.1, 0.3, 0.3], 1, True),  # as good is no better
        ([0.1, 0.3, 0.2], 2, False),
        ([0.3, 0.2, 0.1], 2, True),
        ([0.3, 0.2, 0.4], 2, False),
        ([0.3], 1, False),
        ([0.3, 0.1], 2, False),
        ([0.3, 0.1, 0.1, 0.1], 0, False),
    ],
)
def test_rounds_stop_when_the_last_ones_brought_nothing_better(
    scores: list[float], patience: int, stops: bool
) -> None:
    assert stalled(scores, patience) is stops
