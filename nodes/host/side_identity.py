"""What tells one way to draw from another that is called the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import folder_paths
from torch import Tensor

from ...dpo_core.metadata.comfyui_recipe import Recipe
from ...dpo_core.training.dataset import tensor_digest

_FOLDERS = {"ckpt_name": "checkpoints", "lora_name": "loras", "unet_name": "diffusion_models"}


def side_identity(recipe: Recipe, lora: Mapping[str, Any] | None = None) -> str:
    """Hex digest of the recipe, the files in it and a LoRA's weights; empty if none is known."""
    if not recipe.nodes and lora is None:
        return ""
    known = [recipe.nodes, [_file_facts(*file) for file in recipe.files], _weights(lora)]
    text = json.dumps(known, sort_keys=True, default=str)
    return blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()


def _file_facts(name: str, file: str) -> list[int]:
    """Size and time: another file may lie there under the same name."""
    path = folder_paths.get_full_path(_FOLDERS[name], file)
    if path is None:
        return []
    facts = Path(path).stat()
    return [facts.st_size, facts.st_mtime_ns]


def _weights(lora: Mapping[str, Any] | None) -> dict[str, str]:
    tensors = (lora or {}).items()
    return {name: tensor_digest(one) for name, one in tensors if isinstance(one, Tensor)}
