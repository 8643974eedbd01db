"""LoRA files: safetensors whose metadata other tools read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from .atomic import sweep
from .tensor_file import write_tensors

PARTS = (
    "lora_A.weight", "lora_B.weight", "dora_scale", "hada_w1_a", "hada_w1_b", "hada_w2_a",
    "hada_w2_b", "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b",
)  # fmt: skip
"""Names of a layer's tensors, by which every loader knows what they are."""
_WITH_RANK = ("lora_A.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
_NETWORKS = {
    "dora": ("lycoris.kohya", {"algo": "lora", "dora_wd": "True", "wd_on_output": "False"}),
    "loha": ("lycoris.kohya", {"algo": "loha"}),
    "lokr": ("lycoris.kohya", {"algo": "lokr"}),
}
"""What kohya's tools call them: module and arguments. rsLoRA is plain LoRA in a file."""


def lora_layers(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of every layer by their names in ``PARTS``."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        for part in PARTS:
            if name.endswith(f".{part}"):
                layers.setdefault(name[: -len(part) - 1], {})[part] = tensor
    return layers


def lora_ranks(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Rank of every layer that has one."""
    found = {}
    for layer, parts in lora_layers(tensors).items():
        if (part := next((name for name in _WITH_RANK if name in parts), None)) is not None:
            found[layer] = parts[part].shape[0]
    return found


def lora_tensors(
    parameters: Mapping[str, Tensor], alphas: Mapping[str, float]
) -> dict[str, Tensor]:
    """What goes into the file: the matrices and alpha of every layer, CPU, contiguous."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in parameters.items()}
    tensors.update({f"{layer}.alpha": torch.tensor(alpha) for layer, alpha in alphas.items()})
    return tensors


def save_lora(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    poll: Callable[[], None] = lambda: None,
) -> None:
    """Writes a LoRA file atomically.

    Args:
        path: the final name.
        tensors: as they go into the file.
        metadata: for its header.
        poll: is called now and then; what it raises breaks the writing off.

    Raises:
        OSError: no room, no permission; nothing is left behind.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    sweep(path.parent)
    write_tensors(path, contiguous, metadata, poll)


def read_lora(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a LoRA file.

    Raises:
        ValueError: the file is not readable safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except Exception as error:
        raise ValueError(
            f"{path.name} is not a readable .safetensors file ({error}). Use another copy of it."
        ) from error


def lora_metadata(
    tensors: Mapping[str, Tensor],
    *,
    title: str,
    architecture: str,
    rank: int,
    alpha: float,
    settings: Mapping[str, Any],
    metrics: Mapping[str, float],
    steps: int,
    pairs: int,
    kind: str = "lora",
    dropout: float = 0.0,
) -> dict[str, str]:
    """Metadata under the names of the ModelSpec standard, of kohya's tools, and our own.

    Args:
        tensors: what the file will hold; its hash goes into the metadata.
        title: shown by model managers.
        architecture: of the base model, ModelSpec's name where it has one.
        rank: largest rank of a layer.
        alpha: alpha of that layer.
        settings: everything that decided the result.
        metrics: of the last step.
        steps: optimiser steps done.
        pairs: preference pairs trained on.
        kind: type of the adapter.
        dropout: share of a layer's directions left out while training.
    """
    module, arguments = _NETWORKS.get(kind, ("networks.lora", {}))
    if dropout > 0:
        arguments = arguments | {"rank_dropout": str(dropout)}
    file = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    # ModelSpec hashes what follows the header.
    body = file[8 + int.from_bytes(file[:8], "little") :]
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": title,
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "https://github.com/comfyanonymous/ComfyUI",
        "modelspec.date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "modelspec.description": f"Preference LoRA: DPO on {pairs} pairs, {steps} steps.",
        "modelspec.hash_sha256": f"0x{sha256(body).hexdigest()}",
        "ss_network_module": module,
        "ss_network_args": json.dumps(arguments, sort_keys=True),
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
        "ss_steps": str(steps),
        "ss_output_name": title,
        "dpo.settings": json.dumps(settings, sort_keys=True),
        "dpo.metrics": json.dumps(finite, sort_keys=True),
        "dpo.pairs": str(pairs),
    }
