from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from toykit.flow import ToyFlow
from toykit.pairs import joined, toy_pairs

from dpo_core.training.dataset import (
    EncodedGroup,
    EncodedImage,
    EncodedPair,
    EncodedPairs,
    buckets,
    labels_of,
    tensor_digest,
)
from dpo_core.training.objectives import Objective


def test_images_of_different_sizes_do_not_share_a_bucket() -> None:
    small, wide = toy_pairs(2), toy_pairs(3, shape=(2, 4, 8))
    mixed = joined(small, wide, small)
    assert buckets(mixed.pairs, ToyFlow()) == [[0, 1, 5, 6], [2, 3, 4]]


def test_prompts_the_model_cannot_batch_do_not_share_a_bucket() -> None:
    pairs = toy_pairs(3)
    longer = replace(pairs[1], conditioning=torch.zeros(5))
    assert buckets((pairs[0], longer, pairs[2]), ToyFlow()) == [[0, 2], [1]]


def test_training_pairs_are_those_not_held_out() -> None:
    pairs = toy_pairs(4)
    split = EncodedPairs(tuple(replace(p, held_out=i % 2 == 1) for i, p in enumerate(pairs)))
    assert [pair.key for pair in split.training()] == [pairs[0].key, pairs[2].key]
    assert len(split) == 4


def test_a_datasets_digest_sees_pairs_their_order_and_how_sure_they_are() -> None:
    pairs = toy_pairs(3)
    others = [
        EncodedPairs(pairs.pairs[:2]),
        EncodedPairs(pairs.pairs[::-1]),
        EncodedPairs((replace(pairs[0], chosen_probability=0.9), *pairs.pairs[1:])),
        EncodedPairs((replace(pairs[0], key="another"), *pairs.pairs[1:])),
    ]
    assert len({pairs.digest, *(other.digest for other in others)}) == 5
    assert pairs.digest == toy_pairs(3).digest
    assert pairs.training().digest == pairs.digest


def test_a_tensors_digest_sees_value_shape_dtype_and_order_but_not_memory_layout() -> None:
    x = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    different = [x + 1, x.reshape(3, 2), x.double(), x.bfloat16(), x.view(torch.int32)]
    assert len({tensor_digest(t) for t in [x, *different]}) == 6
    assert tensor_digest(x) == tensor_digest(x.T.contiguous().T)
    assert tensor_digest(x) == tensor_digest(x.clone().requires_grad_())
    assert tensor_digest(x, x + 1) != tensor_digest(x + 1, x)
    assert tensor_digest(x, x) != tensor_digest(x)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.int64, torch.bool])
def test_every_dtype_and_a_scalar_have_a_digest(dtype: torch.dtype) -> None:
    one, zero = torch.ones((), dtype=dtype), torch.zeros((), dtype=dtype)
    assert tensor_digest(one) != tensor_digest(zero)


# What an objective learns from


def image(number: int, liked: bool = True, prompt: str = "a hill") -> EncodedImage:
    return EncodedImage(torch.full((2, 4, 4), float(number)), torch.zeros(3), f"image {number}",
                        liked, prompt)


def pair(chosen: int, rejected: int, prompt: str = "a hill", **other: Any) -> EncodedPair:
    sides = (torch.full((2, 4, 4), float(number)) for number in (chosen, rejected))
    return EncodedPair(*sides, torch.zeros(3), f"pair {chosen} {rejected}", prompt, **other)


def group(*numbers: int, prompt: str = "a hill") -> EncodedGroup:
    latents = tuple(torch.full((2, 4, 4), float(number)) for number in numbers)
    ratings = tuple(float(-i) for i in range(len(numbers)))
    return EncodedGroup(latents, ratings, torch.zeros(3), f"group {numbers}", prompt)


def numbers(dataset: EncodedPairs) -> list[list[float]]:
    return [[x.flatten()[0].item() for x in record.latents] for record in dataset.records]


EVERYTHING = EncodedPairs(
    (pair(1, 2), pair(3, 4), pair(5, 6, tie=True)), (image(7), image(2)), (group(3, 8, 4),)
)


def test_losses_of_pairs_read_pairs_and_only_one_reads_ties() -> None:
    assert numbers(EVERYTHING.used_by(Objective("ipo"))) == [[1, 2], [3, 4]]
    assert numbers(EVERYTHING.used_by(Objective("davidson"))) == [[1, 2], [3, 4], [5, 6]]
    used = EVERYTHING.used_by(Objective("ipo"))
    assert used.counted == "2 pairs" and len(used) == 2


def test_kto_reads_thumbs_and_the_sides_of_pairs_that_have_none() -> None:
    used = EVERYTHING.used_by(Objective("kto"))
    # 2 has a thumb up, which says more than having lost once; 5 and 6 are as good as each other.
    assert numbers(used) == [[7], [2], [1], [3], [4]]
    assert [one.liked for one in used.labelled] == [True, True, True, True, False]
    assert used.counted == "5 single images"
    # Four liked, one disliked: its loss counts 4 / (4/3) = 3 times.
    assert [one.weight for one in used.labelled] == pytest.approx([1, 1, 1, 1, 3])
    assert len({one.key for one in used.labelled}) == 5


