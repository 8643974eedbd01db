"""The simulated card computes what a plain load computes, and breaks what a real card breaks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from hostkit.paging import dynamic_paging, partial_loading
from hostkit.tiny_models import denoise, random_conditioning, random_latents, tiny_patcher
from torch import Tensor

KINDS = ["sd15", "sd3", "flux_guidance"]
STORAGES = [{}, {"dtype": torch.float8_e4m3fn}, {"quantized": True}]
SIGMA = 0.6
LORA_TARGET = {
    "sd15": "input_blocks.1.1.transformer_blocks.0.attn1.to_out.0",
    "sd3": "joint_blocks.0.x_block.attn.proj",
}
UPSTREAM_TARGET = {
    "sd15": "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
    "sd3": "diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",
}


def sample(patcher: ModelPatcher, kind: str, differentiable: bool = False) -> Tensor:
    latents, conditioning = random_latents(kind, batch=2), random_conditioning(kind)
    return denoise(patcher, latents, conditioning, SIGMA, differentiable)


@contextmanager
def naive_lora(patcher: ModelPatcher, kind: str) -> Iterator[list[torch.nn.Parameter]]:
    """A rank-2 adapter as a plain forward hook: nothing keeps autograd from saving weights."""
    layer = patcher.model.diffusion_model.get_submodule(LORA_TARGET[kind])
    generator = torch.Generator().manual_seed(3)
    down = torch.nn.Parameter(0.1 * torch.randn(2, layer.in_features, generator=generator))
    up = torch.nn.Parameter(0.1 * torch.randn(layer.out_features, 2, generator=generator))

    def add(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + inputs[0] @ down.t() @ up.t()

    handle = layer.register_forward_hook(add)
    try:
        yield [down, up]
    finally:
        handle.remove()


def backward(output: Tensor, lora: list[torch.nn.Parameter]) -> Tensor:
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(4))
    grads = torch.autograd.grad((output * direction).sum(), lora)
    return torch.cat([grad.flatten() for grad in grads])


def true_gradient(kind: str) -> tuple[Tensor, Tensor]:
    patcher = tiny_patcher(kind, inference=False)
    with naive_lora(patcher, kind) as lora:
        output = sample(patcher, kind, differentiable=True)
        return output.detach(), backward(output, lora)


def cosine(a: Tensor, b: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a, b, dim=0).item()


def add_upstream_lora(patcher: ModelPatcher, kind: str) -> ModelPatcher:
    key = UPSTREAM_TARGET[kind]
    weight = patcher.model.diffusion_model.get_parameter(key.removeprefix("diffusion_model."))
    delta = 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(5))
    patched = patcher.clone()
    assert patched.add_patches({key: ("diff", (delta,))}, 1.0) == [key]
    return patched


@pytest.mark.parametrize("storage", STORAGES, ids=["fp32", "fp8", "quantised"])
@pytest.mark.parametrize("kind", KINDS)
def test_paged_passes_equal_a_plain_load(kind: str, storage: dict[str, object]) -> None:
    plain = sample(tiny_patcher(kind, **storage), kind)
    # The host's fp8 matrix product takes another kernel on a card: equal up to rounding.
    tolerance = 1e-4 if "quantized" in storage else 0.0
    for resident in (0.0, 0.5, 1.0):
        with dynamic_paging(resident) as paging:
            patcher = paging.load(kind, **storage)
            for _ in range(2):
                assert (sample(patcher, kind) - plain).abs().max() <= tolerance
            paging.evict()
            assert (sample(patcher, kind) - plain).abs().max() <= tolerance
            assert paging.pinned_pages() == 0
            assert sum(hasattr(m, "_v") for m in patcher.model.modules()) > 20
    with partial_loading() as loading:
        patcher = loading.load(kind, **storage)
        assert (sample(patcher, kind) - plain).abs().max() <= tolerance
        assert loading.offloaded_layers(patcher) > 20


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_autograd_over_offloaded_layers_is_silently_wrong(kind: str) -> None:
    output, truth = true_gradient(kind)
    with dynamic_paging(resident=0.0) as paging:
        patcher = paging.load(kind, inference=False)
        with naive_lora(patcher, kind) as lora:
            paged = sample(patcher, kind, differentiable=True)
            assert torch.allclose(paged, output, atol=1e-4)
            assert cosine(backward(paged, lora), truth) < 0.9


def test_autograd_over_layers_left_by_a_sampling_run_raises() -> None:
    with dynamic_paging(resident=1.0) as paging:
        patcher = paging.load("sd3", inference=False)
        sample(patcher, "sd3")
        with naive_lora(patcher, "sd3"), pytest.raises(RuntimeError, match="[Ii]nference tensor"):
            sample(patcher, "sd3", differentiable=True)


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_autograd_over_resident_layers_is_right_until_they_are_evicted(kind: str) -> None:
    _, truth = true_gradient(kind)
    with dynamic_paging(resident=1.0) as paging:
        patcher = paging.load(kind, inference=False)
        with naive_lora(patcher, kind) as lora:
            kept = backward(sample(patcher, kind, differentiable=True), lora)
            output = sample(patcher, kind, differentiable=True)
            paging.evict()
            evicted = backward(output, lora)
    assert cosine(kept, truth) > 0.9999
    assert cosine(evicted, truth) < 0.5


def test_autograd_over_a_classically_offloaded_model_raises() -> None:
    with partial_loading() as loading:
        patcher = loading.load("sd3", inference=False)
        with naive_lora(patcher, "sd3") as lora:
            output = sample(patcher, "sd3", differentiable=True)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                backward(output, lora)


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_upstream_lora_acts_on_the_fly(kind: str) -> None:
    base = sample(tiny_patcher(kind), kind)
    plain = sample(add_upstream_lora(tiny_patcher(kind), kind), kind)
    assert (plain - base).abs().max() > 1e-2
    layer = UPSTREAM_TARGET[kind].removeprefix("diffusion_model.").removesuffix(".weight")
    for resident in (0.0, 1.0):
        with dynamic_paging(resident) as paging:
            unpatched = paging.load(kind)
            patched = add_upstream_lora(unpatched, kind)
            assert torch.allclose(sample(patched, kind), plain, atol=1e-4)
            module = patched.model.diffusion_model.get_submodule(layer)
            assert isinstance(module.weight_lowvram_function, comfy.model_patcher.LowVramPatch)
            assert torch.equal(sample(unpatched, kind), base)
            assert torch.allclose(sample(patched, kind), plain, atol=1e-4)
    with partial_loading() as loading:
        patched = add_upstream_lora(loading.load(kind), kind)
        assert torch.allclose(sample(patched, kind), plain, atol=1e-4)


def test_half_resident_card_keeps_some_layers_and_stages_the_others() -> None:
    with dynamic_paging(resident=0.5) as paging:
        patcher = paging.load("sd3")
        sample(patcher, "sd3")
        paged = [m for m in patcher.model.modules() if hasattr(m, "_v")]
        resident = [m for m in paged if m._v_signature is not None]
        assert 0 < len(resident) < len(paged)


def test_the_host_is_put_back_and_models_are_unloaded() -> None:
    management = comfy.model_management

    def state() -> list[object]:
        return [
            comfy.ops.cast_bias_weight,
            management.is_device_cpu,
            management.get_offload_stream,
            management.LoadedModel.model_load,
            comfy.model_patcher.CoreModelPatcher,
        ]

    before = state()
    with pytest.raises(ZeroDivisionError), dynamic_paging() as paging:
        sample(paging.load("sd3"), "sd3")
        assert state() != before
        raise ZeroDivisionError
    with partial_loading() as loading:
        sample(loading.load("sd3"), "sd3")
    assert state() == before
    assert management.current_loaded_models == []
    assert management.is_device_cpu(torch.device("cpu", 0))
