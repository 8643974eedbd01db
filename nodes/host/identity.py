"""What the base model is, so that the same training is found again."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...dpo_core.training.dataset import tensor_digest

RUNS, RUN = 4, 64
"""A tensor is known by so many runs of so many numbers. Runs, because every place in a file that is
read in as it is needed costs a page."""
SPOTS = 64
"""Weights looked at every time, in case something has changed the loaded model in place."""
PATCH_SETS = 64
_weights: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""By model, which this does not keep."""
_patch_digests: OrderedDict[Any, str] = OrderedDict()
"""Of the sets of patches seen last: a merge brings all weights of a second model."""


def model_identity(patcher: ModelPatcher) -> dict[str, Any]:
    """Base weights, upstream patches and sampling, in a form that goes into a run's id."""
    model: Any = patcher.model
    if model not in _weights:
        _weights[model] = _file_identity(patcher) or _sampled_weights(patcher)
    sampling = patcher.get_model_object("model_sampling")
    return {
        "kind": type(model).__name__,
        "weights": f"{_weights[model]}:{_spots(patcher)}",
        "dtype": str(model.get_dtype()),
        "compute_dtype": str(model.get_dtype_inference()),
        "patches": patches_digest(patcher),
        "sampling": [float(sampling.percent_to_sigma(u)) for u in (0.1, 0.5, 0.9)],
        "options": _described(patcher.model_options),
    }


def _file_identity(patcher: ModelPatcher) -> str | None:
    """Name, size and time of the checkpoint file: hashing 12 GB would take seconds of disk."""
    path = _file(patcher)
    if path is None:
        return None
    facts = path.stat()
    return f"{path.name}:{facts.st_size}:{facts.st_mtime_ns}"


def file_name(patcher: ModelPatcher) -> str:
    """Name of the checkpoint file, empty if the model is of none."""
    path = _file(patcher)
    return "" if path is None else path.name


def _file(patcher: ModelPatcher) -> Path | None:
    source = patcher.cached_patcher_init
    path = next((a for a in source[1] if isinstance(a, str)), None) if source else None
    return Path(path) if path is not None and Path(path).is_file() else None


def _sampled_weights(patcher: ModelPatcher) -> str:
    digest = blake2b(digest_size=16)
    for name, weight in sorted(patcher.model_state_dict("diffusion_model.").items()):
        backup = patcher.backup.get(name)
        if backup is not None:
            weight = backup.weight
        elif weight.is_meta:
            weight = stored_weight(patcher.model, name)
        digest.update(name.encode())
        if weight is not None:
            digest.update(sample_digest(weight).encode())
    return digest.hexdigest()


def stored_weight(model: Any, name: str) -> Tensor | None:
    """The numbers behind a placeholder; extensions with weights of their own form give some."""
    layer, _, attribute = name.rpartition(".")
    try:
        weight = getattr(model.get_submodule(layer), attribute)
    except AttributeError:
        return None
    return None if weight.is_meta else weight.detach().as_subclass(Tensor)


def _spots(patcher: ModelPatcher) -> str:
    """Digest of some of the weights as they are in memory, upstream patches apart.

    A file may have been written over since the model was loaded from it.
    """
    names = [
        name for name, weight in patcher.model.diffusion_model.named_parameters()
        if type(weight) in (Tensor, nn.Parameter) and weight.dtype in _PLAIN
    ]
    digest = blake2b(digest_size=8)
    for name in names[:: max(1, len(names) // SPOTS)]:
        backup = patcher.backup.get(f"diffusion_model.{name}")
        weight = patcher.model.diffusion_model.get_parameter(name)
        digest.update(name.encode())
        digest.update(sample_digest(weight if backup is None else backup.weight).encode())
    return digest.hexdigest()


_PLAIN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def patches_digest(patcher: ModelPatcher) -> str:
    """Digest of what is applied to the weights; the host draws its id anew with every change."""
    key = (patcher.patches_uuid, sum(map(len, patcher.patches.values())))
    if key not in _patch_digests:
        _patch_digests[key] = _patch_digest(patcher)
        while len(_patch_digests) > PATCH_SETS:
            _patch_digests.popitem(last=False)
    return _patch_digests[key]


def _patch_digest(patcher: ModelPatcher) -> str:
    digest = blake2b(digest_size=16)
    for key in sorted(patcher.patches, key=str):
        for strength, patch, strength_model, offset, _ in patcher.patches[key]:
            digest.update(f"{key}:{strength}:{strength_model}:{offset}".encode())
            digest.update(_content(patch).encode())
    return digest.hexdigest()


def _content(patch: Any) -> str:
    patch = getattr(patch, "weights", patch)
    if isinstance(patch, Tensor):
        return sample_digest(patch)
    if isinstance(patch, (tuple, list)):
        return f"({','.join(map(_content, patch))})"
    return repr(patch)


def sample_digest(tensor: Tensor) -> str:
    """Shape and digest of some of the numbers, spread over the tensor."""
    flat = tensor.detach().reshape(-1)
    if flat.numel() > RUNS * RUN:
        last = flat.numel() - RUN
        begins = [last * i // (RUNS - 1) for i in range(RUNS)]
        flat = torch.cat([flat[begin : begin + RUN] for begin in begins])
    return f"{tuple(tensor.shape)}{tensor_digest(flat.float())}"


def _described(value: Any, depth: int = 0) -> Any:
    """A model option by what it does: names, numbers, and what its functions have closed over."""
    if depth > 8:
        return type(value).__qualname__
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, Tensor):
        return sample_digest(value)
    if isinstance(value, dict):
        return {str(key): _described(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_described(item, depth + 1) for item in value]
    cells = getattr(value, "__closure__", None) or ()
    inside = [_described(cell.cell_contents, depth + 1) for cell in cells if _filled(cell)]
    name = getattr(value, "__qualname__", type(value).__qualname__)
    state = getattr(value, "__dict__", {}) if not callable(value) or not cells else {}
    plain = {k: v for k, v in state.items() if isinstance(v, (str, int, float, bool))}
    return [name, inside, plain]


def _filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
