from __future__ import annotations

from itertools import product
from math import comb

import pytest

from dpo_core.comparison.couple import Side, Sides
from dpo_core.comparison.tally import MOST_NEEDED, Tally, more_needed, sign_test, verdict

SIDES = Sides(Side("base"), Side("mine"))


def test_ties_and_identical_pictures_count_one_half() -> None:
    tally = Tally(a=1, b=4, ties=2, identical=1)
    assert tally.share is not None
    # (4 + 3 / 2) of 8
    assert (tally.share.value, tally.share.trials) == (5.5 / 8, 8)
    assert Tally().share is None


@pytest.mark.parametrize(
    ("wins", "losses", "chance"),
    # Both ends of Pascal's triangle: 2 (1 + 8) / 2^8, and all of it where both are equal.
    [(6, 0, 2 / 64), (0, 5, 2 / 32), (7, 1, 18 / 256), (1, 8, 20 / 512), (3, 3, 1.0), (0, 0, 1.0)],
)
def test_the_sign_test_counts_what_is_at_least_so_uneven(
    wins: int, losses: int, chance: float
) -> None:
    assert sign_test(wins, losses) == chance


def test_sides_that_are_equal_are_told_apart_once_in_twenty_at_most() -> None:
    for number in range(1, 60):
        ways = sum(
            comb(number, wins)
            for wins in range(number + 1)
            if more_needed(Tally(wins, number - wins)) == 0
        )
        assert ways <= 0.05 * 2**number
        assert number > 5 or not ways


def test_as_many_more_as_the_test_asks_for_if_it_goes_on_like_this() -> None:
    for a, b in product(range(13), range(13)):
        tally, ahead = Tally(a, b), max(a, b)
        numbers = range(a + b, a + b + MOST_NEEDED + 1)
        won = ((n, n * ahead // max(1, a + b)) for n in numbers if a != b)
        expected = next((n - a - b for n, wins in won if sign_test(wins, n - wins) <= 0.05), None)
        assert more_needed(tally) == expected, (a, b)
    # Where every second one is a tie, twice as many.
    assert more_needed(Tally(a=0, b=3)) == 3
    assert more_needed(Tally(a=0, b=3, ties=2, identical=1)) == 6


@pytest.mark.parametrize(
    ("tally", "words"),
    [
        (Tally(), "Nothing has been judged yet."),
        (Tally(b=6), "mine is preferred."),
        (Tally(a=9, b=1, ties=30), "base is preferred."),
        (Tally(a=3, b=3, ties=3), "No difference between base and mine is seen so far."),
        (Tally(a=2, b=2, ties=3),
         "Cannot tell yet: no difference between base and mine is seen so far."),
        (Tally(a=8, b=12), "Cannot tell yet: about 90 more comparisons would, if it goes on like"
         " this."),
        (Tally(a=0, b=5), "Cannot tell yet: about 1 more comparison would, if it goes on like"
         " this."),
        (Tally(a=500, b=510), "Cannot tell yet: the difference is so small that more than 1000"
         " further comparisons would be needed."),
    ],
)  # fmt: skip
def test_it_says_no_more_than_the_numbers_do(tally: Tally, words: str) -> None:
    assert verdict(tally, SIDES) == words
