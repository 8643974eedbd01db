"""Memory of a training, counted exactly: against an ordinary LoRA step, and against the estimate.

    COMFYUI_PATH=... python benchmarks/memory.py [--full-size] [--size 24] [--families ...]

An ordinary LoRA step is one forward and backward pass of one image through the same model, with
the same adapter, the same frozen layers and the same checkpointing. Bytes are those of tensors
made in the step and alive at its peak, on a CPU in fp32: they depend on no allocator, no machine
and no chance. The models are the small ones of the tests, with images large enough that
activations outweigh everything else.
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
    name = checkout.load_pack().__name__

    def pack(module: str) -> Any:
        return importlib.import_module(f"{name}.{module}")

    if options.full_size:
        full_size(pack)
        return
    print("A step's peak over that of an ordinary LoRA step\n")
    columns = ["sequential", "cached", "safeguard", "nft_pair", "policy_c.", "full_c."]
    print(f"{'':12} {'checkpointing':14}" + "".join(f"{one:>12}" for one in columns))
    for kind in options.families:
        size = min(options.size, SIZES.get(kind, options.size))
        for checkpointing in (True, False):
            ratios = step_ratios(kind, size, checkpointing, pack)
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


def peak(action: Callable[[], object], pack: Callable[[str], Any]) -> int:
    action()
    with pack("dpo_core.training.live_bytes").LiveBytes() as memory:
        action()
    return int(memory.peak)


def step_ratios(
    kind: str, size: int, checkpointing: bool, pack: Callable[[str], Any]
) -> list[float]:
    """Of sequential plain, with its reference cached, with a safeguard, as NFT; of the others."""
    from hostkit.tiny_models import tiny_patcher
    from hostkit.training import random_pairs, training

    passes, noise = pack("dpo_core.training.four_passes"), pack("dpo_core.training.noise")
    objective = pack("dpo_core.training.objectives").Objective
    batches, plan = pack("dpo_core.training.batch"), pack("dpo_core.training.plan")
    cache = pack("dpo_core.training.reference_cache").ReferenceCache(1e-4)
    with training(tiny_patcher(kind), rank=4, checkpointing=checkpointing) as run:
        run.denoiser.load()
        pairs = random_pairs(kind, 1, size=size).pairs
        batch = batches.gather(
            pairs, plan.MicroBatch((0,), 0), run.denoiser, noise.NoiseSettings(), 0, True
        )
        for parameter in run.adapter.parameters().values():
            parameter.grad = torch.zeros_like(parameter)

        def ordinary() -> None:
            run.denoiser.predict(batch.images[0]).residual.square().mean().backward()

        def step(mode: str, known: Any = None, **how: Any) -> Callable[[], None]:
            def act() -> None:
                with run.adapter.micro_batch(0, 1, 0):
                    schedule = passes.SCHEDULES[mode]
                    schedule(
                        run.denoiser, run.adapter, batch, objective(**how), 1.0, cache=known
                    )

            return act

        steps = [
            step("sequential"), step("sequential", cache), step("sequential", safeguard=0.5),
            step("sequential", loss="nft_pair"), step("policy_concurrent"),
            step("full_concurrent"),
        ]
        base = peak(ordinary, pack)
        return [peak(one, pack) / base for one in steps]


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