def test_an_image_in_many_pairs_is_one_single_image_for_each_thing_said_of_it() -> None:
    used = EncodedPairs((pair(1, 2), pair(1, 3), pair(2, 3))).used_by(Objective("kto"))
    said = [(*x, one.liked) for x, one in zip(numbers(used), used.labelled, strict=True)]
    assert said == [(1, True), (2, False), (3, False), (2, True)]
    other = EncodedPairs((pair(1, 2), pair(1, 3, prompt="a lake"))).used_by(Objective("kto"))
    assert len(other.records) == 4, "under another prompt it is another"


def test_dgpo_reads_rankings_and_pairs_that_are_no_part_of_one_as_groups_of_two() -> None:
    used = EVERYTHING.used_by(Objective("dgpo"))
    assert numbers(used) == [[3, 8, 4], [1, 2]]
    assert [one.ratings[0] > one.ratings[-1] for one in used.groups] == [True, True]
    assert used.counted == "2 ranked groups"


@pytest.mark.parametrize("loss", ["sigmoid", "kto", "dgpo", "davidson"])
def test_what_is_used_is_used_again_unchanged(loss: str) -> None:
    used = EVERYTHING.used_by(Objective(loss))
    again = used.used_by(Objective(loss))
    assert numbers(again) == numbers(used) and again.digest == used.digest


def test_what_an_objective_does_not_read_does_not_change_its_run() -> None:
    more = replace(EVERYTHING, labelled=(*EVERYTHING.labelled, image(9)))
    assert more.digest != EVERYTHING.digest
    digests = {one.used_by(Objective()).digest for one in (more, EVERYTHING)}
    assert len(digests) == 1


def test_a_digest_sees_everything_that_was_said() -> None:
    pairs = EncodedPairs((pair(1, 2),))
    others = [
        EncodedPairs((pair(1, 2, rating_gap=0.5),)), EncodedPairs((pair(1, 2, tie=True),)),
        EncodedPairs((), (image(1),)), EncodedPairs((), (image(1, liked=False),)),
        EncodedPairs((), (replace(image(1), weight=2.0),)), EncodedPairs((), (), (group(1, 2),)),
        EncodedPairs((), (), (replace(group(1, 2), ratings=(5.0, 0.0)),)),
    ]
    assert len({pairs.digest, *(other.digest for other in others)}) == 8


def test_all_kinds_of_records_can_be_held_out() -> None:
    kept = EncodedPairs(
        (pair(1, 2), pair(3, 4, held_out=True)), (image(5), replace(image(6), held_out=True)),
        (group(7, 8), replace(group(9, 10), held_out=True)),
    )
    parts = [(len(p.pairs), len(p.labelled), len(p.groups)) for p in (
        kept.training(), kept.held_out()
    )]
    assert parts == [(1, 1, 1), (1, 1, 1)]
    assert kept.held_out().pairs[0].key == "pair 3 4"


@pytest.mark.parametrize(
    ("dataset", "loss", "words"),
    [
        (EncodedPairs((), (image(1), image(2))), "sigmoid", ["only 2 liked", "loss kto"]),
        (EncodedPairs(()), "sigmoid", ["no pair"]),
        (EncodedPairs((pair(1, 2, tie=True),)), "ipo", ["ties", "davidson"]),
        (EncodedPairs(()), "kto", ["kto", "liked and disliked images", "none"]),
        (EncodedPairs((pair(1, 2, tie=True),)), "kto", ["kto", "none"]),
        (EncodedPairs((), (image(1),)), "dgpo", ["dgpo", "rankings", "none"]),
        (EncodedPairs((pair(1, 2, rating_gap=1.0), pair(3, 4))), "rpo_fwd",
         ["rpo_fwd", "ratings", "1 of 2 pairs"]),
    ],
)
def test_what_is_missing_is_said_with_what_to_do(
    dataset: EncodedPairs, loss: str, words: list[str]
) -> None:
    (problem,) = dataset.problems(Objective(loss))
    assert all(word in problem for word in words)


@pytest.mark.parametrize("loss", ["sigmoid", "kto", "dgpo", "davidson"])
def test_where_there_is_what_it_learns_from_nothing_is_missing(loss: str) -> None:
    assert EVERYTHING.problems(Objective(loss)) == []
    rated = EncodedPairs((pair(1, 2, rating_gap=0.0),))
    assert rated.problems(Objective("rpo_bwd")) == []


def test_groups_of_another_number_of_images_do_not_share_a_bucket() -> None:
    groups = [group(1, 2, 3), group(4, 5), group(6, 7, 8)]
    assert buckets(groups, ToyFlow()) == [[0, 2], [1]]


def test_labels_of_pairs_images_and_groups() -> None:
    pairs = labels_of([pair(1, 2, chosen_probability=0.75, rating_gap=0.5),
                       pair(3, 4, rating_gap=-1.0, tie=True)])
    assert pairs.chosen_probability.tolist() == [0.75, 1]
    assert pairs.rating_gap is not None and pairs.rating_gap.tolist() == [0.5, -1]
    assert pairs.tie is not None and pairs.tie.tolist() == [0, 1]
    assert labels_of([pair(1, 2, rating_gap=0.5), pair(3, 4)]).rating_gap is None
    images = labels_of([image(1), replace(image(2, liked=False), weight=1.5)])
    assert images.liked is not None and images.liked.tolist() == [1, 0]
    assert images.weight is not None and images.weight.tolist() == [1, 1.5]
    groups = labels_of([group(1, 2, 3), replace(group(4, 5, 6), ratings=(3.0, 1.0, 1.0))])
    assert groups.ratings is not None
    assert groups.ratings.tolist() == [[0, 3], [-1, 1], [-2, 1]]  # image by image
