"""What a round trains on beside its own pairs, and what it must not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hostkit.training import pack_module

dataset = pack_module("dpo_core.training.dataset")


def pairs(*names: str, held_out: bool = False) -> Any:
    """Records keyed by name, of the prompt that is the name's first letter."""
    return dataset.EncodedPairs(tuple(
        dataset.EncodedPair(None, None, None, key=name, group=name[0], held_out=held_out)
        for name in names
    ))


def round_pairs(given: Any, held_out: Any, before: Any) -> Any:
    """As in rounds whose earlier sets, and those alone, hold the pairs `before`."""
    module = pack_module("nodes.host.online.round_pairs")
    settings = pack_module("nodes.host.online.online_settings").OnlineSettings(replay=0.9)
    trainer = SimpleNamespace(dataset=given, held_out=held_out)

    class Rounds(module.RoundPairs):  # type: ignore[name-defined]
        def own(self, set_ids: Any) -> Any:
            return self._without_held_out(before)

    return Rounds(trainer, settings, None, None, None)


def keys(found: Any) -> list[str]:
    return [one.key for one in found.pairs]


def test_a_pair_that_came_in_two_ways_is_trained_on_once() -> None:
    rounds = round_pairs(pairs("a1", "b1"), pairs(), pairs("b1", "c1"))
    mixed = rounds.mixed(pairs("c1"), ["earlier"], 2)
    assert keys(mixed)[0] == "c1" and sorted(keys(mixed)) == ["a1", "b1", "c1"]


@pytest.mark.parametrize("prompt", ["a", "b", "c"])
def test_prompts_kept_for_validation_are_never_trained_on(prompt: str) -> None:
    rounds = round_pairs(pairs(), pairs(f"{prompt}9"), pairs("a1", "b1", "c1"))
    expected = [name for name in ("a1", "b1", "c1") if name[0] != prompt]
    assert keys(rounds.own(["earlier"])) == expected
