"""What a DPO step costs beside an ordinary LoRA step: time and peak memory, as ratios of one run.

    COMFYUI_PATH=... python benchmarks/step.py [--kind flux] [--size 48] [--checkpointing]

An ordinary LoRA step is one forward and backward pass of one image through the same model, with
the same adapter and the same frozen layers. Memory is the peak of live tensor storage above what
was there before the step, counted exactly, so it does not depend on an allocator.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from hostkit import checkout

ROUNDS = 7


class LiveBytes(TorchDispatchMode):
    """Bytes of tensor storage alive now, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in given:
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        self._seen[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.live -= self._seen.pop(key)


def measured(step: Callable[[], None]) -> tuple[float, int]:
    """Median seconds and peak bytes of ``step``."""
    step()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    with LiveBytes() as memory:
        step()
    return statistics.median(seconds), memory.peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", default="flux", help="sd15, sd3, flux")
    parser.add_argument("--size", type=int, default=48, help="latent height and width")
    parser.add_argument("--checkpointing", action="store_true")
    options = parser.parse_args()
    found = checkout.find_checkout()
    if found is None:
        sys.exit(checkout.missing_reason())
    checkout.enter_checkout(found)
    from hostkit import tiny_models

    name = checkout.load_pack().__name__

    def pack(module: str) -> Any:
        return importlib.import_module(f"{name}.{module}")

    patcher = tiny_models.tiny_patcher(options.kind)
    adapter = pack("dpo_core.training.adapter").AdapterSettings(16, 16.0)
    trained = pack("nodes.host.injection").TrainedModel(
        patcher, adapter, 0, None, options.checkpointing
    )
    prompt = pack("nodes.host.conditioning").plain_conditioning(
        tiny_models.random_conditioning(options.kind, 1)[0]
    )
    latents = tiny_models.random_latents(options.kind, 2, options.size).clone()
    rows = pack("dpo_core.training.denoiser").Rows
    batches, passes = pack("dpo_core.training.batch"), pack("dpo_core.training.four_passes")
    objective = pack("dpo_core.training.objectives").Objective()
    with pack("nodes.host.session").training_session(trained):
        denoiser = pack("nodes.host.denoiser").HostDenoiser(trained.patcher)
        sigma, noise = denoiser.sigma(torch.tensor([0.4])), torch.randn_like(latents[:1])
        sides = [rows(latents[i : i + 1], (prompt,), sigma, noise) for i in (0, 1)]
        batch = batches.Batch(
            tuple(sides), pack("dpo_core.training.objectives").certain(1), draw_keys=("pair:0",)
        )
        cache = pack("dpo_core.training.reference_cache").ReferenceCache(1e-4)

        for parameter in trained.adapter.parameters().values():
            # There from the start, as in every micro-batch after the first.
            parameter.grad = torch.zeros_like(parameter)

        def clear() -> None:
            for parameter in trained.adapter.parameters().values():
                parameter.grad.zero_()

        def ordinary() -> None:
            clear()
            denoiser.predict(sides[0]).residual.square().mean().backward()

        def bare_full() -> None:
            clear()
            both = sides[0].joined(sides[1])
            with torch.no_grad():
                denoiser.predict(both)
            denoiser.predict(both).residual.square().mean().backward()

        def bare_cached() -> None:
            clear()
            denoiser.predict(sides[0].joined(sides[1])).residual.square().mean().backward()

        def mode(schedule: Any, known: Any = None) -> Callable[[], None]:
            def step() -> None:
                clear()
                schedule(denoiser, trained.adapter, batch, objective, 1.0, cache=known)

            return step

        base_seconds, base_bytes = measured(ordinary)
        kept = "with" if options.checkpointing else "without"
        print(f"{options.kind}, latents {options.size} x {options.size}, {kept} checkpointing")
        print(f"{'ordinary LoRA step':26} {base_seconds:8.3f} s  {base_bytes / 2**20:9.1f} MB")
        steps = {name: mode(schedule) for name, schedule in passes.SCHEDULES.items()}
        # Their first call, which is not counted, computes the reference.
        steps |= {
            f"{name}, cached": mode(schedule, cache) for name, schedule in passes.SCHEDULES.items()
        }
        steps |= {"bare passes of full": bare_full, "bare passes, cached": bare_cached}
        for label, step in steps.items():
            seconds, size = measured(step)
            print(
                f"{label:26} {seconds:8.3f} s  {size / 2**20:9.1f} MB   "
                f"time x {seconds / base_seconds:.2f}   memory x {size / base_bytes:.3f}"
            )


if __name__ == "__main__":
    main()
