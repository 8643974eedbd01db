"""How fast training goes, by a clock that the test moves."""

from __future__ import annotations

import pytest

from dpo_core.evaluation.pace import Pace


class _Clock:
    time = 100.0

    def __call__(self) -> float:
        return self.time


def _timed(pace: Pace, clock: _Clock, seconds: float, validated: bool = False) -> None:
    clock.time += seconds
    pace.take(validated)


def test_nothing_is_known_before_the_first_report_and_little_after_it() -> None:
    clock = _Clock()
    pace = Pace(clock)
    assert pace.seconds_per_step is None and pace.seconds_left(10) is None
    _timed(pace, clock, 8)  # loads the model as well
    assert pace.seconds_left(10) == 80
    _timed(pace, clock, 1)
    assert pace.seconds_per_step == 1 and pace.seconds_left(10) == 10
    clock.time += 0.5  # half a step later
    assert pace.seconds_left(10) == 9.5
    clock.time += 100
    assert pace.seconds_left(10) == 0


def test_a_hiccup_does_not_count() -> None:
    clock = _Clock()
    pace = Pace(clock)
    for seconds in (5, 2, 2, 300, 2, 2):
        _timed(pace, clock, seconds)
    assert pace.seconds_per_step == 2


def test_it_follows_a_training_that_becomes_slower() -> None:
    clock = _Clock()
    pace = Pace(clock)
    for seconds in [1] * 50 + [3] * 16:
        _timed(pace, clock, seconds)
    assert pace.seconds_per_step == 3


def test_validations_to_come_are_part_of_the_time_left() -> None:
    clock = _Clock()
    pace = Pace(clock)
    _timed(pace, clock, 1)
    for number in range(1, 41):  # every tenth step takes nine seconds more
        _timed(pace, clock, 10 if number % 10 == 0 else 1, number % 10 == 0)
    assert pace.seconds_per_step == 1
    assert pace.seconds_left(100) == pytest.approx(90 * 1 + 10 * 10)
