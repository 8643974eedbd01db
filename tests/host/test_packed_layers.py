"""Layers of extensions that keep weights in a form of their own are trained through."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import comfy.model_management
import comfy.ops
import pytest
import torch
from hostkit.load_states import sample
from hostkit.packed_layers import PackedOps, PackedTensor, packed_patcher, unpacked
from hostkit.paging import CARD, dynamic_paging, partial_loading
from hostkit.plain_lora import true_gradients
from hostkit.tiny_models import tiny_patcher
from hostkit.training import adapter_gradients, compare, pack_module, training, training_rows
from torch import Tensor, nn

LOADING: dict[str, Any] = {
    "plain": nullcontext, "partly loaded": partial_loading, "where others are paged": dynamic_paging
}


def truth(kind: str, weights: dict[str, Tensor], rows: Any) -> dict[str, Tensor]:
    """The gradients of the plain model of what the packed weights stand for, by autograd."""
    network = packed_patcher(kind).model.diffusion_model
    model = tiny_patcher(kind, inference=False)
    with torch.no_grad():
        for name, layer in model.model.diffusion_model.named_modules():
            if isinstance(held := network.get_submodule(name), PackedOps.Linear):
                layer.weight.copy_(unpacked(held.weight, torch.float32))
    comfy.model_management.load_models_gpu([model])
    return true_gradients(kind, model, weights, rows)


@pytest.mark.parametrize("loading", LOADING.values(), ids=LOADING)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_gradients_are_those_of_what_weights_stand_for(checkpointing: bool, loading: Any) -> None:
    kind = "sd3"
    with loading() as card:
        patcher = packed_patcher(kind, None if card is None else CARD)
        sample(patcher, kind)
        with training(patcher, checkpointing=checkpointing) as run:
            rows, weights = training_rows(kind, run.denoiser), run.adapter.snapshot()
            found = adapter_gradients(run, rows)
    error, cosine = compare(found, truth(kind, weights, rows))
    assert error < 2e-5 and cosine > 0.999999


def test_a_model_is_known_by_packed_weights_behind_placeholders() -> None:
    identity = pack_module("nodes.host.identity").model_identity
    first, again, other = (packed_patcher("sd3") for _ in range(3))
    layer = other.model.diffusion_model.joint_blocks[0].x_block.mlp.fc1
    with torch.inference_mode():  # a place that is looked at; two files differ everywhere
        layer.weight.as_subclass(Tensor)[0, 0] += 1
    assert identity(first) == identity(again)
    assert identity(first)["weights"] != identity(other)["weights"]


def test_weights_in_an_unknown_form_are_refused() -> None:
    class Nibbles(nn.Module):  # as layers that bring kernels of their own
        def __init__(self) -> None:
            super().__init__()
            bits = torch.zeros(4, 2, dtype=torch.int8)
            self.qweight = nn.Parameter(bits, requires_grad=False)

    class Bytes(comfy.ops.manual_cast.Linear):
        pass

    problems = pack_module("nodes.host.trainable").model_problems
    patcher = packed_patcher("sd3")
    assert problems(patcher) == []
    patcher.model.diffusion_model.extra = nn.ModuleList([Nibbles(), Nibbles()])
    patcher.model.diffusion_model.late = Bytes(2, 4)
    bits = torch.zeros(4, 1, dtype=torch.uint8)
    patcher.model.diffusion_model.late.weight = nn.Parameter(bits, requires_grad=False)
    (problem,) = problems(patcher)
    assert "(Bytes, Nibbles)" in problem and "cannot be trained through" in problem


@pytest.mark.parametrize("kind", ["RMSNorm", "LayerNorm"])
def test_a_class_that_spreads_ends_at_the_next_layer(kind: str) -> None:
    norm, plain = getattr(comfy.ops.manual_cast, kind)(6), getattr(nn, kind)(6)
    weight = torch.rand(6) + 0.5
    plain.weight = nn.Parameter(weight, requires_grad=False)
    norm.load_state_dict(plain.state_dict())
    norm.weight = nn.Parameter(PackedTensor(weight), requires_grad=False)
    forward = pack_module("nodes.host.frozen_layer").frozen_forward(norm)
    x = torch.randn(2, 6)
    assert type(norm(x)) is PackedTensor
    results = []
    for compute in (forward, plain):
        leaf = x.clone().requires_grad_()
        y = compute(leaf)
        results += [y.detach(), *torch.autograd.grad(y.square().sum(), leaf)]
    output, gradient, expected_output, expected_gradient = results
    assert type(output) is type(gradient) is Tensor
    assert torch.allclose(output, expected_output, atol=1e-6)
    assert torch.allclose(gradient, expected_gradient, atol=1e-6)
