"""The error in the native prediction space equals the textbook's, for every prediction type."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM
from hostkit.plain_lora import call_network, differentiable, network_input, true_model
from hostkit.tiny_models import TINY_MODELS, denoise, random_latents, tiny_patcher
from hostkit.training import (
    adapter_gradients,
    objective,
    pack_module,
    prompt,
    random_pairs,
    training,
    training_rows,
)
from torch import Tensor

SIGMA_DATA = 0.5  # of the EDM model the host's node sets up


def scored(patcher: ModelPatcher, rows: Any = None, **options: Any) -> Any:
    with training(patcher, filled=False) as run, torch.no_grad():
        return run.denoiser.predict(rows)


def rows_for(kind: str, patcher: ModelPatcher, **options: Any) -> Any:
    denoiser = pack_module("nodes.host.denoiser").HostDenoiser(patcher)
    return training_rows(kind, denoiser, **options)


def close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


@pytest.mark.parametrize("kind", TINY_MODELS)
def test_error_is_the_networks_answer_minus_the_textbooks_target(kind: str) -> None:
    patcher = tiny_patcher(kind)
    rows = rows_for(kind, patcher)
    residual, power = scored(patcher, rows)
    with differentiable(), torch.no_grad():
        output, target = network_input(kind, true_model(kind), rows)
    assert residual.dtype == power.dtype == torch.float32
    assert close(residual, output - target)
    assert torch.allclose(power, output.square().flatten(1).mean(1), rtol=1e-4)


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_errors_of_a_bf16_model_are_taken_in_fp32(kind: str) -> None:
    patcher, answers = tiny_patcher(kind, torch.bfloat16), []
    patcher.model.manual_cast_dtype = None  # a card would compute in bf16 as well
    # Large, so that a mean in bf16 would be off by far more than what is allowed here.
    rows = rows_for(kind, patcher, size=16)
    network = patcher.model.diffusion_model
    hook = network.register_forward_hook(lambda module, given, answer: answers.append(answer))
    residual, power = scored(patcher, rows)
    hook.remove()
    (answer,) = answers
    assert answer.dtype == torch.bfloat16 and residual.dtype == power.dtype == torch.float32
    with differentiable(), torch.no_grad():
        _, target = network_input(kind, patcher, rows)
    exact = answer.double() - target.double()
    for row in range(len(rows)):
        error, answered = exact[row].square().mean(), answer[row].double().square().mean()
        assert residual[row].square().mean().item() == pytest.approx(error.item(), rel=1e-5)
        assert power[row].item() == pytest.approx(answered.item(), rel=1e-5)


@pytest.mark.parametrize("sampling", ["edm", "v_prediction", "eps"])
def test_error_under_continuous_sampling(sampling: str) -> None:
    # The same network, read as another kind of model: a patch of the host's own node.
    patcher = ModelSamplingContinuousEDM().patch(tiny_patcher("sd15"), sampling, 100.0, 0.01)[0]
    rows = rows_for("sd15", patcher)
    residual, _ = scored(patcher, rows)
    clean = TINY_MODELS["sd15"].latent_format().process_in(rows.latents)
    sigma = rows.sigma.reshape(-1, 1, 1, 1)
    data = SIGMA_DATA if sampling == "edm" else 1.0
    length = (sigma**2 + data**2).sqrt()
    noisy = clean + sigma * rows.noise
    with differentiable(), torch.no_grad():
        time = 0.25 * rows.sigma.log()
        output = call_network("sd15", true_model("sd15"), noisy / length, time, rows.conditioning)
    if sampling == "eps":
        target = rows.noise
    else:
        # Karras et al. 2022, equation 7: c_skip noisy + c_out target = clean. The host's v points
        # from data to noise, so its c_out is negative.
        c_out = sigma * data / length * (1 if sampling == "edm" else -1)
        target = (clean - data**2 / length**2 * noisy) / c_out
    assert close(residual, output - target)


def test_error_under_rectified_flow_in_sigmas() -> None:
    # Cosmos: x = clean + sigma noise, t = sigma / (sigma + 1); the target is noise - clean.
    patcher = tiny_patcher("sd15")
    patcher = ModelSamplingContinuousEDM().patch(patcher, "cosmos_rflow", 80.0, 0.002)[0]
    rows = rows_for("sd15", patcher)
    residual, _ = scored(patcher, rows)
    clean = TINY_MODELS["sd15"].latent_format().process_in(rows.latents)
    sigma = rows.sigma.reshape(-1, 1, 1, 1)
    with differentiable(), torch.no_grad():
        t = rows.sigma / (rows.sigma + 1)
        scaled = (clean + sigma * rows.noise) / (sigma + 1)
        output = call_network("sd15", true_model("sd15"), scaled, t, rows.conditioning)
    assert close(residual, output - (rows.noise - clean))


@pytest.mark.parametrize("kind", ["sd15", "flux"])
def test_latents_are_brought_to_the_models_scale_exactly_once(kind: str) -> None:
    # With a network that answers zero the prediction error is the target itself.
    patcher = tiny_patcher(kind)
    last = "final_layer.linear" if kind == "flux" else "out.2"
    layer = patcher.model.diffusion_model.get_submodule(last)
    with torch.inference_mode():
        layer.weight.zero_()
        layer.bias.zero_()
    rows = rows_for(kind, patcher)
    residual, power = scored(patcher, rows)
    assert power.abs().max() < 1e-10
    if kind == "sd15":
        assert torch.allclose(-residual, rows.noise, atol=1e-5)
    else:
        assert torch.allclose(-residual, rows.noise - (rows.latents - 0.1159) * 0.3611, atol=1e-5)


@pytest.mark.parametrize("kind", ["sd15", "sd3", "flux_guidance"])
def test_rows_of_one_batch_keep_to_their_own_prompts(kind: str) -> None:
    patcher = tiny_patcher(kind)
    rows = rows_for(kind, patcher, percents=(0.2, 0.5, 0.8))
    together = scored(patcher, rows).residual
    for i in range(3):
        one = type(rows)(
            rows.latents[i : i + 1], rows.conditioning[i : i + 1],
            rows.sigma[i : i + 1], rows.noise[i : i + 1],
        )
        assert close(scored(patcher, one).residual, together[i : i + 1])
    swapped = type(rows)(rows.latents, rows.conditioning[::-1], rows.sigma, rows.noise)
    other = scored(patcher, swapped).residual
    assert close(other[1], together[1])
    assert not torch.allclose(other[0], together[0], atol=1e-2)


def test_prompts_of_different_length_and_images_of_different_size_never_share_a_batch() -> None:
    dataset = pack_module("dpo_core.training.dataset")
    with training(tiny_patcher("sd3")) as run:
        pairs = random_pairs("sd3", 4, tokens=(7, 9)).pairs + random_pairs("sd3", 1, size=16).pairs
        assert dataset.buckets(pairs, run.denoiser) == [[0, 2], [1, 3], [4]]
        rows = training_rows("sd3", run.denoiser)
        mixed = (prompt("sd3", 1, 7), prompt("sd3", 2, 9))
        with pytest.raises(ValueError, match="different form"):
            run.denoiser.predict(type(rows)(rows.latents, mixed, rows.sigma, rows.noise))


def test_guidance_differs_within_a_batch_as_given() -> None:
    patcher = tiny_patcher("flux_guidance")
    rows = rows_for("flux_guidance", patcher)
    entries = [[context, {**extra}] for context, extra in rows.conditioning]
    entries[0][1]["guidance"], entries[1][1]["guidance"] = 1.0, 6.0
    rows = type(rows)(rows.latents, tuple(entries), rows.sigma, rows.noise)
    with differentiable(), torch.no_grad():
        output, target = network_input("flux_guidance", true_model("flux_guidance"), rows)
    assert close(scored(patcher, rows).residual, output - target)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_model_patches_act_and_see_their_own_block(checkpointing: bool) -> None:
    seen: list[tuple[str, int]] = []

    def halve(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> tuple[Tensor, ...]:
        seen.append(options["block"])
        return q, k, v * (0.5 if options["block"] == ("input", 1) else 1)

    bare = tiny_patcher("sd15")
    patched = bare.clone()
    patched.set_model_attn1_patch(halve)
    rows = rows_for("sd15", bare)
    assert (scored(patched, rows).residual - scored(bare, rows).residual).abs().max() > 1e-3
    seen.clear()
    with training(patched, checkpointing=checkpointing) as run:
        loss = objective(run.denoiser.predict(rows).residual)
        forward = list(seen)
        seen.clear()
        loss.backward()
    assert forward == [("input", 1), ("output", 3)]
    assert seen == (forward[::-1] if checkpointing else [])


@pytest.mark.parametrize("kind", ["sd15", "flux"])
def test_patched_blocks_have_the_same_gradients_when_recomputed(kind: str) -> None:
    def replace_v(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **more: Any) -> Any:
        return q, k, v * (1 + 0.1 * rest[0]["block"][1])

    def double_block(args: dict[str, Any]) -> dict[str, Any]:
        scale = 1 + 0.2 * args["transformer_options"]["block_index"]
        return {"img": args["img"] * scale, "txt": args["txt"]}

    patcher = tiny_patcher(kind).clone()
    if kind == "sd15":
        patcher.set_model_attn1_patch(replace_v)
    else:
        patcher.set_model_double_block_patch(double_block)
    rows = rows_for(kind, patcher)
    found = []
    for checkpointing in (False, True):
        with training(patcher, checkpointing=checkpointing) as run:
            found.append(adapter_gradients(run, rows))
    for name, gradient in found[0].items():
        assert (found[1][name] - gradient).norm() <= 1e-6 * gradient.norm(), name


def test_denoising_in_training_agrees_with_the_hosts_sampler() -> None:
    patcher = tiny_patcher("sd3")
    rows = rows_for("sd3", patcher, percents=(0.4,))
    residual, _ = scored(patcher, rows)
    clean = TINY_MODELS["sd3"].latent_format().process_in(rows.latents)
    sigma = rows.sigma.reshape(-1, 1, 1, 1)
    noisy = (1 - sigma) * clean + sigma * rows.noise
    latent_format = TINY_MODELS["sd3"].latent_format()
    picture = latent_format.process_out(noisy)
    denoised = denoise(patcher, picture, [rows.conditioning[0]], rows.sigma.item())
    denoised = latent_format.process_in(denoised)
    # denoised = noisy - sigma * velocity
    assert close(residual, (noisy - denoised) / sigma - (rows.noise - clean))


def test_inputs_are_left_alone() -> None:
    patcher = tiny_patcher("sd15")
    rows = rows_for("sd15", patcher)
    latents, noise = rows.latents.clone(), rows.noise.clone()
    first, second = scored(patcher, rows).residual, scored(patcher, rows).residual
    assert torch.equal(first, second)
    assert torch.equal(rows.latents, latents) and torch.equal(rows.noise, noise)


def test_latents_of_execution_time_can_be_scored() -> None:
    patcher = tiny_patcher("sd15")
    rows = rows_for("sd15", patcher)
    inference = random_latents("sd15", 2)
    assert inference.is_inference()
    rows = type(rows)(inference, rows.conditioning, rows.sigma, rows.noise)
    with training(patcher) as run:
        assert all(g.norm() > 0 for g in adapter_gradients(run, rows).values())
