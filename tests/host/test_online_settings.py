"""What rounds are played with: prompts, seeds, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hostkit.training import pack_module


def settings(**values: Any) -> Any:
    return pack_module("nodes.host.online.online_settings").OnlineSettings(**values)


def test_prompts_are_tidied_and_each_counts_once() -> None:
    assert settings(prompts=" a cat \n\na  dog\na cat\n").lines == ("a cat", "a  dog")


def test_rounds_take_their_prompts_in_turn() -> None:
    three = settings(prompts="a\nb\nc\nd\ne", prompts_per_round=2)
    rounds = [three.prompts_of_round(number) for number in range(1, 6)]
    assert rounds == [("a", "b"), ("c", "d"), ("e", "a"), ("b", "c"), ("d", "e")]
    for all_of_them in (0, 5, 9):
        every = settings(prompts="a\nb\nc", prompts_per_round=all_of_them)
        assert every.prompts_of_round(7) == ("a", "b", "c")


@pytest.mark.parametrize("per_round", [0, 2])
@pytest.mark.parametrize("seed", [0, 7, 2**53 - 1])
def test_no_two_pictures_share_a_seed_and_none_is_held_out(seed: int, per_round: int) -> None:
    one = settings(
        prompts="a\nb\nc", seed=seed, prompts_per_round=per_round, held_out_seeds=5,
        held_out_prompts="d\ne",
    )  # fmt: skip
    trained = [
        one.seed_of(sum(len(one.prompts_of_round(k)) for k in range(1, number)) + place)
        for number in range(1, 50)
        for place in range(len(one.prompts_of_round(number)))
    ]
    held_out = [seed for _, seed in one.held_out]
    assert len(set(trained)) == len(trained) and len(set(held_out)) == 10
    assert not set(trained) & set(held_out)
    assert all(0 <= seed < 2**64 for seed in trained + held_out)


def test_held_out_prompts_are_those_named_else_the_first() -> None:
    prompts = "\n".join("abcdef")
    assert [p for p, _ in settings(prompts=prompts).held_out] == ["a", "b", "c", "d"]
    named = settings(prompts=prompts, held_out_prompts="x\n", held_out_seeds=2)
    assert [p for p, _ in named.held_out] == ["x", "x"]
    assert settings(prompts=prompts, held_out_seeds=0).held_out == ()


def test_everything_out_of_range_is_listed_with_its_fix() -> None:
    wrong = {
        "prompts": "\n", "rounds": 0, "images_per_prompt": 1, "steps_per_round": 0,
        "pairs_per_group": 0, "min_gap": -1.0, "replay": 1.0, "reference": "often",
        "prompts_per_round": -1, "held_out_seeds": -1, "patience": -1, "steps": 0, "width": 8,
    }
    problems = settings(**wrong).problems()
    assert len(problems) == len(wrong)
    for name in wrong:
        said = "prompt" if name == "prompts" else name
        assert any(said in problem for problem in problems), name
    assert settings().problems() == []
    assert "held_out_seeds to 1" in settings(patience=1, held_out_seeds=0).problems()[0]
    assert any("longer" in one for one in settings(prompts="x" * 70_000).problems())
