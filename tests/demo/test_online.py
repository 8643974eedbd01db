"""Online rounds on the embedded model: who draws, what becomes of it, and what is kept of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toykit.half_size import half_size

from dpo_core.demo.contest import ARMS
from dpo_core.demo.denoiser import attached, build_adapter
from dpo_core.demo.network import FlowNetwork
from dpo_core.demo.online import Ask, Round, RoundSettings, answers, judged, online_rounds
from dpo_core.demo.picks import first_seed, prompt_pool, scores
from dpo_core.demo.taste import TASTES
from dpo_core.demo.taste_judge import TasteJudge
from dpo_core.judging.panel import Member, Panel
from dpo_core.online.replay import replayed
from dpo_core.training.adapter import Adapter, AdapterSettings
from dpo_core.training.dataset import EncodedPairs

WARM = Panel((Member(TasteJudge(TASTES["warm"])),))
SMALL = RoundSettings(rounds=2, prompts_per_round=2, images_per_prompt=3, steps_per_round=1)
TRAINING = ARMS["online"].method.settings(0)


@pytest.fixture(scope="module")
def network() -> Iterator[FlowNetwork]:
    with half_size(euler_steps=2) as half:
        yield half


def run(
    network: FlowNetwork, rounds: RoundSettings = SMALL, seed: int = 0
) -> tuple[list[Round], Adapter]:
    adapter = build_adapter(network, AdapterSettings(2, 2.0), seed)
    training = replace(TRAINING, seed=seed)
    return list(online_rounds(network, adapter, WARM, rounds, training)), adapter


@pytest.fixture(scope="module")
def done(network: FlowNetwork) -> tuple[list[Round], Adapter]:
    return run(network)


def tinted(*warmths: float) -> Tensor:
    """A plain picture of each warmth, which is its red; its blue is none."""
    pictures = torch.full((len(warmths), 3, 4, 4), -1.0)
    pictures[:, 0] += 2 * torch.tensor(warmths)[:, None, None]
    return pictures


def test_every_round_asks_new_prompts_and_no_picture_twice() -> None:
    asked = RoundSettings(rounds=3, prompts_per_round=5, images_per_prompt=4).asked(7)
    assert [len(each) for each in asked] == [5, 5, 5]
    seeds = [seed for each in asked for ask in each for seed in ask.seeds]
    assert len(seeds) == len(set(seeds)) == 60
    assert max(seeds) < first_seed(7, held_out=True) and min(seeds) >= first_seed(7, held_out=False)
    assert not {ask.prompt for each in asked for ask in each} & set(prompt_pool(held_out=True))


def test_the_best_and_the_worst_picture_of_a_prompt_become_a_pair() -> None:
    prompt = prompt_pool(held_out=False)[0]
    pictures = tinted(0.4, 0.8, 0.2, 0.5, 0.5, 0.6)
    asked = [Ask(prompt, range(3)), Ask(prompt, range(3, 6))]
    found, pairs = judged(WARM, asked, pictures)
    assert found == pytest.approx([0.4, 0.8, 0.2, 0.5, 0.5, 0.6], abs=1 / 255)
    assert [scores(TASTES["warm"], torch.stack(pair.latents)) for pair in pairs] == [
        pytest.approx([0.8, 0.2]), pytest.approx([0.6, 0.5])
    ]
    _, wide = judged(WARM, asked, pictures, min_gap=0.3)
    assert [pair.key for pair in wide] == [pairs[0].key]


def test_the_first_round_is_drawn_by_the_base_and_the_second_by_the_lora(
    network: FlowNetwork, done: tuple[list[Round], Adapter]
) -> None:
    (first, second), _ = done
    asked = SMALL.asked(0)
    assert torch.equal(first.pictures, answers(network, asked[0]))
    assert not torch.equal(second.pictures, answers(network, asked[1]))
    policy = build_adapter(network, AdapterSettings(2, 2.0), 0)
    assert first.state is not None
    policy.load(first.state.adapter)
    with attached(network, policy):
        assert torch.equal(second.pictures, answers(network, asked[1]))


def test_a_round_learns_from_its_own_pairs_and_from_as_many_earlier_ones(
    done: tuple[list[Round], Adapter]
) -> None:
    (first, second), _ = done
    assert first.state is not None and second.state is not None
    assert first.state.epochs.dataset == EncodedPairs(first.pairs).digest
    both = (*second.pairs, *replayed(2, first.pairs, 0.5, 1))
    assert len(both) == 4
    assert second.state.epochs.dataset == EncodedPairs(both).digest
    assert (first.state.step, second.state.step) == (1, 2)


def test_the_same_seed_gives_the_same_lora_bit_for_bit(
    network: FlowNetwork, done: tuple[list[Round], Adapter]
) -> None:
    def weights(rounds: list[Round]) -> list[Tensor]:
        assert rounds[-1].state is not None
        return list(rounds[-1].state.adapter.values())

    again, _ = run(network)
    assert all(map(torch.equal, weights(done[0]), weights(again)))
    other, _ = run(network, seed=1)
    assert not all(map(torch.equal, weights(done[0]), weights(other)))


def test_where_no_picture_is_better_than_another_nothing_is_learned(network: FlowNetwork) -> None:
    rounds, adapter = run(network, replace(SMALL, min_gap=9.0))
    fresh = build_adapter(network, AdapterSettings(2, 2.0), 0).snapshot()
    assert [(each.pairs, each.state) for each in rounds] == [((), None)] * 2
    assert all(torch.equal(weight, fresh[name]) for name, weight in adapter.snapshot().items())


def test_the_reference_is_the_base_unless_it_is_refreshed(
    network: FlowNetwork, done: tuple[list[Round], Adapter]
) -> None:
    assert done[1].frozen_reference() is None
    rounds, adapter = run(network, replace(SMALL, refresh_reference=True))
    reference = adapter.frozen_reference()
    assert reference is not None and rounds[0].state is not None
    assert all(torch.equal(reference[name], was) for name, was in rounds[0].state.adapter.items())


def test_sizes_that_make_no_pair_are_refused_all_at_once(network: FlowNetwork) -> None:
    with pytest.raises(ValueError, match="(?s)rounds is 0.*images_per_prompt is 1.*replay is 1:"):
        run(network, RoundSettings(rounds=0, images_per_prompt=1, replay=1.0))
