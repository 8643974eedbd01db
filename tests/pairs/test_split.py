from __future__ import annotations

import numpy as np

from dpo_core.pairs.record import LabelledImage, Pair, PairSet, Picture, RankedGroup
from dpo_core.pairs.split import split_by_prompt


def grey(value: float) -> Picture:
    return Picture.from_pixels(np.full((6, 8, 3), value, dtype=np.float32))


def pairs(*prompts: str, group: str = "") -> tuple[Pair, ...]:
    return tuple(Pair(prompt, grey(0), grey(1), group) for prompt in prompts)


def test_all_of_a_prompt_is_on_one_side_and_the_share_is_that_of_the_prompts() -> None:
    prompts = [f"prompt {i}" for i in range(200)]
    records = PairSet(
        pairs(*prompts, *prompts),
        tuple(LabelledImage(prompt, grey(0), True) for prompt in prompts),
        tuple(RankedGroup(prompt, (grey(0), grey(1)), (1, 0)) for prompt in prompts),
        ("a session",),
        pairs(*prompts),
    )
    marked = split_by_prompt(records, 20)
    everything = (*marked.pairs, *marked.labelled, *marked.groups, *marked.ties)
    assert len(everything) == 1000 and marked.lineage == ("a session",)
    split_of = {one.prompt: one.split for one in everything}
    assert all(one.split == split_of[one.prompt] for one in everything)
    held_out = sum(split == "val" for split in split_of.values())
    assert 20 <= held_out <= 60  # 40 of 200 are meant: within 3.5 standard deviations
    assert set(split_of.values()) == {"train", "val"}


def test_the_split_is_the_same_for_the_same_seed_and_stays_when_prompts_join() -> None:
    few, more = pairs(*"abcdefghij"), pairs(*"abcdefghijklmnopqrst")
    sides = [one.split for one in split_by_prompt(PairSet(few), 40)]
    assert [one.split for one in split_by_prompt(PairSet(few), 40)] == sides
    assert [one.split for one in split_by_prompt(PairSet(more), 40)][:10] == sides
    others = [[one.split for one in split_by_prompt(PairSet(few), 40, seed)] for seed in range(5)]
    assert any(split != sides for split in others)


def test_groups_that_share_a_prompt_stay_together() -> None:
    chain = [
        *pairs("a", "b", group="1"), *pairs("b", "c", group="2"), *pairs("c", group="3"),
    ]  # fmt: skip
    apart = pairs(*(f"prompt {i}" for i in range(30)))
    for seed in range(20):
        marked = split_by_prompt(PairSet((*chain, *apart)), 50, seed)
        assert len({one.split for one in marked.pairs[:5]}) == 1


def test_pairs_without_a_prompt_are_held_together_by_their_group() -> None:
    records = PairSet(tuple(Pair("", grey(0), grey(1), f"set {i}") for i in range(10)))
    assert {one.split for one in split_by_prompt(records, 30)} == {"train", "val"}


def test_there_is_always_one_of_each_but_never_of_a_single_prompt() -> None:
    for seed in range(10):
        two = split_by_prompt(PairSet(pairs("a", "b")), 1, seed)
        assert {one.split for one in two} == {"train", "val"}
    assert [one.split for one in split_by_prompt(PairSet(pairs("a", "a")), 50)] == ["train"] * 2


def test_records_that_are_split_already_are_left_as_they_are() -> None:
    records = PairSet((*pairs("a", "b"), Pair("c", grey(0), grey(1), split="val")))
    assert split_by_prompt(records, 50) is records
    assert split_by_prompt(PairSet(pairs("a", "b")), 0).pairs[0].split is None
