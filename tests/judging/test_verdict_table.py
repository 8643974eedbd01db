"""Verdicts in words."""

from __future__ import annotations

from dpo_core.judging.verdict import Opinion, Verdict
from dpo_core.judging.verdict_table import best_first, brief_scores, verdict_table, why_no_pair

SHARP = Opinion("sharpness", 1.0, (0.25, 0.5, 0.25))
PALE = Opinion("saturation", -2.0, (0.0, 0.125, 0.5))


def test_a_line_for_each_image_says_its_score_and_what_that_is_made_of() -> None:
    assert verdict_table(Verdict((SHARP, PALE)), [1, 2, 4]) == "\n".join([
        "image 1: 0.25 = sharpness 0.25 + -2 x saturation 0",
        "image 2: 0.25 = sharpness 0.5 + -2 x saturation 0.125",
        "image 4: -0.75 = sharpness 0.25 + -2 x saturation 0.5",
    ])  # fmt: skip


def test_one_line_names_the_best_ones() -> None:
    many = Verdict((Opinion("contrast", 1.0, tuple(i / 8 for i in range(9))),))
    line = brief_scores(many, range(1, 10))
    assert line.startswith("image 9 1, image 8 0.875,") and line.endswith(", image 2 0.125, ...")
    assert brief_scores(Verdict((SHARP,)), [1, 2, 4]) == "image 2 0.5, image 1 0.25, image 4 0.25"


def test_equal_images_stay_as_they_came() -> None:
    assert best_first(Verdict((SHARP,))) == [1, 0, 2]


def test_a_verdict_that_makes_no_pair_says_why() -> None:
    alike = Verdict((Opinion("contrast", 1.0, (0.5, 0.5)),))
    assert "all images have the same score" in why_no_pair(alike, 0)
    assert why_no_pair(Verdict((SHARP,)), 0.25) == ""
    assert "are 0.25 apart, which is less than min_gap 0.3" in why_no_pair(Verdict((SHARP,)), 0.3)
    against = Opinion("redness", 0.5, (0.5, 0.25, 0.5))
    assert "all judges prefer the same one" in why_no_pair(Verdict((SHARP, against), agree=True), 0)
