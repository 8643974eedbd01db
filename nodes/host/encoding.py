"""Pictures and prompts through the host's VAE and text encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import comfy.utils
import node_helpers
import torch
from torch import Tensor

from ...dpo_core.pairs.record import Pair, Picture
from ...dpo_core.training.dataset import EncodedPair, EncodedPairs, tensor_digest
from .conditioning import (
    Conditioning,
    conditioning_digest,
    conditioning_problems,
    plain_conditioning,
)

MEGAPIXEL = 1024 * 1024


def encode_pairs(
    pairs: Sequence[Pair],
    vae: Any,
    clip: Any,
    megapixels: float,
    guidance: float,
    progress: Callable[[], None] = lambda: None,
) -> EncodedPairs:
    """Every pair as latents and conditioning.

    Args:
        pairs: pictures and prompts.
        vae: the host's VAE.
        clip: the host's text encoder.
        megapixels: both images of a pair are scaled to this area, in 1024 x 1024 pixels; 0 keeps
            their size.
        guidance: for models that embed it; others ignore it.
        progress: called after every image and every prompt.

    Raises:
        ValueError: the images of a pair differ in size.
    """
    if not pairs:
        raise ValueError("There are no pairs to encode.")
    prompts: dict[str, Conditioning] = {}
    for prompt in dict.fromkeys(pair.prompt for pair in pairs):
        prompts[prompt] = encode_prompt(clip, prompt, guidance)
        progress()
    latents: dict[str, Tensor] = {}

    def encoded(picture: Picture) -> Tensor:
        if picture.digest not in latents:
            latents[picture.digest] = encode_picture(vae, picture, megapixels)
        progress()
        return latents[picture.digest]

    return EncodedPairs(
        tuple(
            replace(
                encoded_pair(
                    encoded(pair.chosen), encoded(pair.rejected), prompts[pair.prompt]
                ),
                prompt=pair.prompt,
                chosen_probability=pair.chosen_probability,
                group=pair.group,
                held_out=pair.split == "val",
            )
            for pair in pairs
        )
    )


def encoded_pair(chosen: Tensor, rejected: Tensor, conditioning: Conditioning) -> EncodedPair:
    """A pair of latents of shape (C, ...) and its conditioning, keyed by their content.

    Raises:
        ValueError: latents of different shapes.
    """
    if chosen.shape != rejected.shape:
        raise ValueError(
            f"A pair's images differ in size: latents of {tuple(chosen.shape)} and "
            f"{tuple(rejected.shape)}. Both sides must have the same size; nothing is resized."
        )
    chosen, rejected = _plain(chosen), _plain(rejected)
    content = f"{tensor_digest(chosen, rejected)}{conditioning_digest(conditioning)}"
    key = blake2b(content.encode(), digest_size=16).hexdigest()
    return EncodedPair(chosen, rejected, conditioning, key)


def encode_prompt(clip: Any, prompt: str, guidance: float) -> Conditioning:
    """One conditioning entry.

    Raises:
        ValueError: the text encoder gave something that cannot be trained on.
    """
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    conditioning = node_helpers.conditioning_set_values(conditioning, {"guidance": guidance})
    problems = [p for entry in conditioning for p in conditioning_problems(entry)]
    if len(conditioning) != 1:
        problems.append(f"consists of {len(conditioning)} parts")
    if problems:
        raise ValueError(f"The prompt {prompt!r}, as encoded, {', '.join(problems)}.")
    return plain_conditioning(conditioning[0])


def encode_picture(vae: Any, picture: Picture, megapixels: float) -> Tensor:
    """A latent of shape (C, ...), fp32. One image at a time: to a video VAE a batch is a clip."""
    pixels = torch.from_numpy(picture.pixels().copy()).unsqueeze(0)
    if megapixels > 0:
        pixels = _scaled(pixels, megapixels, int(vae.spacial_compression_encode()))
    return _plain(vae.encode(pixels)[0])


def model_shaped(dataset: EncodedPairs, latent_format: Any, model_name: str) -> EncodedPairs:
    """The dataset with latents of the number of dimensions the model takes.

    Raises:
        ValueError: latents made for another kind of model.
    """
    dimensions = latent_format.latent_dimensions + 2
    wrong = set()
    shaped = []
    for pair in dataset:
        latents = [pair.chosen, pair.rejected]
        if dimensions == 5:  # an image is a clip of one frame
            latents = [x.unsqueeze(1) if x.ndim == 3 else x for x in latents]
        channels = latent_format.latent_channels
        if latents[0].ndim != dimensions - 1 or latents[0].shape[0] != channels:
            wrong.add(tuple(pair.chosen.shape))
        shaped.append(replace(pair, chosen=latents[0], rejected=latents[1]))
    if wrong:
        raise ValueError(
            f"The pairs were encoded for another kind of model: latents of shape "
            f"{', '.join(map(str, sorted(wrong)))}, while {model_name} takes "
            f"{latent_format.latent_channels} channels. Encode them with the VAE that belongs to "
            "the model."
        )
    return replace(dataset, pairs=tuple(shaped))


def _scaled(pixels: Tensor, megapixels: float, multiple: int) -> Tensor:
    height, width = pixels.shape[1:3]
    scale = (megapixels * MEGAPIXEL / (height * width)) ** 0.5
    size = [max(multiple, round(side * scale / multiple) * multiple) for side in (width, height)]
    moved = comfy.utils.common_upscale(pixels.movedim(-1, 1), *size, "lanczos", "center")
    return moved.movedim(1, -1)


def _plain(latent: Tensor) -> Tensor:
    return latent.detach().to("cpu", torch.float32, copy=True)
