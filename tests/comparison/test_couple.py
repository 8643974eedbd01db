from __future__ import annotations

import numpy as np
import pytest

from dpo_core.comparison.couple import (
    Couple,
    CoupleError,
    Side,
    Sides,
    couple_record,
    named_sides,
    new_couples,
    read_couple,
    side_problems,
)


def pictures(*sizes: tuple[int, int]) -> list[tuple[str, np.ndarray]]:
    return [(f"{i:032x}", np.zeros((*size, 3), np.uint8)) for i, size in enumerate(sizes)]


def test_prompts_are_one_for_each_or_one_for_all_or_none() -> None:
    a = b = pictures((8, 8), (8, 8))
    given = {(): ["", ""], ("a\n cat",): ["a cat", "a cat"], ("a cat", "a dog"): ["a cat", "a dog"]}
    for prompts, expected in given.items():
        assert [one.prompt for one in new_couples(a, b, prompts)] == expected


def test_all_that_is_in_the_way_is_told_at_once() -> None:
    with pytest.raises(CoupleError) as caught:
        new_couples(
            pictures((8, 8), (8, 16)), pictures((8, 8), (8, 8), (8, 8)), ["x"] * 4, ["Names."]
        )
    told = str(caught.value)
    assert "- Names." in told
    assert "`images_a` has 2 pictures and `images_b` 3" in told
    assert "4 prompts for 3 couples" in told
    assert "Couple 2 has two sizes, 16 x 8 and 8 x 8" in told
    with pytest.raises(CoupleError, match="There are no pictures"):
        new_couples([], [], [])


def test_many_problems_are_counted_and_not_all_listed() -> None:
    with pytest.raises(CoupleError, match="And 5 more problems") as caught:
        new_couples(pictures(*[(8, 8)] * 25), pictures(*[(8, 9)] * 25), [])
    assert len(str(caught.value).splitlines()) == 22


def test_sides_have_names_of_their_own() -> None:
    assert named_sides(Side(" "), Side("")) == Sides(Side("A"), Side("B"))
    assert side_problems(named_sides(Side("base"), Side("mine"))) == []
    (same,) = side_problems(named_sides(Side(""), Side("A")))
    assert "Both sides are called 'A'" in same
    told = side_problems(named_sides(Side("x" * 81), Side("two\nlines")))
    assert len(told) == 2 and all("cannot be shown" in one for one in told)


def test_other_names_or_other_loras_are_another_comparison() -> None:
    sides = [
        Sides(Side("A"), Side("B")),
        Sides(Side("B"), Side("A")),
        Sides(Side("A"), Side("B", "one.safetensors")),
        Sides(Side("A", "one.safetensors"), Side("B")),
        Sides(Side("A"), Side("B", "one.safetensors", "of other weights")),
    ]
    assert len({one.comparison for one in sides}) == 5
    for one in sides:
        stored = couple_record(one, Couple("set", "a cat", "x", "y"))
        assert read_couple(stored) == (one, Couple("set", "a cat", "x", "y"))
