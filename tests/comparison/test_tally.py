from __future__ import annotations

import pytest

from dpo_core.comparison.couple import Side, Sides
from dpo_core.comparison.tally import Tally, more_needed, verdict
from dpo_core.evaluation.interval import wilson

SIDES = Sides(Side("base"), Side("mine"))


def test_ties_and_identical_pictures_count_one_half() -> None:
    tally = Tally(a=1, b=4, ties=2, identical=1)
    assert tally.share is not None
    # (4 + 3 / 2) of 8
    assert (tally.share.value, tally.share.trials) == (5.5 / 8, 8)
    assert Tally().share is None


@pytest.mark.parametrize(
    ("share", "all_in_all"),
    # 1.959964^2 / (4 d^2) = 0.960365 / d^2: 96.04 at 0.6, 15.4 at 0.75, 3.84 at 1, 384.1 at 0.45.
    [(0.6, 97), (0.75, 16), (1.0, 4), (0.45, 385)],
)
def test_as_many_more_as_the_interval_needs_to_leave_one_half(
    share: float, all_in_all: int
) -> None:
    def leaves(trials: int) -> bool:
        low, high = wilson(share * trials, trials)[1:3]
        return low > 0.5 or high < 0.5

    assert leaves(all_in_all) and not leaves(all_in_all - 1)
    trials = 20 if share < 0.7 else 2
    assert more_needed(wilson(share * trials, trials)) == all_in_all - trials
    assert more_needed(wilson(share * all_in_all, all_in_all)) == 0


@pytest.mark.parametrize(
    ("tally", "words"),
    [
        (Tally(), "Nothing has been judged yet."),
        (Tally(b=6), "mine is preferred."),
        (Tally(a=9, b=1), "base is preferred."),
        (Tally(a=2, b=2, ties=3), "No difference between base and mine is seen so far."),
        (Tally(a=8, b=12), "Cannot tell yet: about 77 more comparisons would, if it goes on like"
         " this."),
        (Tally(a=0, b=3), "Cannot tell yet: about 1 more comparison would, if it goes on like"
         " this."),
        (Tally(a=500, b=510), "Cannot tell yet: the difference is so small that more than 1000"
         " further comparisons would be needed."),
    ],
)  # fmt: skip
def test_it_says_no_more_than_the_numbers_do(tally: Tally, words: str) -> None:
    assert verdict(tally, SIDES) == words
