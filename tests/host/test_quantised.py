"""Quantised models are trained as what their weights stand for, never held as such."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.model_management
import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from hostkit.allocations import peak_bytes
from hostkit.load_states import load_state, sample
from hostkit.paging import partial_loading
from hostkit.plain_lora import true_gradients
from hostkit.quantised import STORAGES, card_with_kernels, dequantised
from hostkit.tiny_models import tiny_patcher
from hostkit.training import (
    adapter_gradients,
    compare,
    pack_module,
    random_pairs,
    steps,
    training,
    training_rows,
)
from torch import Tensor

STATES = {"fully loaded": "plain", "partly loaded": "partial", "paged": "evicted"}
OTHER_FAMILIES = [("flux_guidance", storage) for storage in ("fp8_layers", "nvfp4", "int8_rotated")]
ROUND_INPUTS_ON_A_CARD = (
    "fp8_e4m3fn_fast", "scaled_fp8", "fp8_layers", "fp8_layers_in_header", "mxfp8", "nvfp4",
    "nvfp4_smoothed",
)
ROUND_INPUTS_ANYWHERE = ("int8", "int8_rotated", "w4a4", "w4a8")
TOLERANCE = 2e-5
DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.fixture(scope="module", autouse=True)
def _models_go_in_time() -> Iterator[None]:
    yield
    dequantised_model.cache_clear()


@functools.cache
def dequantised_model(kind: str, storage: str) -> ModelPatcher:
    """A plainly loaded fp32 model, outside inference mode, of what the weights stand for."""
    held, patcher = tiny_patcher(kind, storage=storage), tiny_patcher(kind, inference=False)
    with torch.no_grad():
        for name, layer in patcher.model.diffusion_model.named_modules():
            source = held.model.diffusion_model.get_submodule(name)
            for part, tensor in {**layer._parameters, **layer._buffers}.items():
                if tensor is not None:
                    tensor.copy_(dequantised(source) if part == "weight" else getattr(source, part))
    return patcher


@functools.cache
def inputs(kind: str) -> tuple[dict[str, Tensor], Any]:
    """Weights of an adapter, and rows; the same for every storage and state."""
    with training(tiny_patcher(kind)) as run:
        return run.adapter.snapshot(), training_rows(kind, run.denoiser)


@functools.cache
def truth(kind: str, storage: str) -> dict[str, Tensor]:
    """The gradients by plain autograd."""
    model = dequantised_model(kind, storage)
    comfy.model_management.load_models_gpu([model])
    return true_gradients(kind, model, *inputs(kind))


def test_the_document_lists_what_is_tested() -> None:
    section = DOCUMENT.read_text(encoding="utf-8").partition("## Quantised weights\n")[2]
    section = section.partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines()
            if line.startswith("| ")]
    head, _, *formats = rows
    assert head[1:-1] == list(STATES)
    assert [row[0] for row in formats] == [storage.title for storage in STORAGES.values()]
    assert all(cell == "tested" for row in formats for cell in row[1:-1])


def difference(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def assert_trained_as_dequantised(kind: str, storage: str, state: str) -> None:
    with (
        load_state(state, kind, storage=storage) as (patcher, between),
        training(patcher, checkpointing=False) as run,
    ):
        found = adapter_gradients(run, inputs(kind)[1], between)
    error, cosine = compare(found, truth(kind, storage))
    assert error < TOLERANCE and cosine > 0.999999


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
@pytest.mark.parametrize("storage", STORAGES)
def test_gradients_are_those_of_the_dequantised_model(storage: str, state: str) -> None:
    assert_trained_as_dequantised("sd3", storage, state)


@pytest.mark.parametrize(("kind", "storage"), OTHER_FAMILIES)
def test_gradients_are_those_of_the_dequantised_model_in_other_families(
    kind: str, storage: str
) -> None:
    assert_trained_as_dequantised(kind, storage, "evicted")


@pytest.mark.parametrize("storage", ["fp8_layers", "nvfp4_smoothed", "w4a8"])
def test_gradients_in_half_precision(storage: str) -> None:
    compute = mock.patch.object(
        comfy.model_management, "unet_manual_cast", lambda *given, **more: torch.bfloat16
    )
    with compute:  # what the host chooses on most cards
        patcher = tiny_patcher("sd3", storage=storage)
    assert patcher.model.get_dtype_inference() == torch.bfloat16
    with training(patcher) as run:
        found = adapter_gradients(run, inputs("sd3")[1])
    error, cosine = compare(found, truth("sd3", storage))
    assert cosine > 0.999 and error < 0.1  # bf16 keeps 8 bits


@pytest.mark.parametrize("storage", [*ROUND_INPUTS_ON_A_CARD, *ROUND_INPUTS_ANYWHERE])
def test_inputs_are_not_rounded_as_for_a_picture(storage: str) -> None:
    with card_with_kernels():
        pictured = sample(tiny_patcher("sd3", storage=storage), "sd3")
        expected = sample(dequantised_model("sd3", storage), "sd3")
        assert difference(pictured, expected) > 1e-3
        assert_trained_as_dequantised("sd3", storage, "plain")
        with training(tiny_patcher("sd3", storage=storage)) as run, run.adapter.off():
            assert difference(sample(run.trained.patcher, "sd3"), expected) < 1e-5


def step_peak(patcher: ModelPatcher) -> int:
    with training(patcher, checkpointing=False) as run:
        rows = training_rows("sd3", run.denoiser)
        adapter_gradients(run, rows)
        return peak_bytes(lambda: adapter_gradients(run, rows))


@functools.cache
def plain_step_peak() -> int:
    return step_peak(tiny_patcher("sd3"))


@pytest.mark.parametrize("storage", STORAGES)
def test_weights_are_never_dequantised_whole(storage: str) -> None:
    network = tiny_patcher("sd3").model.diffusion_model
    sizes = [4 * p.numel() for n, p in network.named_parameters() if "blocks" in n and p.ndim == 2]
    held = step_peak(tiny_patcher("sd3", storage=storage))
    assert held < sum(sizes)  # with activations and the LoRA's gradients
    # One weight, and what the host's kernel needs to unpack it.
    assert held - plain_step_peak() < 4 * max(sizes)


def stored(patcher: ModelPatcher) -> dict[str, Tensor]:
    """All that the file brought, bit for bit."""
    state = patcher.model.diffusion_model.state_dict()
    return {name: t.detach().clone().view(torch.uint8) if t.ndim else t.detach().clone()
            for name, t in state.items()}


@pytest.mark.parametrize("storage", STORAGES)
def test_a_run_leaves_the_weights_and_its_lora_says_what_it_learned(
    storage: str, caplog: pytest.LogCaptureFixture
) -> None:
    patcher = tiny_patcher("sd3", storage=storage)
    before = stored(patcher)
    with training(patcher, filled=False) as run:
        pairs = random_pairs("sd3")
        first, last = steps(run, pairs, 2, batch_size=2, grad_accumulation_steps=1)
        learned = sample(run.trained.patcher, "sd3")
        state, alphas = last.state(), run.adapter.alphas()
    assert first.metrics["dpo/reward_margin"] == 0 and first.metrics["prediction_change"] == 0
    assert last.metrics["prediction_change"] > 0
    after = stored(patcher)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    lora = pack_module("dpo_core.saving.lora_file").lora_tensors(state.adapter, alphas)
    # The host puts a LoRA of a smoothed layer on the smoothed inputs, unless it is a bypass.
    bypass = storage == "nvfp4_smoothed"
    load = comfy.sd.load_bypass_lora_for_models if bypass else comfy.sd.load_lora_for_models
    with partial_loading() as loading:  # fully loaded, the host rounds the sum to the storage
        base = loading.load("sd3", storage=storage)
        untrained = sample(base, "sd3")
        with torch.inference_mode():
            loaded, _ = load(base, None, lora, 1.0, 0)
        found = sample(loaded, "sd3")
    assert "not loaded" not in caplog.text.lower()
    assert difference(found, learned) < 1e-5
    assert difference(untrained, learned) > 1e-4


def test_a_sampler_may_unload_a_quantised_model_that_training_loaded() -> None:
    patcher = tiny_patcher("sd3", storage="int8")
    with training(patcher) as run:
        run.denoiser.load()
    with torch.inference_mode():
        comfy.model_management.unload_all_models()
    assert comfy.model_management.loaded_models() == []
