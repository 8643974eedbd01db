from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from dpo_core.judging.callable_judge import callable_judge
from dpo_core.judging.judge import JudgeError, PairwiseJudge, Pixels
from dpo_core.judging.panel import Member, Panel

IMAGES = [np.full((2, 2, 3), value, np.uint8) for value in (10, 30, 20)]


def brightness(images: list[Pixels], prompt: str) -> list[float]:
    return [float(image.mean()) + len(prompt) for image in images]


def brighter(first: Pixels, second: Pixels, prompt: str) -> float:
    return float(first.mean() > second.mean())


def always(answer: Any) -> Any:
    return callable_judge(lambda *arguments: answer, "mine")


def test_a_callable_scores_images_and_prompt() -> None:
    judge = callable_judge(brightness, "mine")
    assert judge.name == "mine"
    assert judge.score(IMAGES, "abc") == [13, 33, 23]


def test_a_callable_says_by_an_attribute_that_it_compares() -> None:
    assert not isinstance(callable_judge(brighter, "mine"), PairwiseJudge)
    assert callable_judge(brighter, "mine", pairwise=True).prefer(IMAGES[1], IMAGES[0], "") == 1
    brighter.pairwise = True  # type: ignore[attr-defined]
    try:
        judge = callable_judge(brighter, "mine")
        assert isinstance(judge, PairwiseJudge)
        assert not isinstance(callable_judge(brighter, "mine", pairwise=False), PairwiseJudge)
        (opinion,) = Panel((Member(judge),)).verdict(IMAGES, "").opinions
    finally:
        del brighter.pairwise  # type: ignore[attr-defined]
    assert sorted(range(3), key=opinion.scores.__getitem__) == [0, 2, 1]


def test_images_are_copies() -> None:
    def spoil(images: list[Pixels], prompt: str) -> list[float]:
        for image in images:
            image[:] = 0
        return [1.0] * len(images)

    def spoil_two(first: Pixels, second: Pixels, prompt: str) -> float:
        first[:] = second[:] = 0
        return 0.5

    callable_judge(spoil, "mine").score(IMAGES, "")
    callable_judge(spoil_two, "mine", pairwise=True).prefer(IMAGES[0], IMAGES[1], "")
    assert [int(image.max()) for image in IMAGES] == [10, 30, 20]


@pytest.mark.parametrize(
    "answer",
    [(1, 2, 3), np.array([1, 2, 3], np.float32), torch.tensor([1.0, 2, 3]),
     [np.float64(1), torch.tensor(2), torch.tensor([3])]],
)  # fmt: skip
def test_numbers_of_any_kind_are_scores(answer: Any) -> None:
    assert always(answer).score(IMAGES, "") == [1.0, 2.0, 3.0]


def test_a_callable_that_raises_is_named_with_what_it_raised() -> None:
    def broken(images: list[Pixels], prompt: str) -> list[float]:
        raise KeyError("weights")

    with pytest.raises(JudgeError, match="The judge mine failed with KeyError: 'weights'") as found:
        callable_judge(broken, "mine").score(IMAGES, "")
    assert isinstance(found.value.__cause__, KeyError)
    with pytest.raises(JudgeError, match="The judge mine failed with KeyError"):
        callable_judge(lambda *three: {}["x"], "mine", pairwise=True).prefer(*IMAGES[:2], "")


def test_what_it_raises_while_its_scores_are_read_is_said_too() -> None:
    def generated(images: list[Pixels], prompt: str) -> Iterator[float]:
        yield 1.0
        raise RuntimeError("out of ideas")

    with pytest.raises(JudgeError, match="failed with RuntimeError: out of ideas"):
        callable_judge(generated, "mine").score(IMAGES, "")


def test_a_stop_passes_through() -> None:
    class Stop(BaseException):
        pass

    def stopped(*arguments: Any) -> Any:
        raise Stop

    with pytest.raises(Stop):
        callable_judge(stopped, "mine").score(IMAGES, "")


def test_what_it_says_itself_to_the_person_stays_as_it_is() -> None:
    def says(images: list[Pixels], prompt: str) -> list[float]:
        raise JudgeError("Load my model first.")

    with pytest.raises(JudgeError, match=r"^Load my model first\.$"):
        callable_judge(says, "mine").score(IMAGES, "")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "no list of numbers, but None"),
        (3.0, r"no list of numbers, but 3\.0"),
        ("123", "no list of numbers, but '123'"),
        ({1: 2, 3: 4, 5: 6}, "no list of numbers, but {1: 2"),
        (["1", "2", "3"], "no list of numbers"),
        ([1, None, 3], r"no list of numbers, but \[1, None, 3\]"),
        (np.zeros((3, 2)), "no list of numbers"),
        ([1, 2], "gave 2 scores"),
        ([1, float("nan"), 3], "gave image 2 the score nan"),
        ([1, 2, float("inf")], "gave image 3 the score inf"),
    ],
)
def test_what_are_no_scores_is_refused(answer: Any, message: str) -> None:
    with pytest.raises(JudgeError, match=f"The judge mine (gave )?{message}.*list of 3 numbers"):
        always(answer).score(IMAGES, "")


@pytest.mark.parametrize("answer", [None, "first", float("nan"), 1.5, -1, [0.5, 0.5]])
def test_what_is_no_preference_is_refused(answer: Any) -> None:
    judge = callable_judge(lambda *three: answer, "mine", pairwise=True)
    with pytest.raises(JudgeError, match="The judge mine answered .* from 0"):
        judge.prefer(*IMAGES[:2], "")


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(JudgeError, match="The judge mine is no function, but a str"):
        callable_judge("score", "mine")  # type: ignore[arg-type]
