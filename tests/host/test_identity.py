"""Whether two models are the same base: what decides if a run is found again."""

from __future__ import annotations

import gc
import importlib
import os
import weakref
from collections.abc import Callable
from typing import Any

import comfy.sd
import torch
from hostkit.checkout import load_pack
from hostkit.load_states import LOAD_STATES, load_state, with_upstream_loras
from hostkit.plain_lora import upstream_lora
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


def test_however_the_host_holds_a_model_it_is_the_same_base() -> None:
    kind = "sd3"
    found = set()
    for state in LOAD_STATES:
        with load_state(state, kind, with_upstream_loras(kind)) as (patcher, _):
            os.utime(patcher.cached_patcher_init[1][0], (10**9, 10**9))
            found.add(str(identity.model_identity(patcher)))
            patcher.cached_patcher_init = None  # a model of no file
            identity._weights.clear()
            found.add(str(identity.model_identity(patcher)))
    assert len(found) == 2


def test_a_model_changed_in_place_is_another_base_with_and_without_its_file() -> None:
    for source in (True, False):
        patcher = tiny_patcher("sd3")
        if not source:
            patcher.cached_patcher_init = None
        before = identity.model_identity(patcher)
        with torch.inference_mode():
            for weight in patcher.model.diffusion_model.parameters():
                weight.mul_(1.01)
        assert identity.model_identity(patcher) != before


def test_a_file_written_over_with_the_same_size_and_time_is_another_base() -> None:
    patcher = tiny_patcher("sd3")
    path = patcher.cached_patcher_init[1][0]
    os.utime(path, (10**9, 10**9))
    before = identity.model_identity(patcher)
    other = tiny_patcher("sd3", seed=1)
    name = other.cached_patcher_init[1][0]
    with open(name, "rb") as file, open(path, "rb") as mine:
        content, old = file.read(), mine.read()
    assert len(content) == len(old)
    try:
        with open(path, "wb") as file:
            file.write(content)
        os.utime(path, (10**9, 10**9))
        loaded = comfy.sd.load_diffusion_model(path)
        again = identity.model_identity(loaded)
        assert again["weights"].split(":")[:3] == before["weights"].split(":")[:3]
        assert again["weights"] != before["weights"]
    finally:
        with open(path, "wb") as file:
            file.write(old)


def test_every_lora_and_every_strength_of_it_is_another_base() -> None:
    patcher, found = tiny_patcher("sd3"), []
    for seed, strength in ((0, 0.5), (0, 0.6), (1, 0.5), (0, 0.5)):
        lora, _ = upstream_lora("sd3", seed)
        one, _ = comfy.sd.load_lora_for_models(patcher, None, lora, strength, 0)
        found.append(identity.model_identity(one)["patches"])
    assert len(set(found)) == 3 and found[0] == found[3]


def test_knowing_a_model_does_not_keep_it() -> None:
    patcher = tiny_patcher("sd3")
    patcher.cached_patcher_init = None
    identity.model_identity(patcher)
    model = weakref.ref(patcher.model)
    del patcher
    gc.collect()
    assert model() is None
