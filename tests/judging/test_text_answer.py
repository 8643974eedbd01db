from __future__ import annotations

import pytest

from dpo_core.judging.text_answer import (
    FIRST,
    PAIRWISE_INSTRUCTION,
    POINTWISE_INSTRUCTION,
    SECOND,
    TIE,
    filled,
    points,
    preference,
)


@pytest.mark.parametrize(
    ("answer", "side"),
    [
        ("first", FIRST), ("Second.", SECOND), ("**A**", FIRST), ("B", SECOND), ("tie", TIE),
        ("1", FIRST), ("2.", SECOND), ("image 2", SECOND), ("The first one.", FIRST),
        ("It's a tie.", TIE), ("Both", TIE), ("Answer: B", SECOND), ('{"answer": "2"}', SECOND),
        ("The answer is **first**.", FIRST), ("**Final answer:** Image 2", SECOND),
        ("\\boxed{A}", FIRST), ("The better image is the first one.", FIRST),
        ("The winner is image B because of its light.", SECOND),
        ("Image 1: a cat. Image 2: no cat.\nBetter image: 1", FIRST),
        ("Both images are good. Here is why...\n\nTie", TIE),
        ("A\n\nThe light in this one is softer.", FIRST),
        ("My choice: first. On reflection, answer: second.", SECOND),
        ("The second image follows the prompt better.", SECOND),
        ("The first image is better than the second.", FIRST),
        ("I prefer the second image over the first because of its colours.", SECOND),
        ("Image A is better than image B.", FIRST),
        ("\u201cSecond\u201d", SECOND),
    ],
)  # fmt: skip
def test_an_answer_names_an_image(answer: str, side: float) -> None:
    assert preference(answer) == side


@pytest.mark.parametrize(
    "answer",
    [
        "", "I cannot tell.", "A cat sits in the first image.", "Answer: A cat is nicer.",
        "The first image shows a cat. The second image shows a dog.",
        "The first image isn't better.", "Neither image is better.",
        "Compared to the first, the second is better.", "If the first is better, say so.",
        "The first image is better in colour. The second image is better in shape.",
        "At first glance, the light is better.",
    ],
)  # fmt: skip
def test_an_answer_that_names_none_or_both_cannot_be_told(answer: str) -> None:
    assert preference(answer) is None


@pytest.mark.parametrize(
    ("answer", "side"),
    [
        ("<think>The second image is better.</think>\nfirst", FIRST),
        ("The template opened the thought: answer: first</think>\n\nB", SECOND),
        ("<think>So far the first is better, but", None),
        ("<THINK>a</THINK> <thinking>answer: b</thinking> Answer: A", FIRST),
    ],
)
def test_thoughts_are_no_answer(answer: str, side: float | None) -> None:
    assert preference(answer) == side


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("8", 8), ("0", 0), ("10", 10), ("8/10", 8), ("8.5 out of 10", 8.5), ("Score: 7", 7),
        ("**Rating:** 7/10", 7), ('{"score": 7}', 7), ("I would give this a 7,5 / 10.", 7.5),
        ("<think>9 or so</think> 4", 4), ("8. It follows the prompt.", 8), ("7 - good", 7),
        ("There are 3 cats in it.\n\n6", 6), ("6\n\nThere are 3 cats in it.", 6),
        ("I'd rate it 6.", 6), ("Its score is 4; after a second look, score: 5", 5),
        ("The image has 3 cats where 2 were asked for. Points: 9 out of 10", 9),
    ],
)  # fmt: skip
def test_an_answer_gives_points(answer: str, number: float) -> None:
    assert points(answer) == number


@pytest.mark.parametrize(
    "answer",
    [
        "", "15", "11/10", "-3", "score: -2", "Score: 80/100", "4/5", "Good.",
        "The image shows 3 cats.", "<think>9", "3 cats, 5 dogs",
    ],
)  # fmt: skip
def test_an_answer_without_points_from_0_to_10_cannot_be_told(answer: str) -> None:
    assert points(answer) is None


def test_a_prompt_stands_in_an_instruction_as_it_was_written() -> None:
    prompt = "a {cat} {0} {prompt} %s \\1 $x"
    for instruction in (PAIRWISE_INSTRUCTION, POINTWISE_INSTRUCTION):
        before, after = instruction.split("{prompt}")
        assert filled(instruction, prompt) == before + prompt + after


def test_the_instructions_answers_are_understood() -> None:
    assert [preference(one) for one in ("first", "second", "tie")] == [FIRST, SECOND, TIE]
    assert "first, second, or tie" in PAIRWISE_INSTRUCTION
    assert "from 0" in POINTWISE_INSTRUCTION
