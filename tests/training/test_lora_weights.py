from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dpo_core.training.lora_weights import LoraWeights

LINEAR, KERNEL = (6, 4), (6, 4, 3, 3)
# Which of the two weights each set of shapes is for, of what type, and its rank.
PARTS: dict[str, tuple[dict[str, tuple[int, ...]], tuple[int, ...] | None, str, int]] = {
    "lora": ({"lora_A.weight": (2, 4), "lora_B.weight": (6, 2)}, LINEAR, "lora", 2),
    "lora of a kernel": (
        {"lora_A.weight": (2, 4, 3, 3), "lora_B.weight": (6, 2, 1, 1)}, KERNEL, "lora", 2
    ),
    "lora with a flat kernel": (
        {"lora_A.weight": (2, 36), "lora_B.weight": (6, 2)}, None, "lora", 2
    ),
    "lora of two ranks": ({"lora_A.weight": (2, 4), "lora_B.weight": (6, 3)}, None, "lora", 2),
    "dora": (
        {"lora_A.weight": (3, 4), "lora_B.weight": (6, 3), "dora_scale": (1, 4)}, LINEAR, "dora", 3
    ),
    "dora of the outputs": (
        {"lora_A.weight": (3, 4), "lora_B.weight": (6, 3), "dora_scale": (6, 1)}, None, "dora", 3
    ),
    "loha": (
        {"hada_w1_a": (6, 5), "hada_w1_b": (5, 36), "hada_w2_a": (6, 5), "hada_w2_b": (5, 36)},
        KERNEL, "loha", 5,
    ),
    "half a loha": ({"hada_w1_a": (6, 5), "hada_w1_b": (5, 36)}, None, "loha", 5),
    "lokr": ({"lokr_w1": (2, 2), "lokr_w2": (3, 2)}, LINEAR, "lokr", 0),
    "lokr in factors": (
        {"lokr_w1_a": (2, 9), "lokr_w1_b": (9, 2), "lokr_w2_a": (3, 7), "lokr_w2_b": (7, 18)},
        KERNEL, "lokr", 7,
    ),
    "lokr, the first in factors": (
        {"lokr_w1_a": (2, 9), "lokr_w1_b": (9, 4), "lokr_w2": (3, 9)}, KERNEL, "lokr", 9
    ),
    "lokr across channels": ({"lokr_w1": (2, 12), "lokr_w2": (3, 3)}, None, "lokr", 0),
    "lokr with a kernel": ({"lokr_w1": (2, 2), "lokr_w2": (3, 2, 3, 3)}, None, "lokr", 0),
    "half a lokr": ({"lokr_w1": (2, 2)}, None, "lokr", 0),
}  # fmt: skip


@pytest.mark.parametrize("case", PARTS)
def test_a_layers_weights_say_what_they_are_and_what_they_fit(case: str) -> None:
    shapes, fits, kind, rank = PARTS[case]
    parts: dict[str, Tensor] = {name: torch.ones(shape) for name, shape in shapes.items()}
    weights = LoraWeights(parts, 1.0)
    assert (weights.kind, weights.rank) == (kind, rank)
    for shape in (LINEAR, KERNEL, (6, 4, 3), (4, 6)):
        assert weights.fits(shape) == (shape == fits), shape
