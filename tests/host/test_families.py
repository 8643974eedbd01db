"""Every family of image models that the host loads can be trained, whatever its conditioning.

One tiny model each; all states in which a card may hold the weights are tried for every family
where DPO_ALL_LOAD_STATES is set, otherwise the one that most breaks.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any

import comfy.model_sampling
import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from hostkit.families import FAMILIES
from hostkit.load_states import LOAD_STATES, load_state
from hostkit.tiny_models import denoise, tiny_patcher
from hostkit.training import (
    Training,
    objective,
    pack_module,
    random_pairs,
    steps,
    training,
    training_rows,
)
from torch import Tensor

STEP = 3e-4
STEPS = 3
ALL = bool(os.environ.get("DPO_ALL_LOAD_STATES"))
STATES = LOAD_STATES if ALL else ("evicted",)
# Always those with parameters that no layer of the host manages: a gate, a modulation.
IN_FP8 = [
    kind for kind in (FAMILIES if ALL else ("hidream", "krea2"))
    if kind != "z_image_pixel"  # the host's own code for it does not run in fp8
]


@functools.cache
def model(kind: str) -> ModelPatcher:
    return tiny_patcher(kind)


@pytest.fixture(scope="module", autouse=True)
def _models_go_in_time() -> Iterator[None]:
    yield
    model.cache_clear()  # the host takes models apart with modules that are gone at exit


def per_output(sigma: float, sampling: Any) -> float:
    """What one unit of the network's answer adds to the denoised image, by the books."""
    data = getattr(sampling, "sigma_data", 1.0)
    if isinstance(sampling, comfy.model_sampling.COSMOS_RFLOW):
        return -sigma / (sigma + 1)  # rectified flow in Karras' sigmas
    if isinstance(sampling, comfy.model_sampling.EDM):
        return sigma * data / (sigma**2 + data**2) ** 0.5  # Karras et al. 2022, equation 7
    if isinstance(sampling, comfy.model_sampling.V_PREDICTION):
        return -sigma * data / (sigma**2 + data**2) ** 0.5
    return -sigma  # epsilon and flow


def host_residual(patcher: ModelPatcher, rows: Any) -> Tensor:
    """Prediction minus target of every row, from images denoised as a sampler does, one by one."""
    sampling = patcher.get_model_object("model_sampling")
    found = []
    for i, entry in enumerate(rows.conditioning):
        sigma, noise = float(rows.sigma[i]), rows.noise[i : i + 1]
        clean = patcher.model.process_latent_in(rows.latents[i : i + 1])
        if isinstance(sampling, comfy.model_sampling.COSMOS_RFLOW) or not isinstance(
            sampling, comfy.model_sampling.CONST
        ):
            noisy = clean + sigma * noise
        else:
            noisy = (1 - sigma) * clean + sigma * getattr(sampling, "noise_scale", 1.0) * noise
        picture = patcher.model.process_latent_out(noisy)
        answer = patcher.model.process_latent_in(denoise(patcher, picture, [entry], sigma))
        found.append((answer - clean) / per_output(sigma, sampling))
    return torch.cat(found)


def difference(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def gradients(run: Training, rows: Any, between: Any = lambda: None) -> Tensor:
    """One vector; layers that the answer does not depend on have a gradient of zero."""
    parameters = run.adapter.parameters().values()
    for parameter in parameters:
        parameter.grad = None
    loss = objective(run.denoiser.predict(rows).residual)
    between()
    loss.backward()
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten()
                      for p in parameters])


@functools.cache
def kept(kind: str) -> Tensor:
    """The gradient with all activations kept, of a plainly loaded model."""
    with training(model(kind), checkpointing=False) as run:
        return gradients(run, training_rows(kind, run.denoiser))


@pytest.mark.parametrize("kind", FAMILIES)
def test_error_is_that_of_the_hosts_sampling_path(kind: str) -> None:
    with training(model(kind), filled=False) as run, torch.no_grad():
        rows = training_rows(kind, run.denoiser)
        residual = run.denoiser.predict(rows).residual
    assert difference(residual, host_residual(model(kind), rows)) < 1e-5


