"""The latent a picture was decoded from, kept beside it: a safetensors file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

_TENSOR = "latent"
_VAE = "vae"


@dataclass(frozen=True, eq=False)
class KnownLatent:
    """A clean latent, as the VAE's encoder gives and its decoder takes it."""

    values: NDArray[np.float32]
    """(channels, height, width), or (channels, 1, height, width) of a video model."""
    vae: str = ""
    """The file of the VAE it belongs to; empty if that is not known. Latents of another VAE may
    have the same shape and still be of no use to this one."""


def latent_bytes(latent: KnownLatent) -> bytes:
    """The file of a latent; the same latent gives the same bytes."""
    values = np.ascontiguousarray(latent.values, dtype=np.float32)
    return save({_TENSOR: values}, metadata={_VAE: latent.vae} if latent.vae else None)


def read_latent(path: Path) -> KnownLatent | None:
    """The latent in a file; None if there is none, or it is damaged."""
    try:
        with safe_open(path, framework="np") as file:
            values = file.get_tensor(_TENSOR)
            vae = (file.metadata() or {}).get(_VAE, "")
    except (OSError, SafetensorError):
        return None
    good = values.dtype == np.float32 and values.ndim in (3, 4) and np.isfinite(values).all()
    return KnownLatent(values, vae) if good else None
