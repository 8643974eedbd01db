"""Pictures from a model in training, as the host's own sampler makes them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import latent_preview
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image
from torch import Tensor

from .conditioning import Conditioning
from .progress import Progress


@dataclass(frozen=True)
class SamplerSettings:
    """As of KSampler and the empty latent before it."""

    steps: int = 20
    """Of the sampler, as in KSampler."""

    cfg: float = 7.0
    """As in KSampler. 1 for models that have guidance built in, such as Flux, and for distilled
    ones."""

    sampler: str = "euler"
    """As in KSampler."""

    scheduler: str = "normal"
    """As in KSampler."""

    width: int = 512
    """Of the pictures, in pixels. Smaller ones are sooner done."""

    height: int = 512
    """Of the pictures, in pixels."""

    def problems(self) -> list[str]:
        """Everything out of range, each with its fix."""
        found = []
        if self.steps < 1:
            found.append(f"steps is {self.steps}: use 1 or more.")
        for name in ("width", "height"):
            if getattr(self, name) < 16:
                found.append(f"{name} is {getattr(self, name)}: use 16 or more.")
        return found


@contextmanager
def sampling(device: torch.device) -> Iterator[None]:
    """Inside, the host samples as for anybody; nothing of it reaches a training.

    Its kernels are those without a gradient, what it makes are inference tensors, and random
    numbers drawn or seeded inside are not missed outside.
    """
    python, numpy_state = random.getstate(), np.random.get_state()
    cards = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    in_training = comfy.model_management.in_training
    comfy.model_management.in_training = False
    try:
        with torch.random.fork_rng(list(cards)), torch.inference_mode():
            yield
    finally:
        comfy.model_management.in_training = in_training
        random.setstate(python)
        np.random.set_state(numpy_state)
        comfy.model_management.soft_empty_cache()


def sampled_latents(
    patcher: ModelPatcher,
    positive: Conditioning,
    negative: Conditioning,
    settings: SamplerSettings,
    seed: int,
    count: int,
    progress: Progress,
) -> Tensor:
    """What KSampler gives for a prompt and an empty batch of so many, shape (count, C, ...).

    Where they do not fit in memory together they are sampled one by one, from the same noise.
    """
    noise = _noise(patcher, settings, seed, count)
    try:
        return _sampled(patcher, positive, negative, settings, seed, noise, progress)
    except Exception as error:
        if count == 1 or not comfy.model_management.is_oom(error):
            raise
    # Outside the handler, whose traceback would keep the failed batch's tensors alive.
    comfy.model_management.soft_empty_cache()
    progress.say(f"{count} pictures do not fit in memory together: one after the other", log=True)
    # Each with a seed of its own, or samplers that add noise would add the same to all.
    return torch.cat([
        _sampled(patcher, positive, negative, settings, seed + number, one, progress)
        for number, one in enumerate(noise.split(1))
    ])


def decoded(vae: Any, latent: Tensor) -> Tensor:
    """The picture of one latent (1, C, ...), shape (height, width, 3) in 0..1; of a clip its first
    frame."""
    pixels = vae.decode(latent)
    frames: Tensor = pixels.reshape(-1, *pixels.shape[-3:])
    return frames[0, ..., :3].float().cpu().clamp(0, 1)


def picture(pixels: Tensor) -> Image.Image:
    """Pixels (height, width, 3) in 0..1 as an image."""
    return Image.fromarray((255 * pixels).round().to(torch.uint8).numpy())


def _noise(patcher: ModelPatcher, settings: SamplerSettings, seed: int, count: int) -> Tensor:
    noise: Tensor = comfy.sample.prepare_noise(_empty(patcher, settings, count), seed)
    return noise


def _empty(patcher: ModelPatcher, settings: SamplerSettings, count: int) -> Tensor:
    empty = torch.zeros(count, 4, settings.height // 8, settings.width // 8)
    fixed: Tensor = comfy.sample.fix_empty_latent_channels(
        patcher, empty, downscale_ratio_spacial=8
    )
    return fixed


def _sampled(
    patcher: ModelPatcher,
    positive: Conditioning,
    negative: Conditioning,
    settings: SamplerSettings,
    seed: int,
    noise: Tensor,
    progress: Progress,
) -> Tensor:
    sampled: Tensor = comfy.sample.sample(
        patcher, noise, settings.steps, settings.cfg, settings.sampler, settings.scheduler,
        [positive], [negative], _empty(patcher, settings, len(noise)),
        callback=_live(patcher, progress), disable_pbar=True, seed=seed,
    )
    return sampled


def _live(patcher: ModelPatcher, progress: Progress) -> Callable[..., None]:
    """Shows a picture as it forms, where the host does so."""
    previewer = latent_preview.get_previewer(patcher.load_device, patcher.model.latent_format)

    def callback(_: int, denoised: Tensor, *others: Any) -> None:
        progress.show(previewer and previewer.decode_latent_to_preview_image("JPEG", denoised))

    return callback


def prompts_of(text: str) -> tuple[str, ...]:
    """The prompts of a text field, one a line; empty lines do not count."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())

