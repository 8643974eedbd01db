"""What a VAE or a text encoder is, told by its content: the same after a restart, too.

Everything that decides what it makes of an image or of tokens is in here, or there is no answer:
what cannot be told must not be taken from disk. Not in here are the machine and the version of
PyTorch: their results differ by rounding, and a training must find its data again after an update.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from types import CodeType, FunctionType, MethodType
from typing import Any

import comfy.ldm.modules.attention
import torch
from comfy.cli_args import args
from comfyui_version import __version__
from torch import Tensor
from torch.nn import Module

from ...dpo_core.training.dataset import tensor_digest
from .encoding_cache import structure_digest
from .identity import patches_digest, sample_digest, stored_weight

VERSION = 1
"""Of how this pack prepares images and prompts; another one encodes everything anew."""
_NOT_ENCODING = {
    "patcher", "first_stage_model", "size", "memory_used_encode", "memory_used_decode", "device",
    "output_device", "working_dtypes", "upscale_ratio", "upscale_index_formula", "process_output",
}  # fmt: skip
"""Attributes of a VAE that have no part in what it encodes to, or that are looked at apart."""
_SAID_BY_REPR = (bool, int, float, complex, str, bytes, slice, torch.dtype)
_NOT_OF_TOKENS = {"patcher", "cond_stage_model", "tokenizer", "tokenizer_options"}
"""Of a text encoder: what a tokenizer does is seen in the tokens."""
_NOT_OF_VISION = {"patcher", "model", "naf", "load_device"}


def vae_identity(vae: Any) -> str | None:
    """Equal for VAEs that encode alike; None if that cannot be told."""
    return _told(lambda: _vae(vae))


def clip_identity(clip: Any) -> str | None:
    """Equal for text encoders that make the same of the same tokens; None if it cannot be told."""
    return _told(lambda: _clip(clip))


def clip_vision_identity(clip_vision: Any) -> str | None:
    """Equal for CLIP vision models that see alike; None if it cannot be told."""
    return _told(lambda: _clip_vision(clip_vision))


def content_digest(value: Any) -> str | None:
    """Digest of plain data with tensors, such as tokens; None if there is anything else in it."""

    def digest() -> str:
        found = blake2b(digest_size=16)
        _update(found, value, None)
        return found.hexdigest()

    return _told(digest)


class _Unknown(TypeError):
    """Something that cannot be told by its content."""


def _told(describe: Callable[[], str]) -> str | None:
    try:
        return describe()
    # Encoders of other node packs may lack anything or raise anything; they are not kept then.
    except (AttributeError, LookupError, NotImplementedError, RecursionError, RuntimeError,
            TypeError, ValueError):  # fmt: skip
        return None


def _vae(vae: Any) -> str:
    digest = blake2b(digest_size=16)
    module = vae.first_stage_model
    plain = {name: one for name, one in vars(vae).items() if name not in _NOT_ENCODING}
    parts = (_host(), plain, vae.device.type, vae.vae_output_dtype())
    _update(digest, parts, module)
    _update(digest, (type(vae).encode, type(vae).vae_encode_crop_pixels), module)
    _update_model(digest, vae.patcher, module)
    return digest.hexdigest()


def _clip(clip: Any) -> str:
    digest = blake2b(digest_size=16)
    module = clip.cond_stage_model
    plain = {name: one for name, one in vars(clip).items() if name not in _NOT_OF_TOKENS}
    module.reset_clip_options()  # as every encoding begins; the last one may have left others
    _update(digest, (_host(), plain, clip.patcher.load_device.type), module)
    encodes = type(clip).encode_from_tokens_scheduled, type(clip).encode_from_tokens
    _update(digest, encodes, module)
    _update_model(digest, clip.patcher, module)
    return digest.hexdigest()


def _clip_vision(clip_vision: Any) -> str:
    digest = blake2b(digest_size=16)
    plain = {
        name: one for name, one in vars(clip_vision).items() if name not in _NOT_OF_VISION
    }
    parts = (_host(), plain, clip_vision.load_device.type, type(clip_vision).encode_image)
    _update(digest, parts, clip_vision.model)
    _update_model(digest, clip_vision.patcher, clip_vision.model)
    return digest.hexdigest()


def _host() -> tuple[Any, ...]:
    """A new version of the host may have put an encoder right, so it encodes anew."""
    attention = comfy.ldm.modules.attention.optimized_attention
    return VERSION, __version__, sorted(map(str, args.fast)), attention.__name__


def _update_model(digest: Any, patcher: Any, module: Module) -> None:
    if patcher.forced_hooks is not None or patcher.hook_patches or patcher.weight_wrapper_patches:
        raise _Unknown("hooks")
    if any(map(_filled, (patcher.injections, patcher.wrappers, patcher.callbacks))):
        raise _Unknown("injections")
    _update(digest, patcher.object_patches, module)
    digest.update(f"{patches_digest(patcher)}{structure_digest(module)}".encode())
    for name, weight in sorted(patcher.model_state_dict().items()):
        if _is_idle(name, module):
            continue
        backup = patcher.backup.get(name)
        if backup is not None:
            weight = backup.weight
        elif weight.is_meta:
            weight = stored_weight(module, name)
            if weight is None:
                raise _Unknown(name)
        digest.update(f"{name}{weight.dtype}{sample_digest(weight)}".encode())


def _is_idle(name: str, module: Module) -> bool:
    """Most files lack this weight, as nothing is made of it; it then is memory as it was found."""
    projection = name.endswith("clip_l.transformer.text_projection.weight")
    return projection and "HiDream" not in type(module).__name__


def _filled(value: Any) -> bool:
    return any(map(_filled, value.values())) if isinstance(value, dict) else bool(value)


def _update(digest: Any, value: Any, module: Module | None) -> None:
    """Adds a value by its content; of a method of the module, which is looked at apart, its code.

    Raises:
        _Unknown: the value, or something in it, is told apart only by which object it is.
    """
    digest.update(f"{type(value).__qualname__}:".encode())
    if value is None or value is ... or isinstance(value, _SAID_BY_REPR):
        digest.update(repr(value).encode())
    elif isinstance(value, (set, frozenset)):
        _update(digest, sorted(value, key=repr), module)
    elif isinstance(value, torch.device):
        digest.update(value.type.encode())
    elif isinstance(value, Tensor):
        digest.update(tensor_digest(value).encode())
    elif isinstance(value, dict):
        digest.update(f"{len(value)};".encode())
        for key in sorted(value, key=str):
            _update(digest, (key, value[key]), module)
    elif isinstance(value, (list, tuple)):
        digest.update(f"{len(value)};".encode())
        for one in value:
            _update(digest, one, module)
    elif isinstance(value, CodeType):
        digest.update(value.co_code)
        _update(digest, (value.co_names, value.co_consts), module)
    elif isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        _update(digest, (value.__code__, value.__defaults__, value.__kwdefaults__, cells), module)
    elif isinstance(value, MethodType) and _belongs(value.__self__, module):
        digest.update(type(value.__self__).__qualname__.encode())
        _update(digest, value.__func__, module)
    else:
        raise _Unknown(f"{type(value)}")


def _belongs(owner: Any, module: Module | None) -> bool:
    return module is not None and any(owner is one for one in module.modules())
