"""Memory of a training, counted exactly: against an ordinary LoRA step, and against the estimate.

    COMFYUI_PATH=... python benchmarks/memory.py [--full-size] [--size 24] [--families ...]

An ordinary LoRA step is one forward and backward pass of one image through the same model, with
the same adapter, the same frozen layers and the same checkpointing. Bytes are those of tensors made
in the step and alive at its peak: they depend on no allocator, no machine and no chance. Ratios and
sizes are of models in their real width (with --full-size, and depth), in bf16, as shapes alone.
Estimates are held against two real steps of the small models of the tests, on a CPU in fp32.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from hostkit import checkout

FAMILIES = ("sd1", "sdxl", "sd35", "flux_dev", "qwen_image")
SIZES = {"sd35": 16}
"""Where a model takes no larger latents."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", default=FAMILIES)
    parser.add_argument("--size", type=int, default=24, help="latent height and width")
    parser.add_argument(
        "--full-size", action="store_true", help="count models in their real size instead"
    )
    options = parser.parse_args()
    found = checkout.find_checkout()
    if found is None:
        sys.exit(checkout.missing_reason())
    checkout.enter_checkout(found)
    from hostkit.full_size import MODELS

    name = checkout.load_pack().__name__

    def pack(module: str) -> Any:
        return importlib.import_module(f"{name}.{module}")

    if options.full_size:
        full_size(pack)
        return
    print("A step's peak over that of an ordinary LoRA step, in the models' real width\n")
    columns = ["sequential", "cached", "safeguard", "nft_pair", "policy_c.", "full_c."]
    print(f"{'':12} {'checkpointing':14}" + "".join(f"{one:>12}" for one in columns))
    for kind in MODELS:
        for checkpointing in (True, False):
            ratios = step_ratios(kind, checkpointing, pack)
            shown = "".join(f"{ratio:12.3f}" for ratio in ratios)
            print(f"{kind:12} {'yes' if checkpointing else 'no':14}{shown}", flush=True)
    print("\nWhat was estimated beforehand over what two steps then took at the most, LoRA,")
    print("gradient and optimiser included\n")
    for kind in options.families:
        size = min(options.size, SIZES.get(kind, options.size))
        for case in CASES:
            estimated, taken = estimate(kind, size, case, pack)
            print(
                f"{kind:12} {', '.join(f'{k} {v}' for k, v in case.items()):70}"
                f"{estimated / 2**20:8.2f} / {taken / 2**20:8.2f} MB = {estimated / taken:.3f}",
                flush=True,
            )


def full_size(pack: Callable[[str], Any]) -> None:
    """What a training takes beside the model in its real size, in bf16, as shapes alone."""
    from hostkit.full_size import MODELS, full_size_pairs, full_size_patcher
    from hostkit.training import train_settings

    trainers, need_of = pack("nodes.host.trainer"), pack("nodes.host.memory").need_of
    adapter = pack("dpo_core.training.adapter").AdapterSettings(16, 16.0)
    run = pack("dpo_core.saving.run_folder").RunFolder(Path(), {})
    modes = ("sequential", "policy_concurrent", "full_concurrent")
    print("GB beside the model, one pair, rank 16, AdamW included\n")
    print(f"{'':16}{'checkpointing':14}" + "".join(f"{mode:>19}" for mode in modes))
    for kind, model in MODELS.items():
        patcher, pairs = full_size_patcher(kind, shallow=False), full_size_pairs(kind)
        for checkpointing in (True, False):
            sizes = []
            for mode in modes:
                need = need_of(trainers.Trainer(
                    patcher, pairs, pairs, train_settings(execution_mode=mode), adapter,
                    checkpointing, pack("nodes.host.lineage").Origin(), run, 0,
                ))
                assert need.exact
                sizes.append(need.total / 2**30)
            title = f"{model.title}, {model.pixels}"
            shown = "".join(f"{size:19.2f}" for size in sizes)
            print(f"{title:16}{'yes' if checkpointing else 'no':14}{shown}", flush=True)


CASES: list[dict[str, Any]] = [
    {"execution_mode": mode, "checkpointing": checkpointing, "batch_size": batch, "rank": rank}
    for mode in ("sequential", "policy_concurrent", "full_concurrent")
    for checkpointing in (True, False)
    for batch, rank in ((1, 4), (2, 16))
]


def step_ratios(kind: str, checkpointing: bool, pack: Callable[[str], Any]) -> list[float]:
    """Of sequential plain, with its reference cached, with a safeguard, as NFT; of the others."""
    from hostkit.full_size import full_size_pairs, full_size_patcher, shape_training

    passes, noise = pack("dpo_core.training.four_passes"), pack("dpo_core.training.noise")
    objective = pack("dpo_core.training.objectives").Objective
    batches, plan = pack("dpo_core.training.batch"), pack("dpo_core.training.plan")
    cache = pack("dpo_core.training.reference_cache").ReferenceCache(1e-4)
    memory = pack("nodes.host.step_memory")
    with shape_training(full_size_patcher(kind, shallow=True), checkpointing) as run:
        batch = batches.gather(
            full_size_pairs(kind).pairs, plan.MicroBatch((0,), 0), run.denoiser,
            noise.NoiseSettings(), 0, True,
        )
        cache.learn(batch, torch.ones(2, 1))

        def peak(action: Callable[[], object]) -> int:
            with memory._Memory() as counted, run.adapter.micro_batch(0, 1, 0):
                action()
            return int(counted.peak)

        def step(mode: str, known: Any = None, **how: Any) -> int:
            schedule, given = passes.SCHEDULES[mode], objective(**how)
            return peak(
                lambda: schedule(run.denoiser, run.adapter, batch, given, 1.0, cache=known)
            )

        rows = batch.images[0]
        base = peak(lambda: run.denoiser.predict(rows).residual.square().mean().backward())
        taken = [
            step("sequential"), step("sequential", cache), step("sequential", safeguard=0.5),
            step("sequential", loss="nft_pair"), step("policy_concurrent"),
            step("full_concurrent"),
        ]
        return [one / base for one in taken]


def estimate(
    kind: str, size: int, case: dict[str, Any], pack: Callable[[str], Any]
) -> tuple[float, int]:
    """Bytes as estimated, and as taken."""
    from hostkit.tiny_models import tiny_patcher
    from hostkit.training import random_pairs, steps, trainer_on, training

    given = dict(case)
    rank, checkpointing = given.pop("rank"), given.pop("checkpointing")
    patcher, pairs = tiny_patcher(kind), random_pairs(kind, 2, size=size)
    trainer = trainer_on(patcher, pairs, checkpointing, rank, **given)
    expected = pack("nodes.host.memory").need_of(trainer)
    assert expected.exact, kind
    with training(patcher, rank=rank, filled=False, checkpointing=checkpointing) as run:
        run.denoiser.load()
        parameters = sum(p.nbytes for p in run.adapter.parameters().values())
        with pack("dpo_core.training.live_bytes").LiveBytes() as memory:
            list(steps(run, pairs, 2, **given))
    return expected.total, int(memory.peak) + parameters


if __name__ == "__main__":
    main()
