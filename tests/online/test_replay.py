"""Which earlier pairs are trained on again."""

from __future__ import annotations

from collections import Counter

import pytest

from dpo_core.online.replay import replayed


@pytest.mark.parametrize(
    ("new", "share", "count"),
    [(6, 0.5, 6), (6, 0.0, 0), (6, 0.25, 2), (3, 0.75, 9), (0, 0.5, 0), (20, 0.5, 12)],
)
def test_the_share_of_earlier_pairs_is_as_asked_as_far_as_there_are_any(
    new: int, share: float, count: int
) -> None:
    found = replayed(new, range(12), share, seed=0)
    assert len(found) == len(set(found)) == count


def test_the_same_arguments_give_the_same_pairs_and_another_seed_others() -> None:
    first = replayed(5, range(100), 0.5, seed=1)
    assert first == replayed(5, range(100), 0.5, seed=1)
    assert first != replayed(5, range(100), 0.5, seed=2)


def test_no_earlier_pair_is_favoured() -> None:
    drawn = Counter(i for seed in range(2000) for i in replayed(2, range(8), 0.5, seed))
    # 2 of 8, 2,000 times: 500 each, with a standard deviation of 19.
    assert set(drawn) == set(range(8))
    assert all(abs(count - 500) < 5 * 19 for count in drawn.values())


@pytest.mark.parametrize("share", [1.0, -0.1, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"use 0 to below 1"):
        replayed(5, range(5), share, seed=0)
