from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from judgekit.images import noisy_images
from scipy.optimize import brentq

from dpo_core.judging.judge import JudgeError, Pixels
from dpo_core.judging.matches import scores_of_matches


@dataclass
class Brighter:
    """Prefers the brighter image, and remembers what it was asked."""

    name: str = "brighter"
    sure: float = 1.0
    asked: list[tuple[int, int, str]] = field(default_factory=list)

    def prefer(self, first: Pixels, second: Pixels, prompt: str) -> float:
        one, other = int(first.mean()), int(second.mean())
        self.asked.append((one, other, prompt))
        return 0.5 if one == other else self.sure if one > other else 1 - self.sure


@dataclass
class Stubborn:
    answer: float
    name: str = "stubborn"

    def prefer(self, first: Pixels, second: Pixels, prompt: str) -> float:
        return self.answer


def greys(*values: int) -> list[Pixels]:
    return [np.full((2, 3, 3), value, np.uint8) for value in values]


def test_one_preference_gives_the_ratings_of_one_match() -> None:
    # The maximum of -mu_1^2/2 - mu_2^2/2 - log(1 + exp(mu_2 - mu_1)) at mu and -mu:
    # mu = 1 / (1 + exp(2 mu)).
    mu = brentq(lambda x: x - 1 / (1 + math.exp(2 * x)), 0, 1)
    dark, bright = scores_of_matches(Brighter(), greys(10, 200), "")
    assert bright == pytest.approx(mu, abs=1e-8)
    assert dark == pytest.approx(-mu, abs=1e-8)


def test_up_to_four_images_every_two_are_compared_once() -> None:
    judge = Brighter()
    scores = scores_of_matches(judge, greys(40, 10, 30, 20), "a cat")
    assert len(judge.asked) == 6
    assert {frozenset(one[:2]) for one in judge.asked} == {
        frozenset((i, j)) for i in (10, 20, 30, 40) for j in (10, 20, 30, 40) if i != j
    }
    assert {one[2] for one in judge.asked} == {"a cat"}
    assert sorted(range(4), key=scores.__getitem__) == [1, 3, 2, 0]
    assert scores[0] == -scores[1] > scores[2] == -scores[3] > 0


def test_more_images_play_a_tournament_that_finds_the_best_and_the_worst() -> None:
    judge = Brighter()
    values = [90, 10, 50, 70, 20, 80, 40, 30, 60]
    scores = scores_of_matches(judge, greys(*values), "")
    assert len(judge.asked) == 4 * 4  # ceil(log2 9) rounds, one of the nine sits each out
    assert scores.index(max(scores)) == 0
    assert scores.index(min(scores)) == 1


def test_only_the_side_of_one_half_counts() -> None:
    images = greys(10, 200, 90)
    certain = scores_of_matches(Brighter(), images, "")
    assert scores_of_matches(Brighter(sure=0.51), images, "") == certain
    assert scores_of_matches(Stubborn(0.5), images, "") == (0, 0, 0)


def test_equal_images_tie_unasked() -> None:
    judge = Brighter()
    one, other, worse = scores_of_matches(judge, greys(60, 60, 20), "")
    assert one == other > worse
    assert len(judge.asked) == 2


@pytest.mark.parametrize("count", [3, 7])
def test_the_same_images_are_asked_about_alike_in_whatever_order_they_come(count: int) -> None:
    images = noisy_images(count)
    first, again = Brighter(), Brighter()
    scores = scores_of_matches(first, images, "x")
    assert scores_of_matches(again, images[::-1], "x") == scores[::-1]
    assert sorted(first.asked) == sorted(again.asked)


def test_who_is_shown_first_is_drawn_anew_for_every_two_images_and_prompt() -> None:
    def first_is_brighter(values: tuple[int, int], prompt: str) -> bool:
        judge = Brighter()
        scores_of_matches(judge, greys(*values), prompt)
        return judge.asked[0][0] > judge.asked[0][1]

    by_images = [first_is_brighter((value, value + 1), "") for value in range(200)]
    by_prompt = [first_is_brighter((10, 200), str(i)) for i in range(200)]
    # 200 fair coins stay within 70 and 130 but for one time in 30 000.
    assert 70 < sum(by_images) < 130
    assert 70 < sum(by_prompt) < 130


def test_a_judge_that_always_says_first_prefers_nobody_on_average() -> None:
    wins = [
        scores_of_matches(Stubborn(1.0), greys(value, value + 1), "")[0] > 0
        for value in range(200)
    ]
    assert 70 < sum(wins) < 130


@pytest.mark.parametrize("answer", [math.nan, math.inf, -0.1, 1.5])
def test_an_answer_that_is_no_probability_is_refused(answer: float) -> None:
    with pytest.raises(JudgeError, match="The judge stubborn answered .* from 0"):
        scores_of_matches(Stubborn(answer), greys(1, 2), "")


def test_one_image_is_not_compared_and_too_many_are_refused() -> None:
    judge = Brighter()
    assert scores_of_matches(judge, greys(5), "") == (0,)
    assert scores_of_matches(judge, [], "") == ()
    assert judge.asked == []
    with pytest.raises(JudgeError, match="at most 64 of one prompt, and got 65"):
        scores_of_matches(judge, greys(*range(65)), "")
