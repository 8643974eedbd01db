from __future__ import annotations

import torch
from toykit.flow import ToyFlow
from toykit.pairs import toy_pairs

from dpo_core.training.batch import Batch
from dpo_core.training.batch import gather as gather_batch
from dpo_core.training.dataset import EncodedGroup, EncodedImage, EncodedPairs
from dpo_core.training.noise import NoiseSettings, draws
from dpo_core.training.plan import MicroBatch

PAIRS = toy_pairs(4, chosen_probability=0.75)


def gather(
    *indices: int, shared: bool = True, visit: int = 0, pairs: EncodedPairs = PAIRS, seed: int = 0
) -> Batch:
    return gather_batch(
        pairs.records, MicroBatch(indices, visit), ToyFlow(), NoiseSettings(), seed, shared
    )


def test_row_i_of_both_sides_belongs_to_pair_i() -> None:
    batch = gather(2, 0, 3)
    assert len(batch) == 3
    for row, index in enumerate((2, 0, 3)):
        assert torch.equal(batch.images[0].latents[row], PAIRS[index].chosen)
        assert torch.equal(batch.images[1].latents[row], PAIRS[index].rejected)
        assert batch.images[0].conditioning[row] is PAIRS[index].conditioning
        assert batch.images[1].conditioning[row] is PAIRS[index].conditioning
    assert batch.labels.chosen_probability.tolist() == [0.75] * 3


def test_shared_noise_is_one_sigma_and_one_noise_for_both_images() -> None:
    batch = gather(0, 1, 2)
    assert torch.equal(batch.images[0].sigma, batch.images[1].sigma)
    assert torch.equal(batch.images[0].noise, batch.images[1].noise)
    assert len(set(batch.images[0].sigma.tolist())) == 3, "every pair has a draw of its own"


def test_without_shared_noise_only_the_rejected_image_gets_another_draw() -> None:
    shared, own = gather(0, 1, 2), gather(0, 1, 2, shared=False)
    assert torch.equal(own.images[0].sigma, shared.images[0].sigma)
    assert torch.equal(own.images[0].noise, shared.images[0].noise)
    for row in range(3):
        assert own.images[1].sigma[row] != own.images[0].sigma[row]
        assert not torch.equal(own.images[1].noise[row], own.images[0].noise[row])


def test_a_pairs_noise_does_not_depend_on_its_batch_or_its_place_in_the_dataset() -> None:
    reordered = EncodedPairs((PAIRS[3], PAIRS[1]))
    for shared in (True, False):
        alone = gather(1, shared=shared)
        among = gather(0, 3, 1, shared=shared)
        moved = gather(1, shared=shared, pairs=reordered)
        for one, other, third in zip(alone.images, among.images, moved.images, strict=True):
            assert torch.equal(one.noise[0], other.noise[2])
            assert torch.equal(one.noise[0], third.noise[0])
            assert one.sigma[0] == other.sigma[2] == third.sigma[0]


def test_each_visit_and_each_seed_brings_new_noise() -> None:
    sigmas = [
        gather(0, visit=visit, seed=seed).images[0].sigma.item()
        for visit in range(3) for seed in range(3)
    ]
    assert len(set(sigmas)) == 9


def test_sigma_is_the_models_own_schedule_at_the_drawn_position() -> None:
    batch = gather(1, visit=5)
    (expected,) = draws(NoiseSettings(), "uniform", 0, PAIRS[1].key, 5, "pair", (2, 4, 4))
    # The toy's schedule falls linearly from 1 at position 0.
    assert batch.images[0].sigma.item() == torch.tensor(1 - expected.percent).float().item()
    assert torch.equal(batch.images[0].noise[0], expected.noise)
    assert batch.images[0].sigma.dtype == batch.images[0].noise.dtype == torch.float32


def test_every_image_of_a_group_has_rows_of_its_own_and_shares_the_noise_or_not() -> None:
    latents = tuple(torch.full((2, 4, 4), float(i)) for i in range(4))
    groups = EncodedPairs(
        (), (), (EncodedGroup(latents, (3.0, 2.0, 1.0, 0.0), torch.zeros(3), "one group"),)
    )
    shared, own = gather(0, pairs=groups), gather(0, pairs=groups, shared=False)
    assert [rows.latents[0, 0, 0, 0].item() for rows in shared.images] == [0, 1, 2, 3]
    assert len({rows.sigma.item() for rows in shared.images}) == 1
    assert len({rows.sigma.item() for rows in own.images}) == 4
    assert own.images[0].sigma == shared.images[0].sigma
    assert shared.labels.ratings is not None and shared.labels.ratings.shape == (4, 1)


def test_single_images_come_one_by_one_with_their_labels() -> None:
    images = EncodedPairs((), tuple(
        EncodedImage(torch.full((2, 4, 4), float(i)), torch.zeros(3), f"image {i}", i > 0)
        for i in range(3)
    ))
    batch = gather(2, 0, pairs=images, visit=4)
    (rows,) = batch.images
    assert rows.latents[:, 0, 0, 0].tolist() == [2, 0] and len(batch) == 2 and batch.epoch == 4
    assert batch.labels.liked is not None and batch.labels.liked.tolist() == [1, 0]
