"""What the base model is, so that the same training is found again."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...dpo_core.training.dataset import tensor_digest

SAMPLES = 256
_weights: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def model_identity(patcher: ModelPatcher) -> dict[str, Any]:
    """Base weights, upstream patches and sampling, in a form that goes into a run's id."""
    model: Any = patcher.model
    if model not in _weights:
        _weights[model] = _file_identity(patcher) or _sampled_weights(patcher)
    sampling = patcher.get_model_object("model_sampling")
    return {
        "kind": type(model).__name__,
        "weights": _weights[model],
        "dtype": str(model.get_dtype()),
        "compute_dtype": str(model.get_dtype_inference()),
        "patches": _patches(patcher),
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
        digest.update(name.encode())
        digest.update(_sample(weight if backup is None else backup.weight).encode())
    return digest.hexdigest()


def _patches(patcher: ModelPatcher) -> str:
    digest = blake2b(digest_size=16)
    for key in sorted(patcher.patches, key=str):
        for strength, patch, strength_model, offset, _ in patcher.patches[key]:
            digest.update(f"{key}:{strength}:{strength_model}:{offset}".encode())
            content = getattr(patch, "weights", patch)
            for value in content if isinstance(content, (tuple, list)) else [content]:
                text = _sample(value) if isinstance(value, Tensor) else repr(value)
                digest.update(text.encode())
    return digest.hexdigest()


def _sample(tensor: Tensor) -> str:
    flat = tensor.detach().reshape(-1)
    stride = max(1, flat.numel() // SAMPLES)
    return f"{tuple(tensor.shape)}{tensor_digest(flat[::stride].float())}"


def _described(value: Any, depth: int = 0) -> Any:
    """A model option by what it does: names, numbers, and what its functions have closed over."""
    if depth > 8:
        return type(value).__qualname__
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, Tensor):
        return _sample(value)
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
