from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from toykit.flow import ToyFlow
from toykit.pairs import joined, toy_pairs

from dpo_core.training.dataset import EncodedPairs, buckets, tensor_digest


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
