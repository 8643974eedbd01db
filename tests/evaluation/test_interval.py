from __future__ import annotations

import pytest

from dpo_core.evaluation.interval import wilson


def test_wilson_by_hand() -> None:
    # 8 of 10 with z = 2: p = .8, z^2/n = .4; centre (.8 + .2) / 1.4; half-width
    # 2 / 1.4 * sqrt(.16 / 10 + .4 / 40) = 1.428571 * sqrt(.026)
    share = wilson(8, 10, z=2.0)
    assert share.value == 0.8
    assert (share.low + share.high) / 2 == pytest.approx(1.0 / 1.4)
    assert (share.high - share.low) / 2 == pytest.approx(2 / 1.4 * 0.026**0.5)


def test_one_trial_says_almost_nothing() -> None:
    share = wilson(1, 1)
    assert share.high == 1.0 and share.low < 0.25


def test_the_interval_stays_between_nothing_and_all() -> None:
    assert wilson(0, 20).low == 0.0 and wilson(20, 20).high == 1.0
    assert wilson(0, 20).high > 0.1


def test_ties_count_one_half() -> None:
    assert wilson(2.5, 5).value == 0.5
    assert str(wilson(2.5, 5)).startswith("50 % (")
