"""Every state in which the host may hold a model when training begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import comfy.model_management
import comfy.sd
from comfy.model_patcher import ModelPatcher

from hostkit.paging import dynamic_paging, partial_loading
from hostkit.plain_lora import Deltas, upstream_lora
from hostkit.tiny_models import denoise, random_conditioning, random_latents, tiny_patcher

LOAD_STATES = ("plain", "offloaded", "resident", "half_resident", "evicted", "partial")
UPSTREAM_STRENGTHS = {0: 0.7, 1: -0.4}


class LoadState(NamedTuple):
    """A MODEL as a user has it, and what happens to it between forward and backward."""

    patcher: ModelPatcher
    between: Callable[[], object]


@contextmanager
def load_state(
    name: str,
    kind: str,
    prepare: Callable[[ModelPatcher], ModelPatcher] = lambda patcher: patcher,
    **options: Any,
) -> Iterator[LoadState]:
    """The model `kind` in the state `name` (of `LOAD_STATES`), after a sampling run.

    plain: as on a CPU, never sampled. offloaded: paged, nothing fits. resident: paged, everything
    fits and stays from the sampling run. half_resident: paged, half of it fits. evicted: resident,
    and evicted between forward and backward. partial: the classic patcher on a small card.
    `prepare` is what loaders between the model and the trainer do.
    """
    if name == "plain":
        try:
            yield LoadState(prepare(tiny_patcher(kind, **options)), lambda: None)
        finally:
            comfy.model_management.unload_all_models()
    elif name == "partial":
        with partial_loading() as loading:
            patcher = prepare(loading.load(kind, **options))
            sample(patcher, kind)
            yield LoadState(patcher, lambda: None)
    else:
        with dynamic_paging({"offloaded": 0.0, "half_resident": 0.5}.get(name, 1.0)) as paging:
            patcher = prepare(paging.load(kind, **options))
            sample(patcher, kind)
            yield LoadState(patcher, paging.evict if name == "evicted" else lambda: None)


def sample(patcher: ModelPatcher, kind: str) -> Any:
    """Latents of one sampling pass, as a sampler node makes them."""
    return denoise(patcher, random_latents(kind, batch=2), random_conditioning(kind), 0.6)


def with_upstream_loras(kind: str) -> Callable[[ModelPatcher], ModelPatcher]:
    """Two LoRAs at different strengths, as LoraLoader applies them."""

    def load(patcher: ModelPatcher) -> ModelPatcher:
        for seed, strength in UPSTREAM_STRENGTHS.items():
            lora, _ = upstream_lora(kind, seed)
            patcher, _ = comfy.sd.load_lora_for_models(patcher, None, lora, strength, 0)
        return patcher

    return load


def upstream_deltas(kind: str) -> Deltas:
    """What `with_upstream_loras` adds to the weights, by arithmetic."""
    total: dict[str, Any] = {}
    for seed, strength in UPSTREAM_STRENGTHS.items():
        for name, delta in upstream_lora(kind, seed)[1].items():
            total[name] = total.get(name, 0) + strength * delta
    return total
