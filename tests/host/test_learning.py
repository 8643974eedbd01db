"""A short run teaches the model the picks, whatever the mode, family and adapter."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import comfy.sd
import pytest
import torch
from hostkit.checkout import load_pack
from hostkit.tiny_models import denoise, random_conditioning, random_latents, tiny_patcher

PAIRS, DRAWS = 10, 4
SIZE = 4
"""Of a latent's sides: enough for a pattern, and convolutions of the UNet are what takes time."""
# Every mode on either family, and every two of mode, family and start together.
CASES = (
    ("sequential", "sd15", "existing"),
    ("sequential", "flux", "new"),
    ("policy_concurrent", "sd15", "new"),
    ("policy_concurrent", "flux", "existing"),
    ("full_concurrent", "sd15", "existing"),
    ("full_concurrent", "flux", "new"),
)


def pack(name: str) -> ModuleType:
    return importlib.import_module(f"{load_pack().__name__}.{name}")


def opposite_pairs(kind: str) -> Any:
    """Ten pairs under two prompts that prefer opposite signs of one pattern.

    Unconditionally no direction is better: only a model that listens to the prompt can learn it.
    """
    encoding, conditioning = pack("nodes.host.encoding"), pack("nodes.host.conditioning")
    prompts = [
        conditioning.plain_conditioning(random_conditioning(kind, seed)[0]) for seed in (1, 2)
    ]
    pattern = random_latents(kind, size=SIZE, seed=100)[0].clone()
    pairs = []
    for i in range(PAIRS):
        picture = random_latents(kind, size=SIZE, seed=i)[0].clone()
        lean = 0.7 * pattern * (1 if i % 2 == 0 else -1)
        pairs.append(encoding.encoded_pair(picture + lean, picture - lean, prompts[i % 2]))
    return pack("dpo_core.training.dataset").EncodedPairs(tuple(pairs))


def host_errors(patcher: Any, dataset: Any) -> torch.Tensor:
    """Errors of the chosen and rejected images, (pairs, 2), by the host's own sampling path.

    Fixed sigmas and noise; every image of one prompt goes through in one batch.
    """
    sampling = patcher.get_model_object("model_sampling")
    errors = torch.zeros(len(dataset), 2)
    for first in (0, 1):
        members = list(range(first, len(dataset), 2))
        images = torch.stack([x for i in members for x in (dataset[i].chosen, dataset[i].rejected)])
        clean = patcher.model.process_latent_in(images)
        for k in range(DRAWS):
            sigma = float(sampling.percent_to_sigma((k + 0.5) / DRAWS))
            noise = torch.randn(clean.shape[1:], generator=torch.Generator().manual_seed(k))
            noisy = sampling.noise_scaling(
                torch.tensor(sigma), noise.expand_as(clean).clone(), clean
            )
            answer = denoise(
                patcher, patcher.model.process_latent_out(noisy),
                [list(dataset[first].conditioning)], sigma,
            )
            residual = (patcher.model.process_latent_in(answer) - clean) / sigma
            errors[members] += residual.square().flatten(1).mean(1).reshape(-1, 2)
    return errors / DRAWS


def random_lora(patcher: Any, rank: int) -> dict[str, torch.Tensor]:
    """A LoRA on a few attention layers, strong enough to matter."""
    generator = torch.Generator().manual_seed(7)
    state = patcher.model.state_dict()
    matrices = [name for name, weight in state.items() if weight.ndim == 2 and "attn" in name]
    layers = [name.removesuffix(".weight") for name in matrices if name.endswith(".weight")]
    lora = {}
    for name in layers:
        out_features, in_features = state[f"{name}.weight"].shape
        lora[f"{name}.lora_A.weight"] = torch.randn(rank, in_features, generator=generator) * 0.05
        lora[f"{name}.lora_B.weight"] = torch.randn(out_features, rank, generator=generator) * 0.05
        lora[f"{name}.alpha"] = torch.tensor(float(rank))
    return lora


def loaded(patcher: Any, lora: dict[str, torch.Tensor]) -> Any:
    with torch.inference_mode():
        return comfy.sd.load_lora_for_models(patcher, None, lora, 1.0, 0.0)[0]


def train(
    patcher: Any, dataset: Any, mode: str, existing: dict[str, torch.Tensor] | None
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """A few steps; the LoRA as saved, and the last step's metrics."""
    run, adapter = pack("dpo_core.run"), pack("dpo_core.training.adapter")
    session, optimizer = pack("nodes.host.session"), pack("dpo_core.training.optimizer")
    weights = None
    with torch.inference_mode(False):
        if existing is not None:
            weights = pack("nodes.host.lora_keys").read_existing(patcher, existing).weights
        trained = pack("nodes.host.injection").TrainedModel(
            patcher, adapter.AdapterSettings(8, 8.0), 0, weights, gradient_checkpointing=False
        )
    settings = run.TrainSettings(
        optimizer=optimizer.OptimizerSettings(learning_rate=5e-4, warmup_steps=0),
        batch_size=5,
        grad_accumulation_steps=1,
        execution_mode=mode,
    )
    with session.training_session(trained):
        denoiser = pack("nodes.host.denoiser").HostDenoiser(trained.patcher)
        *_, report = run.train(denoiser, trained.adapter, dataset, settings, 10)
        state, alphas = report.state(), trained.adapter.alphas()
    return pack("dpo_core.saving.lora_file").lora_tensors(state.adapter, alphas), report.metrics


@pytest.mark.parametrize(("mode", "kind", "start"), CASES)
def test_an_independent_scorer_prefers_the_chosen_images(
    mode: str, kind: str, start: str, record_property: Any
) -> None:
    patcher, dataset = tiny_patcher(kind), opposite_pairs(kind)
    existing = random_lora(patcher, rank=3) if start == "existing" else None
    reference = patcher if existing is None else loaded(patcher, existing)
    before = host_errors(reference, dataset)

    lora, metrics = train(patcher, dataset, mode, existing)

    after = host_errors(loaded(patcher, lora), dataset)
    margin = (before - after)[:, 0] - (before - after)[:, 1]
    moved = metrics["prediction_change"] ** 0.5
    record_property("preferred", int((margin > 0).sum()))
    record_property("prediction_change", moved)
    print(f"{kind} {mode} {start}: {int((margin > 0).sum())}/{PAIRS}, changed {100 * moved:.2f} %")
    assert (margin > 0).sum() >= 9
    assert moved > 0.005  # an invisible LoRA can have perfect accuracy, too


def test_nothing_is_preferred_before_training() -> None:
    patcher, dataset = tiny_patcher("sd3"), opposite_pairs("sd3")
    before = host_errors(patcher, dataset)
    zero = {
        name: torch.zeros_like(tensor) if "lora_B" in name else tensor
        for name, tensor in random_lora(patcher, rank=3).items()
    }
    assert torch.equal(before, host_errors(loaded(patcher, zero), dataset))
