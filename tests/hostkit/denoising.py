"""A tiny checkpoint that denoises: only its last layer is fitted, in closed form.

Random networks are no denoisers: what they draw is noise, whatever they have learned. Here the
layers before the last are random features, and the last is the ridge regression of the noise on
them, for pictures of one colour each. So the model draws pictures of all colours, and a LoRA that
prefers some of them shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.sd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import unfold

SIDE = 4
"""Of the latents it is fitted on; it draws well at this size alone, 32 x 32 pixels."""
_COLOURS, _TEXTURE = 1.0, 0.2
_ROWS, _BATCH = 384, 128
_RIDGE = 1e-3
_LAYER = "model.diffusion_model.out.2"


def write_denoising_checkpoint(checkpoint: Path, folder: Path) -> Path:
    """A copy of a tiny SD 1.5 checkpoint that has learned to denoise."""
    weights = load_file(checkpoint)
    with torch.inference_mode():
        model, clip, *_ = comfy.sd.load_checkpoint_guess_config(
            str(checkpoint), output_vae=False, output_clip=True
        )
        fitted = _fitted(model, clip.encode_from_tokens_scheduled(clip.tokenize("a colour")))
    kept = weights[f"{_LAYER}.weight"]
    weights[f"{_LAYER}.weight"] = fitted[:-1].T.reshape(kept.shape).to(kept.dtype).contiguous()
    weights[f"{_LAYER}.bias"] = fitted[-1].to(kept.dtype).contiguous()
    path = folder / "tiny_denoiser.safetensors"
    save_file(weights, path)
    return path


def colours(count: int, generator: torch.Generator) -> Tensor:
    """Latents of pictures of one colour each, as the model has them, (count, 4, SIDE, SIDE)."""
    flat = _COLOURS * torch.randn(count, 4, 1, 1, generator=generator)
    return flat + _TEXTURE * torch.randn(count, 4, SIDE, SIDE, generator=generator)


def _fitted(model: Any, conditioning: list[Any]) -> Tensor:
    """Rows of the last layer's weights, then its bias, (9 channels + 1, 4)."""
    comfy.model_management.load_models_gpu([model])
    network, sampling = model.model, model.get_model_object("model_sampling")
    seen: list[Tensor] = []
    hook = network.diffusion_model.out[2].register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].float())
    )
    generator = torch.Generator().manual_seed(0)
    targets = []
    for _ in range(_ROWS // _BATCH):
        clean = colours(_BATCH, generator)
        noise = torch.randn(clean.shape, generator=generator)
        percents = torch.rand(_BATCH, generator=generator).tolist()
        sigma = torch.tensor([float(sampling.percent_to_sigma(u)) for u in percents])
        noisy = sampling.noise_scaling(sigma.reshape(-1, 1, 1, 1), noise.clone(), clean)
        network.apply_model(noisy, sigma, c_crossattn=conditioning[0][0].expand(_BATCH, -1, -1))
        targets.append(noise)
    hook.remove()
    features = unfold(torch.cat(seen), 3, padding=1).transpose(1, 2).flatten(0, 1)
    features = torch.cat([features, torch.ones(len(features), 1)], 1)
    wanted = torch.cat(targets).flatten(2).transpose(1, 2).flatten(0, 1)
    gram = features.T @ features
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
    return torch.linalg.solve(gram, features.T @ wanted)
