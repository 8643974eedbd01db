from __future__ import annotations

import torch
from toykit.flow import ToyFlow
from toykit.pairs import toy_pairs

from dpo_core.training.batch import PairBatch, pair_batch
from dpo_core.training.dataset import EncodedPairs
from dpo_core.training.noise import NoiseSettings, draw
from dpo_core.training.plan import MicroBatch

PAIRS = toy_pairs(4, chosen_probability=0.75)


def gather(
    *indices: int, shared: bool = True, visit: int = 0, pairs: EncodedPairs = PAIRS, seed: int = 0
) -> PairBatch:
    return pair_batch(
        pairs, MicroBatch(indices, visit), ToyFlow(), NoiseSettings(), seed, shared
    )


def test_row_i_of_both_sides_belongs_to_pair_i() -> None:
    batch = gather(2, 0, 3)
    assert len(batch) == 3
    for row, index in enumerate((2, 0, 3)):
        assert torch.equal(batch.chosen.latents[row], PAIRS[index].chosen)
        assert torch.equal(batch.rejected.latents[row], PAIRS[index].rejected)
        assert batch.chosen.conditioning[row] is PAIRS[index].conditioning
        assert batch.rejected.conditioning[row] is PAIRS[index].conditioning
    assert batch.chosen_probability.tolist() == [0.75] * 3


def test_shared_noise_is_one_sigma_and_one_noise_for_both_images() -> None:
    batch = gather(0, 1, 2)
    assert torch.equal(batch.chosen.sigma, batch.rejected.sigma)
    assert torch.equal(batch.chosen.noise, batch.rejected.noise)
    assert len(set(batch.chosen.sigma.tolist())) == 3, "every pair has a draw of its own"


def test_without_shared_noise_only_the_rejected_image_gets_another_draw() -> None:
    shared, own = gather(0, 1, 2), gather(0, 1, 2, shared=False)
    assert torch.equal(own.chosen.sigma, shared.chosen.sigma)
    assert torch.equal(own.chosen.noise, shared.chosen.noise)
    for row in range(3):
        assert own.rejected.sigma[row] != own.chosen.sigma[row]
        assert not torch.equal(own.rejected.noise[row], own.chosen.noise[row])


def test_a_pairs_noise_does_not_depend_on_its_batch_or_its_place_in_the_dataset() -> None:
    reordered = EncodedPairs((PAIRS[3], PAIRS[1]))
    for shared in (True, False):
        alone = gather(1, shared=shared)
        among = gather(0, 3, 1, shared=shared)
        moved = gather(1, shared=shared, pairs=reordered)
        for side in ("chosen", "rejected"):
            noise, sigma = getattr(alone, side).noise[0], getattr(alone, side).sigma[0]
            assert torch.equal(noise, getattr(among, side).noise[2])
            assert torch.equal(noise, getattr(moved, side).noise[0])
            assert sigma == getattr(among, side).sigma[2] == getattr(moved, side).sigma[0]


def test_each_visit_and_each_seed_brings_new_noise() -> None:
    sigmas = [
        gather(0, visit=visit, seed=seed).chosen.sigma.item()
        for visit in range(3) for seed in range(3)
    ]
    assert len(set(sigmas)) == 9


def test_sigma_is_the_models_own_schedule_at_the_drawn_position() -> None:
    batch = gather(1, visit=5)
    expected = draw(NoiseSettings(), "uniform", 0, PAIRS[1].key, 5, "pair", (2, 4, 4))
    # The toy's schedule falls linearly from 1 at position 0.
    assert batch.chosen.sigma.item() == torch.tensor(1 - expected.percent).float().item()
    assert torch.equal(batch.chosen.noise[0], expected.noise)
    assert batch.chosen.sigma.dtype == batch.chosen.noise.dtype == torch.float32
