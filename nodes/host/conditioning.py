"""Prompts as ComfyUI encodes them, made ready for rows of a batch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from hashlib import blake2b
from typing import Any

import comfy.conds
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ...dpo_core.training.dataset import tensor_digest
from ...dpo_core.training.transfer import sent

Conditioning = list[Any]
"""One entry of ComfyUI's CONDITIONING: ``[tensor, options]``."""

_UNSUPPORTED = {
    "area": "a region",
    "mask": "a mask",
    "start_percent": "a timestep range",
    "end_percent": "a timestep range",
    "timestep_start": "a timestep range",
    "timestep_end": "a timestep range",
    "control": "a ControlNet",
    "gligen": "GLIGEN boxes",
    "hooks": "hooks",
    "concat_latent_image": "an inpainting image",
}


def conditioning_problems(entry: Conditioning) -> list[str]:
    """Why this conditioning cannot be trained on; empty if it can."""
    options = entry[1]
    kinds = [kind for key, kind in _UNSUPPORTED.items() if options.get(key) is not None]
    if options.get("strength", 1.0) != 1.0:
        kinds.append("a strength other than 1")
    return [f"carries {kind}" for kind in dict.fromkeys(kinds)]


def conditioning_digest(entry: Conditioning) -> str:
    """Digest of everything in the conditioning that reaches the model."""
    digest = blake2b(digest_size=16)
    _update(digest, entry[0])
    _update(digest, {key: value for key, value in entry[1].items() if key != "uuid"})
    return digest.hexdigest()


def plain_conditioning(entry: Conditioning) -> Conditioning:
    """The same values as ordinary tensors on the CPU, free of inference mode."""
    return [_plain(entry[0]), _plain(entry[1])]


class ModelConditioning:
    """A model's own form of each prompt, computed once and kept in host memory.

    Args:
        model: the host's loaded BaseModel.
        device: where it computes.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model, self._device = model, device
        self._ready: dict[tuple[int, tuple[int, ...]], tuple[Conditioning, dict[str, Any]]] = {}

    def signature(self, entry: Conditioning, latent_shape: Sequence[int]) -> Hashable:
        """Equal for rows that may share a call: shapes of tensors, values of constants."""
        return tuple(
            (key, type(value).__name__, _signature(value))
            for key, value in sorted(self._prepared(entry, latent_shape).items())
        )

    def rows(
        self, entries: Sequence[Conditioning], latent_shape: Sequence[int]
    ) -> dict[str, Any]:
        """Keyword arguments of ``apply_model``, one row per entry.

        Raises:
            ValueError: the entries cannot share a call.
        """
        first, *others = [self._prepared(entry, latent_shape) for entry in entries]
        for other in others:
            if not comfy.samplers.cond_equal_size(first, other):
                raise ValueError("Prompts of different form were put into one batch.")
        return {
            key: _sent(value.concat([o[key] for o in others]), self._device)
            for key, value in first.items()
        }

    @torch.no_grad()
    def _prepared(self, entry: Conditioning, latent_shape: Sequence[int]) -> dict[str, Any]:
        key = (id(entry), tuple(latent_shape))
        if key not in self._ready:
            # The entry is kept with the result, so its id is not given to another.
            self._ready[key] = (entry, self._prepare(entry, latent_shape))
        return self._ready[key][1]

    def _prepare(self, entry: Conditioning, latent_shape: Sequence[int]) -> dict[str, Any]:
        blank = torch.zeros(1, *latent_shape, device=self._device)
        conds = {"positive": comfy.sampler_helpers.convert_cond([entry])}
        conds = comfy.samplers.process_conds(
            self._model, blank, conds, self._device, latent_image=blank, seed=0
        )
        prepared = conds["positive"][0]["model_conds"]
        one_row = {
            key: cond.process_cond(batch_size=1, area=None) for key, cond in prepared.items()
        }
        for cond in one_row.values():
            cond.cond = _held(cond.cond)
        return one_row


def _sent(value: Any, device: torch.device) -> Any:
    """What the model itself would move to the device before it begins."""
    if isinstance(value, list):
        return [_sent(item, device) for item in value]
    return sent(value, device) if isinstance(value, Tensor) else value


def _held(value: Any) -> Any:
    """In host memory; what is there already, as the prompt itself, is not copied."""
    if isinstance(value, Tensor) and value.device.type == "cpu" and not value.is_inference():
        return value.detach()
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach() if value.is_meta else value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if type(value) is tuple:
        return tuple(_plain(item) for item in value)
    return value


def _signature(value: comfy.conds.CONDRegular) -> Hashable:
    content = value.cond
    if isinstance(value, comfy.conds.CONDConstant):
        return tensor_digest(content) if isinstance(content, Tensor) else repr(content)
    tensors = content if isinstance(content, list) else [content]
    return tuple(tuple(tensor.shape) for tensor in tensors)


def _update(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(tensor_digest(value).encode())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            digest.update(f"{key}=".encode())
            _update(digest, value[key])
    elif isinstance(value, (list, tuple)):
        digest.update(f"[{len(value)}".encode())
        for item in value:
            _update(digest, item)
    else:
        digest.update(repr(value).encode())
