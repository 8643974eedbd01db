"""Whether two models are the same base: what decides if a run is found again."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from hostkit.checkout import load_pack
from hostkit.tiny_models import tiny_patcher

identity: Any = importlib.import_module(f"{load_pack().__name__}.nodes.host.identity")


def patched(strength: float) -> Any:
    def make(b: float) -> Callable[..., Any]:
        def patch(h: torch.Tensor, hsp: torch.Tensor, options: dict[str, Any]) -> Any:
            return h * b, hsp

        return patch

    patcher = tiny_patcher("sd15")
    patcher.set_model_patch(make(strength), "output_block_patch")
    return patcher


def test_the_same_file_loaded_twice_is_the_same_base() -> None:
    one, two = tiny_patcher("sd15"), tiny_patcher("sd15")
    assert identity.model_identity(one) == identity.model_identity(two)


def test_another_strength_of_a_model_patch_is_another_base() -> None:
    weak, strong = (identity.model_identity(patched(x)) for x in (1.1, 1.4))
    assert weak != strong
    assert weak == identity.model_identity(patched(1.1))
