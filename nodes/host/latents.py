"""Latents that come with images, so that these need not be encoded again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PureWindowsPath
from typing import Any

import torch
from torch import Tensor

from ...dpo_core.pairs.latent_file import KnownLatent
from ...dpo_core.pairs.record import Picture

_CONNECT = "Connect the latents these images were decoded from, in the same order, or none."


def latent_problems(latents: Sequence[Any], images: int) -> list[str]:
    """Why LATENTs, as a node gets them, cannot be those of this many images; empty if they can."""
    found = []
    count = 0
    for latent in filter(None, latents):
        samples = latent.get("samples")
        if not isinstance(samples, Tensor) or samples.is_nested or samples.ndim not in (4, 5):
            return [f"A latent is not one of images. {_CONNECT}"]
        count += len(samples)
        if samples.ndim == 5 and samples.shape[2] != 1:
            frames = samples.shape[2]
            found.append(f"A latent is of a video of {frames} latent frames. Rank still images.")
        if not torch.isfinite(samples).all():
            found.append("A latent holds values that are not numbers. Check where it comes from.")
    if count not in (0, images):
        found.append(f"There are {images} images but {count} latents. {_CONNECT}")
    return found


def known_latents(latents: Sequence[Any], vae_file: str | None) -> list[KnownLatent]:
    """LATENTs without problems, one by one.

    Args:
        latents: as a node gets them, single ones and batches.
        vae_file: the VAE's they belong to, where that is known.
    """
    return [
        KnownLatent(one.detach().float().cpu().numpy(), vae_file or "")
        for latent in filter(None, latents)
        for one in latent["samples"]
    ]


def usable_latent(picture: Picture, vae: Any, size: tuple[int, int]) -> Tensor | None:
    """A picture's known latent in the shape this VAE would encode it to.

    None if there is none, if it belongs to another VAE as far as one can tell, or to an image of
    another size. Which VAE a file-less one is cannot be told; then the shape decides.

    Args:
        picture: what is to be trained on.
        vae: the host's VAE.
        size: (width, height) in pixels, in which the picture is wanted.
    """
    if size != picture.size:
        return None
    known = picture.latent()
    if known is None or _differ(known.vae, vae_file(vae)):
        return None
    values = torch.tensor(known.values)
    expected = _encoded_shape(vae, size)
    # An image of a video model may have come with its one frame or without.
    frame = values.squeeze(1) if values.ndim == 4 and values.shape[1] == 1 else values
    shaped = frame.unsqueeze(1) if vae.latent_dim == 3 and frame.ndim == 3 else frame
    return shaped if tuple(shaped.shape) == expected else None


def vae_file(vae: Any) -> str:
    """The name of the file a VAE was loaded from; empty if that cannot be told."""
    loader = getattr(getattr(vae, "patcher", None), "cached_patcher_init", None)
    path = loader[1][0] if loader and loader[1] else ""
    return _name(path) if isinstance(path, str) else ""


def _encoded_shape(vae: Any, size: tuple[int, int]) -> tuple[int, ...] | None:
    ratio, dimensions = vae.spacial_compression_encode(), vae.latent_dim
    if dimensions not in (2, 3) or any(side % ratio for side in size):
        return None
    width, height = (int(side // ratio) for side in size)
    return (vae.latent_channels, *(1,) * (dimensions - 2), height, width)


def _differ(one: str, other: str) -> bool:
    return bool(one and other) and _name(one) != _name(other)


def _name(path: str) -> str:
    return PureWindowsPath(path).name  # knows both separators
