from __future__ import annotations

import pytest

from dpo_core.judging.verdict import Opinion, Verdict


def verdict(*scores: float) -> Verdict:
    return Verdict((Opinion("one", 1.0, scores),))


def two(
    one: tuple[float, ...], other: tuple[float, ...], agree: bool, weight: float = 1
) -> Verdict:
    return Verdict((Opinion("one", 1.0, one), Opinion("other", weight, other)), agree)


def test_scores_are_weighed_and_summed() -> None:
    both = Verdict((Opinion("a", 2.0, (1, 0, -1)), Opinion("b", -0.5, (4, 2, 0))))
    assert both.scores == (0, -1, -2)


def test_pairs_are_the_outermost_first_and_share_no_image() -> None:
    judged = verdict(0.3, 0.9, 0.1, 0.5, 0.4)
    assert judged.pairs(1) == [(1, 2)]
    assert judged.pairs(5) == [(1, 2), (3, 0)]
    assert judged.order() == [[1], [3], [4], [0], [2]]


def test_equal_scores_make_no_pair() -> None:
    assert verdict(0.5, 0.5, 0.5).pairs(1) == []
    assert verdict(0.5, 0.5, 0.5).order() == [[0, 1, 2]]


def test_a_gap_below_the_threshold_makes_no_pair_and_one_just_at_it_does() -> None:
    judged = verdict(1.0, 0.75, 0.5, 0.0)
    assert judged.pairs(2, 1.0) == [(0, 3)]
    assert judged.pairs(2, 0.25) == [(0, 3), (1, 2)]
    assert judged.pairs(2, 1.01) == []
    assert judged.order(0.5) == [[0], [1, 2], [3]]


def test_of_equal_gaps_the_first_images_come_first() -> None:
    assert verdict(1, 1, 0, 0).pairs(2) == [(0, 2), (1, 3)]


def test_judges_that_must_agree_make_pairs_only_where_they_do() -> None:
    # Sums 1.0, .9, .5, -.2. Of the widest gap, 0 over 3, both are sure; the next, 1 over 2, only
    # one is.
    judged = two((0.9, 0.2, 0.3, 0.0), (0.1, 0.7, 0.2, -0.2), agree=True)
    assert judged.pairs(2) == [(0, 3)]
    assert judged.order() == [[0], [1, 2], [3]]
    assert two((0.9, 0.2, 0.3, 0.0), (0.1, 0.7, 0.2, -0.2), agree=False).pairs(2) == [
        (0, 3), (1, 2),
    ]  # fmt: skip


def test_agreed_pairs_may_cross() -> None:
    # Sums 4, 4, 0, .5. Agreed are 0 over 2 and 1 over 2, 4 apart, and 1 over 3, 3.5 apart.
    judged = two((4, 3, 1, 0), (0, 1, -1, 0.5), agree=True)
    assert not judged.agreed(0, 3)
    assert judged.pairs(1) == [(0, 2)]
    assert judged.pairs(2) == [(0, 2), (1, 3)]
    assert judged.order() == [[0], [1], [3], [2]]


def test_a_tie_is_no_agreement() -> None:
    assert not two((1, 0), (0.5, 0.5), agree=True).agreed(0, 1)
    assert two((1, 0), (0.5, 0.5), agree=True).pairs(1) == []


@pytest.mark.parametrize(("weight", "agreed"), [(0.0, True), (-1.0, True), (1.0, False)])
def test_agreement_is_of_weighed_scores_and_of_judges_that_count(
    weight: float, agreed: bool
) -> None:
    assert two((1, 0), (0.2, 0.7), agree=True, weight=weight).agreed(0, 1) is agreed


def test_the_order_holds_every_image_once() -> None:
    judged = two((5, 1, 3, 2, 4), (0, 1, 0, 1, 0), agree=True)
    assert sorted(i for tied in judged.order(0.5) for i in tied) == [0, 1, 2, 3, 4]
