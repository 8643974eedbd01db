"""The tiny models are what the host takes them for, and every weight in them counts."""

from __future__ import annotations

from pathlib import Path

import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from hostkit.tiny_models import (
    TINY_MODELS,
    denoise,
    random_conditioning,
    random_latents,
    tiny_patcher,
)

# The last context block of an MMDiT attends without queries of its own: its query norm is unused.
UNUSED = {"joint_blocks.1.context_block.attn.ln_q.weight"}
SIGMA = {"sd15": 1.5, "sd15_v": 1.5, "sd3": 0.6, "flux": 0.6, "flux_guidance": 0.6}
FAMILY = {
    "sd15": "SD15",
    "sd15_v": "SD15",
    "sd3": "SD3",
    "flux": "FluxSchnell",
    "flux_guidance": "Flux",
}


def run(patcher: ModelPatcher, kind: str, **inputs: int) -> torch.Tensor:
    return denoise(
        patcher,
        random_latents(kind, **inputs),
        random_conditioning(kind, guidance=2.0 if kind == "flux_guidance" else None),
        SIGMA[kind],
    )


@pytest.mark.parametrize("kind", TINY_MODELS)
def test_the_host_detects_the_family_and_holds_inference_tensors(kind: str) -> None:
    patcher = tiny_patcher(kind)
    assert type(patcher.model.model_config).__name__ == FAMILY[kind]
    assert all(p.is_inference() for p in patcher.model.diffusion_model.parameters())


@pytest.mark.parametrize("kind", TINY_MODELS)
def test_output_is_of_the_size_of_the_input_and_reproducible(kind: str) -> None:
    first = run(tiny_patcher(kind), kind, batch=2, size=16)
    again = run(tiny_patcher(kind), kind, batch=2, size=16)
    assert torch.equal(first, again)
    scale = random_latents(kind, batch=2, size=16).std()
    assert 0.3 < first.std() / scale < 3


@pytest.mark.parametrize("kind", ["sd15", "sd3", "flux", "flux_guidance"])
def test_every_parameter_changes_the_output(kind: str) -> None:
    patcher = tiny_patcher(kind)
    reference = run(patcher, kind)
    silent = []
    for name, parameter in patcher.model.diffusion_model.named_parameters():
        with torch.inference_mode():
            original = parameter.clone()
            # Not a plain factor: the norm that follows many layers would take it out again.
            parameter.add_(torch.linspace(-0.5, 0.5, parameter.numel()).view_as(parameter))
            changed = run(patcher, kind)
            parameter.copy_(original)
        if (changed - reference).abs().max() < 1e-4:
            silent.append(name)
    assert set(silent) <= UNUSED


def test_v_prediction_gives_another_image_from_the_same_network_output() -> None:
    eps, v = run(tiny_patcher("sd15"), "sd15"), run(tiny_patcher("sd15_v"), "sd15_v")
    sigma = SIGMA["sd15"]
    x = random_latents("sd15")
    # eps: x - sigma * out. v: x / (sigma^2 + 1) - out * sigma / sqrt(sigma^2 + 1).
    out = (x - eps) / sigma
    expected = x / (sigma**2 + 1) - out * sigma / (sigma**2 + 1) ** 0.5
    assert torch.allclose(v, expected, atol=1e-3)


def test_fp8_storage_keeps_fp8_weights_and_computes_in_fp32() -> None:
    patcher = tiny_patcher("sd15", dtype=torch.float8_e4m3fn)
    weights = {p.dtype for p in patcher.model.diffusion_model.parameters() if p.ndim >= 2}
    assert weights == {torch.float8_e4m3fn}
    assert patcher.model.manual_cast_dtype == torch.float32
    assert run(patcher, "sd15").dtype == torch.float32


@pytest.mark.parametrize("kind", ["sd15", "sd3", "flux"])
def test_quantised_layers_are_the_hosts_mixed_precision_linear(kind: str) -> None:
    patcher = tiny_patcher(kind, quantized=True)
    quantised = [
        layer
        for layer in patcher.model.diffusion_model.modules()
        if getattr(layer, "quant_format", None) == "float8_e4m3fn"
    ]
    assert len(quantised) >= 8
    assert not any(isinstance(layer, torch.nn.Linear) for layer in quantised)
    exact, rounded = run(tiny_patcher(kind), kind), run(patcher, kind)
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).norm() / exact.norm() < 0.2


def test_the_checkpoint_loads_with_text_encoder_and_vae(sd15_checkpoint: Path) -> None:
    with torch.inference_mode():
        patcher, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(sd15_checkpoint))
        cat, dog = (
            clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a cat", "a dog")
        )
        assert cat[0][0].shape == (1, 77, 768)
        assert not torch.allclose(cat[0][0], dog[0][0], atol=1e-2)
        image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
        latents = vae.encode(image)
        assert latents.shape == (1, 4, 8, 8)
        decoded = vae.decode(denoise(patcher, latents, cat, sigma=1.5))
    assert decoded.shape == (1, 64, 64, 3)
    assert decoded.std() > 0.02
