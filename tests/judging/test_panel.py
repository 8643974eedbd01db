from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from dpo_core.judging.judge import JudgeError, Pixels
from dpo_core.judging.panel import Member, Panel

IMAGES = [np.full((2, 2, 3), value, np.uint8) for value in (10, 30, 20)]


@dataclass(frozen=True)
class Says:
    """A judge with given scores."""

    scores: Sequence[float]
    name: str = "says"

    def score(self, images: Sequence[Pixels], prompt: str) -> Sequence[float]:
        return self.scores


@dataclass(frozen=True)
class Brighter:
    name: str = "brighter"

    def prefer(self, first: Pixels, second: Pixels, prompt: str) -> float:
        return float(first.mean() > second.mean())


def test_each_judge_gives_an_opinion_those_that_compare_too() -> None:
    verdict = Panel((Member(Says([1, 2, 3]), 0.5), Member(Brighter()))).verdict(IMAGES, "")
    scored, compared = verdict.opinions
    assert (scored.judge, scored.weight, scored.scores) == ("says", 0.5, (1.0, 2.0, 3.0))
    assert compared.judge == "brighter"
    assert compared.scores[1] == -compared.scores[0] > compared.scores[2] == 0
    assert not verdict.agree


def test_the_name_tells_weights_and_agreement_apart() -> None:
    members = (Member(Says([1], "a"), 2), Member(Says([1], "b"), -0.5))
    assert Panel(members).name == "2 x a + -0.5 x b"
    assert Panel(members, agree=True).name == "2 x a + -0.5 x b, all agreeing"


@pytest.mark.parametrize(
    ("scores", "message"),
    [([1, 2], "gave 2 scores for 3 images"), ([1, math.nan, 2], "no number")],
)
def test_a_judge_that_gives_no_score_for_each_image_is_named(
    scores: list[float], message: str
) -> None:
    with pytest.raises(JudgeError, match=f"The judge says gave .*{message.removeprefix('gave ')}"):
        Panel((Member(Says(scores)),)).verdict(IMAGES, "")
