"""Pictures and prompts through the host's VAE and text encoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import comfy.utils
import node_helpers
import torch
from torch import Tensor

from ...dpo_core.pairs.record import LabelledImage, Pair, PairSet, Picture, RankedGroup
from ...dpo_core.training.dataset import (
    EncodedGroup,
    EncodedImage,
    EncodedPair,
    EncodedPairs,
    tensor_digest,
)
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
    records: PairSet,
    vae: Any,
    clip: Any,
    megapixels: float,
    guidance: float,
    groups: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> EncodedPairs:
    """Every pair and every single image as latents and conditioning; ranked groups if asked for.

    Args:
        records: pictures and prompts.
        vae: the host's VAE.
        clip: the host's text encoder.
        megapixels: all images of a record are scaled to this area, in 1024 x 1024 pixels; 0 keeps
            their size.
        guidance: for models that embed it; others ignore it.
        groups: whether ranked groups and ties are encoded, too; of a group, the images of one
            size.
        progress: called after every image and every prompt, :func:`encoding_work` times.

    What this VAE and this text encoder have encoded before is taken from memory. Pictures whose
    latents are known are not encoded at all, where `usable_latent` allows it.

    Raises:
        ValueError: the images of a pair differ in size, or there is nothing to encode.
    """
    ranked, ties = (records.groups, records.ties) if groups else ((), ())
    # Of a growing collection the first pairs may be yet to come.
    if not (records.pairs or records.labelled or ranked or ties or records.lineage):
        raise ValueError(
            "There are no pairs to encode, only rankings: turn groups on to learn from those, "
            "with loss dgpo." if records.groups else "There are no pairs to encode."
        )
    prompts: dict[str, Conditioning] = {}
    state = clip_state(clip)
    for prompt in _prompts(records, groups):
        prompts[prompt] = cached_prompt(clip, state, prompt, guidance)
        progress()
    pictures = _PictureEncoder(vae, megapixels, progress)
    thumbs = pictures.together([one.picture for one in records.labelled])
    return EncodedPairs(
        tuple(
            replace(
                _encoded_pair(
                    one, pictures.together((one.chosen, one.rejected)), prompts[one.prompt]
                ),
                tie=tie,
            )
            for tie, pairs in ((False, records.pairs), (True, ties))
            for one in pairs
        ),
        tuple(
            _encoded_image(one, latent, prompts[one.prompt])
            for one, latent in zip(records.labelled, thumbs, strict=True)
        ),
        tuple(
            group
            for one in ranked
            for group in _encoded_group(one, pictures.together(one.pictures), prompts[one.prompt])
        ),
    )


def encoding_work(records: PairSet, groups: bool) -> int:
    """How many prompts and images :func:`encode_pairs` has to encode at most."""
    images = 2 * len(records.pairs) + len(records.labelled)
    if groups:
        images += sum(len(one.pictures) for one in records.groups) + 2 * len(records.ties)
    return len(_prompts(records, groups)) + images


def _prompts(records: PairSet, groups: bool) -> list[str]:
    found = [pair.prompt for pair in records.pairs] + [one.prompt for one in records.labelled]
    if groups:
        found += [group.prompt for group in records.groups] + [tie.prompt for tie in records.ties]
    return list(dict.fromkeys(found))


def _encoded_pair(pair: Pair, latents: Sequence[Tensor], prompt: Conditioning) -> EncodedPair:
    chosen, rejected = latents
    return replace(
        encoded_pair(chosen, rejected, prompt),
        prompt=pair.prompt,
        chosen_probability=pair.chosen_probability,
        group=pair.group,
        held_out=pair.split == "val",
        rating_gap=pair.rating_gap,
    )


def _encoded_image(one: LabelledImage, latent: Tensor, prompt: Conditioning) -> EncodedImage:
    plain = _plain(latent)
    return EncodedImage(
        plain, prompt, _key(prompt, plain), one.liked, one.prompt, one.group, one.split == "val"
    )


def _encoded_group(
    one: RankedGroup, latents: Sequence[Tensor], prompt: Conditioning
) -> list[EncodedGroup]:
    """The group of those images that have the most common size; none if that is only one."""
    (shape, count), *_ = Counter(tuple(latent.shape) for latent in latents).most_common(1)
    if count < 2:
        return []
    kept = [i for i, latent in enumerate(latents) if tuple(latent.shape) == shape]
    plain = tuple(_plain(latents[i]) for i in kept)
    ratings = tuple(one.ratings[i] for i in kept)
    if ratings[0] == ratings[-1]:
        return []
    return [
        EncodedGroup(
            plain, ratings, prompt, _key(prompt, *plain), one.prompt, one.group,
            one.split == "val",
        )
    ]


def _key(conditioning: Conditioning, *latents: Tensor) -> str:
    content = f"{tensor_digest(*latents)}{conditioning_digest(conditioning)}"
    return blake2b(content.encode(), digest_size=16).hexdigest()


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
    return EncodedPair(chosen, rejected, conditioning, _key(conditioning, chosen, rejected))


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


def cached_prompt(clip: Any, state: Any, prompt: str, guidance: float) -> Conditioning:
    """As :func:`encode_prompt`, or from memory, where ``state``, its `clip_state`, is known."""
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
    channels = latent_format.latent_channels
    wrong = set()

    def shaped(latent: Tensor) -> Tensor:
        frame = dimensions == 5 and latent.ndim == 3  # an image is a clip of one frame
        fitting = latent.unsqueeze(1) if frame else latent
        if fitting.ndim != dimensions - 1 or fitting.shape[0] != channels:
            wrong.add(tuple(latent.shape))
        return fitting

    found = replace(
        dataset,
        pairs=tuple(
            replace(pair, chosen=shaped(pair.chosen), rejected=shaped(pair.rejected))
            for pair in dataset.pairs
        ),
        labelled=tuple(replace(one, latent=shaped(one.latent)) for one in dataset.labelled),
        groups=tuple(
            replace(group, latents=tuple(map(shaped, group.latents))) for group in dataset.groups
        ),
    )
    if wrong:
        raise ValueError(
            f"The pairs were encoded for another kind of model: latents of shape "
            f"{', '.join(map(str, sorted(wrong)))}, while {model_name} takes "
            f"{channels} channels. Encode them with the VAE that belongs to "
            "the model."
        )
    return found


def _plain(latent: Tensor) -> Tensor:
    return latent.detach().to("cpu", torch.float32, copy=True)
