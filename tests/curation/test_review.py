"""Filters, distributions and warnings over pairs, whatever they come from."""

from __future__ import annotations

import random
from typing import Any

import pytest

from dpo_core.curation.inconsistency import Choice, circles_of_choices
from dpo_core.curation.review import (
    FEW_PAIRS,
    PairFilter,
    ReviewedImage,
    ReviewedPair,
    aspect,
    marked,
    statistics,
    warnings,
)


def image(name: str, size: tuple[int, int] = (64, 64)) -> ReviewedImage:
    return ReviewedImage(name, name, f"{name}.png", *size)


def pair(number: int, **facts: Any) -> ReviewedPair:
    size = facts.pop("size", (64, 64))
    usual: dict[str, Any] = {
        "id": f"p{number}", "place": f"{number:04}", "prompt": f"prompt {number}",
        "chosen": image(f"c{number}", size), "rejected": image(f"r{number}", size),
        "probability": 0.9, "gap": 1.0, "explicit": True, "split": None, "at": number,
    }  # fmt: skip
    return ReviewedPair(**(usual | facts))


def ids(found: list[ReviewedPair]) -> list[str]:
    return [one.id for one in found]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"prompt": "CAT"}, ["p3", "p1"]),
        ({"since": 2}, ["p3", "p2"]),
        ({"until": 2}, ["p2", "p1"]),
        ({"agreement_max": 0.7}, ["p2"]),
        ({"agreement_min": 0.7}, ["p3", "p1"]),
        ({"gap_min": 0.0}, ["p2", "p1"]),
        ({"gap_max": 0.5}, ["p2"]),
        ({"split": "val"}, ["p3"]),
        ({"problem": "any"}, ["p2"]),
        ({"problem": "missing"}, ["p2"]),
        ({"problem": "repeated"}, []),
        ({"order": "oldest"}, ["p1", "p2", "p3"]),
        ({"order": "unsure"}, ["p2", "p1", "p3"]),
        ({"order": "gap"}, ["p2", "p1", "p3"]),
        ({"order": "prompt"}, ["p3", "p1", "p2"]),
    ],
)
def test_a_filter_lets_pass_what_fits_in_its_order(
    asked: dict[str, Any], expected: list[str]
) -> None:
    pairs = [
        pair(1, prompt="Cat b"),
        pair(2, prompt="dog", probability=0.6, gap=0.2, problems=("missing",)),
        pair(3, prompt="A cat", gap=None, split="val"),
    ]
    assert ids(PairFilter(**asked).applied(pairs)) == expected


def test_distributions_count_every_pair_once() -> None:
    told = statistics(
        [pair(1, size=(96, 64), probability=1.0), pair(2, prompt="prompt 1", split="train"),
         pair(3, size=(640, 360), probability=0.5, split="val"), pair(4, size=(0, 0))]
    )  # fmt: skip
    assert (told["pairs"], told["distinct_prompts"]) == (4, 3)
    assert told["prompts"][0] == {"prompt": "prompt 1", "pairs": 2}
    assert {"width": 96, "height": 64, "pairs": 1} in told["sizes"]
    assert {one["aspect"] for one in told["aspects"]} == {"3:2", "1:1", "16:9", "?"}
    assert told["splits"] == {"train": 1, "val": 1}
    assert told["agreement"] == [1, 0, 0, 0, 0, 0, 0, 0, 2, 1]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1024, 1024), "1:1"), ((832, 1216), "2:3"), ((1344, 768), "16:9"), ((768, 1024), "3:4")],
)
def test_the_aspect_is_the_nearest_common_one(size: tuple[int, int], expected: str) -> None:
    assert aspect(*size) == expected


def kinds(pairs: list[ReviewedPair], choices: list[Choice] | None = None) -> dict[str, int]:
    return {one.kind: one.count for one in warnings(marked(pairs), choices or [])}


def test_many_different_sure_pairs_warn_of_nothing() -> None:
    assert kinds([pair(number) for number in range(FEW_PAIRS)]) == {}


def test_each_warning_is_given_where_it_should_be() -> None:
    enough = [pair(number) for number in range(FEW_PAIRS)]
    assert kinds(enough[:-1]) == {"few_pairs": FEW_PAIRS - 1}
    assert kinds([]) == {"few_pairs": 0}
    one_prompt = [pair(100 + n, prompt="prompt 1") for n in range(FEW_PAIRS)]
    assert kinds(enough + one_prompt) == {"one_prompt": FEW_PAIRS + 1}
    for problem in ("missing", "unreadable", "sizes_differ", "same_image", "prompts_differ"):
        assert kinds([*enough, pair(99, problems=(problem,))]) == {problem: 1}
    assert kinds([*enough, pair(99, prompt=None), pair(98, prompt="")]) == {"no_prompt": 2}
    assert kinds([*enough, pair(99, probability=0.55)]) == {"unsure": 1}


def test_the_same_pair_twice_is_told_and_in_two_splits_as_well() -> None:
    twice = [pair(1, split="train"), pair(2, prompt="prompt 1", chosen=image("c1"),
                                          rejected=image("r1"), split="val")]  # fmt: skip
    assert [one.problems for one in marked(twice)] == [("repeated", "two_splits")] * 2
    other_way = [pair(1), pair(2, prompt="prompt 1", chosen=image("r1"), rejected=image("c1"))]
    assert [one.problems for one in marked(other_way)] == [(), ()]


def test_choices_in_a_circle_are_told_with_their_pairs() -> None:
    enough = [pair(number) for number in range(FEW_PAIRS)]
    round_about = [
        pair(50 + n, prompt="x", chosen=image("abc"[n]), rejected=image("abc"[(n + 1) % 3]))
        for n in range(3)
    ]
    choices = [Choice(one.prompt or "", one.chosen.identity, one.rejected.identity)
               for one in enough + round_about]  # fmt: skip
    (warning,) = warnings(enough + round_about, choices)
    assert warning.kind == "inconsistent" and set(warning.pairs) == {"p50", "p51", "p52"}
    elsewhere = [choice._replace(prompt=str(n)) for n, choice in enumerate(choices)]
    assert warnings(enough + round_about, elsewhere) == []


def test_circles_are_those_that_a_search_from_every_image_finds() -> None:
    rng = random.Random(1)
    for _ in range(200):
        names = "abcdefgh"[: rng.randint(2, 8)]
        edges = {tuple(rng.sample(names, 2)) for _ in range(rng.randint(1, 12))}
        reach = {name: {name} for name in names}
        for _ in names:
            for one, other in edges:
                for known in reach.values():
                    if one in known:
                        known.add(other)
        expected = {
            frozenset(other for other in names if other in reach[name] and name in reach[other])
            for name in names
        }
        found = circles_of_choices(Choice("", *edge) for edge in edges)
        assert {images for _, images in found} == {one for one in expected if len(one) > 1}


def test_a_long_chain_of_choices_is_no_circle_and_needs_no_recursion() -> None:
    chain = [Choice("", str(n), str(n + 1)) for n in range(5000)]
    assert circles_of_choices(chain) == []
    ((_, images),) = circles_of_choices([*chain, Choice("", "5000", "0")])
    assert len(images) == 5001
