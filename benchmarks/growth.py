"""How a step's time and memory grow with batch, resolution, rank and the number of pairs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .measure import in_turn, megabytes, peak_bytes
from .model import Opened, opened, random_pairs
from .plot import Curve, Panel, draw
from .table import Table

KIND = "sd15"
BASE = {"batch": 1, "latent height and width": 16, "rank": 16, "pairs": 10}
SWEEPS = {
    "batch": (1, 2, 4, 8),
    "latent height and width": (8, 16, 32, 64),
    "rank": (4, 16, 64, 128),
    "pairs": (10, 100, 1000, 5000),
}
PROMPTS = 40
"""Prompts of all pairs together, at most."""
MODE = "full_concurrent"

_panels: list[Panel] = []


def tables(rounds: int = 3) -> list[Table]:
    table = Table("growth", ("what grows", "value", "step", "peak", "until the first step"))
    _panels.clear()
    for what, values in SWEEPS.items():
        seconds, bytes_ = [], []
        for value in values:
            found = _measured(BASE | {what: value}, rounds)
            seconds.append(found[0])
            bytes_.append(found[1] / 2**20)
            table.add(
                what, value, f"{found[0]:.3f} s", megabytes(found[1]), f"{found[2]:.2f} s"
            )
        _panels.append(Panel(
            what, tuple(map(float, values)),
            (Curve("seconds per step", tuple(seconds)), Curve("peak, MB", tuple(bytes_))),
        ))
    return [table]


def plot(path: Path) -> None:
    draw(_panels).save(path)


def _measured(at: dict[str, int], rounds: int) -> tuple[float, int, float]:
    """Seconds of a step, its peak of bytes, and seconds of what comes before the first."""
    size, batch = at["latent height and width"], at["batch"]
    pairs = -(-at["pairs"] // batch) * batch  # all batches are full
    dataset = random_pairs(KIND, pairs, size, min(PROMPTS, pairs))
    with opened(KIND, rank=at["rank"]) as run:
        step, before = _begun(run, dataset, batch)
        seconds = in_turn({"step": step}, rounds, warm_up=1)["step"]
        # The LoRA and what AdamW keeps of it are there before the step.
        kept = 3 * sum(p.nbytes for p in run.adapter.parameters().values())
        return seconds, kept + peak_bytes(step), before


def _begun(run: Opened, dataset: Any, batch: int) -> tuple[Callable[[], object], float]:
    """Steps, the first of them done, and the seconds that went by before its first pass."""
    passes: list[float] = []
    predict = run.denoiser.predict

    def stamped(rows: Any) -> Any:
        passes.append(time.perf_counter())
        return predict(rows)

    run.denoiser.predict = stamped
    began = time.perf_counter()
    step = run.step(dataset, batch_size=batch, execution_mode=MODE)
    step()
    del run.denoiser.predict
    return step, passes[0] - began
