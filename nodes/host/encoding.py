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
from .encoding_cache import LIMIT_BYTES, EncodingCache, clip_state, vae_state
from .latents import usable_latent

MEGAPIXEL = 1024 * 1024
ENCODED = EncodingCache(LIMIT_BYTES)
"""What was encoded since the host was started."""


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

    What this VAE and this text encoder have encoded before is taken from memory. Pictures whose
    latents are known are not encoded at all, where `usable_latent` allows it.

    Raises:
        ValueError: the images of a pair differ in size.
    """
    if not pairs:
        raise ValueError("There are no pairs to encode.")
    prompts: dict[str, Conditioning] = {}
    state = clip_state(clip)
    for prompt in dict.fromkeys(pair.prompt for pair in pairs):
        prompts[prompt] = _cached_prompt(clip, state, prompt, guidance)
        progress()
    pictures = _PictureEncoder(vae, megapixels, progress)
    return EncodedPairs(
        tuple(
            replace(
                encoded_pair(
                    *pictures.together((pair.chosen, pair.rejected)), prompts[pair.prompt]
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


class _PictureEncoder:
    """Latents of shape (C, ...), fp32."""

    def __init__(self, vae: Any, megapixels: float, progress: Callable[[], None]) -> None:
        self._vae, self._megapixels, self._progress = vae, megapixels, progress
        self._state = vae_state(vae)
        self._encoded: dict[str, Tensor] = {}

    def together(self, pictures: Sequence[Picture]) -> list[Tensor]:
        """Pictures that are compared: all as they were sampled, or all as they are encoded.

        Else the difference between the two would be learnt as a preference.
        """
        latents = []
        for picture in pictures:
            known = usable_latent(picture, self._vae, self._size(picture))
            if known is None:
                latents = [self._encode(one) for one in pictures]
                break
            latents.append(known)
        for _ in pictures:
            self._progress()
        return latents

    def _encode(self, picture: Picture) -> Tensor:
        if picture.digest not in self._encoded:
            self._encoded[picture.digest] = self._cached(picture, self._size(picture))
        return self._encoded[picture.digest]

    def _cached(self, picture: Picture, size: tuple[int, int]) -> Tensor:
        def encode() -> Tensor:
            return encode_picture(self._vae, picture, size)

        if self._state is None:
            return encode()
        return ENCODED.get(self._vae, (self._state, picture.digest, size), encode)

    def _size(self, picture: Picture) -> tuple[int, int]:
        if self._megapixels <= 0:
            return picture.size
        multiple = int(self._vae.spacial_compression_encode())
        return scaled_size(picture.size, self._megapixels, multiple)


def encode_picture(vae: Any, picture: Picture, size: tuple[int, int]) -> Tensor:
    """A latent of shape (C, ...), fp32. One image at a time: to a video VAE a batch is a clip.

    Args:
        vae: the host's VAE.
        picture: what to encode.
        size: (width, height) in pixels to which it is scaled before.
    """
    pixels = torch.from_numpy(picture.pixels().copy()).unsqueeze(0)
    if size != picture.size:
        moved = pixels.movedim(-1, 1)
        pixels = comfy.utils.common_upscale(moved, *size, "lanczos", "center").movedim(1, -1)
    return _plain(vae.encode(pixels)[0])


def scaled_size(size: tuple[int, int], megapixels: float, multiple: int) -> tuple[int, int]:
    """The size of this area, in 1024 x 1024 pixels, in whole multiples."""
    width, height = size
    scale = (megapixels * MEGAPIXEL / (height * width)) ** 0.5
    across, down = (max(multiple, round(one * scale / multiple) * multiple) for one in size)
    return across, down


def _cached_prompt(clip: Any, state: Any, prompt: str, guidance: float) -> Conditioning:
    if state is None or "embedding:" in prompt:  # an embedding's file may have changed
        return encode_prompt(clip, prompt, guidance)
    return ENCODED.get(
        clip, (state, prompt, guidance), lambda: encode_prompt(clip, prompt, guidance)
    )


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


def _plain(latent: Tensor) -> Tensor:
    return latent.detach().to("cpu", torch.float32, copy=True)