@pytest.mark.parametrize("kind", FAMILIES)
def test_gradient_is_the_derivative_along_a_direction(kind: str) -> None:
    gradient = kept(kind)
    with training(model(kind), checkpointing=False) as run, torch.no_grad():
        rows = training_rows(kind, run.denoiser)
        base = run.adapter.snapshot()
        parameters = run.adapter.parameters()
        sizes = [parameter.numel() for parameter in parameters.values()]
        direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0))
        # Half the gradient's own direction: the derivative is never near zero.
        direction += direction.norm() / 4 * gradient / gradient.norm()
        parts = dict(zip(parameters, direction.split(sizes), strict=True))

        def value(step: float) -> float:
            moved = {n: base[n] + step * parts[n].view_as(base[n]) for n in base}
            run.adapter.load(moved)
            return objective(run.denoiser.predict(rows).residual).item()

        near, far = (value(h) - value(-h) for h in (STEP, 2 * STEP))
    # The fourth-order formula: some of these small networks bend much within a step.
    rise = (8 * near - far) / (12 * STEP)
    slope = (direction.double() @ gradient.double()).item()
    assert abs(slope) > gradient.norm()
    assert slope == pytest.approx(rise, rel=2e-3)


@pytest.mark.parametrize("kind", FAMILIES)
def test_checkpointing_changes_no_gradient(kind: str) -> None:
    with training(model(kind), checkpointing=True) as run:
        found = gradients(run, training_rows(kind, run.denoiser))
    assert difference(found, kept(kind)) < 1e-6


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", FAMILIES)
def test_borrowed_weights_change_no_gradient(kind: str, state: str) -> None:
    with (
        load_state(state, kind) as (patcher, between),
        training(patcher, checkpointing=True) as run,
    ):
        found = gradients(run, training_rows(kind, run.denoiser), between)
    assert difference(found, kept(kind)) < 1e-5


@pytest.mark.parametrize("state", ["plain", "partial", "evicted"])
@pytest.mark.parametrize("kind", IN_FP8)
def test_fp8_weights_give_the_gradient_of_what_they_stand_for(kind: str, state: str) -> None:
    exact = tiny_patcher(kind)
    held = tiny_patcher(kind, dtype=torch.float8_e4m3fn).model.diffusion_model.state_dict()
    with torch.inference_mode():
        for name, tensor in exact.model.diffusion_model.state_dict().items():
            tensor.copy_(held[name])
    with training(exact, checkpointing=True) as run:
        expected = gradients(run, training_rows(kind, run.denoiser))
    with (
        load_state(state, kind, dtype=torch.float8_e4m3fn) as (patcher, between),
        training(patcher, checkpointing=True) as run,
    ):
        found = gradients(run, training_rows(kind, run.denoiser), between)
    assert difference(found, expected) < 1e-6
    assert difference(found, kept(kind)) > 1e-3


@functools.cache
def short_run(kind: str) -> dict[str, Any]:
    """A LoRA of a few steps on two pairs under one noise each, and what it predicts."""
    noise = pack_module("dpo_core.training.noise").NoiseSettings(low=0.3, high=0.7, cached_draws=1)
    with training(model(kind), filled=False, checkpointing=False) as run:
        reports = list(steps(
            run, random_pairs(kind), STEPS, batch_size=2, grad_accumulation_steps=1, noise=noise
        ))
        rows = training_rows(kind, run.denoiser)
        with torch.no_grad():
            residual = run.denoiser.predict(rows).residual
        state, alphas = reports[-1].state(), run.adapter.alphas()
    lora = pack_module("dpo_core.saving.lora_file").lora_tensors(state.adapter, alphas)
    return {"metrics": [r.metrics for r in reports], "lora": lora, "rows": rows,
            "residual": residual}


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_short_run_learns(kind: str) -> None:
    first, *_, last = short_run(kind)["metrics"]
    assert first["dpo/reward_margin"] == 0
    assert last["loss/dpo"] < first["loss/dpo"] / 2
    assert last["dpo/accuracy"] == 1


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_saved_lora_loads_back(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    run, reference = short_run(kind), model(kind)
    with torch.inference_mode():
        loaded, _ = comfy.sd.load_lora_for_models(reference, None, run["lora"], 1.0, 0)
    assert "not loaded" not in caplog.text.lower()
    assert difference(host_residual(loaded, run["rows"]), run["residual"]) < 1e-5
    assert difference(host_residual(reference, run["rows"]), run["residual"]) > 1e-4
