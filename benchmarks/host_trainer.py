"""An image's share of a step here, and in the LoRA trainer that ComfyUI brings along.

The host's trainer learns from single images, by one forward and backward pass each. A step here
learns from pairs, and asks the reference about both images besides.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy_extras.nodes_train
import torch
from hostkit.tiny_models import tiny_patcher

from .model import RANK, opened, random_pairs
from .table import Table

KIND, SIZE, PAIRS = "sd15", 16, 4
BATCHES = (1, 4)


def tables(rounds: int = 4) -> list[Table]:
    table = Table("host_trainer", (
        "batch", "its trainer, s per image", "here, s per image", "its time over ours, per image",
    ))
    for batch in BATCHES:
        theirs: list[float] = []
        ours: list[float] = []
        for _ in range(rounds):
            theirs.append(_theirs(batch))
            ours.append(_ours(batch))
        ratios = sorted(their / our for their, our in zip(theirs, ours, strict=True))
        table.add(
            batch, f"{statistics.median(theirs):.3f}", f"{statistics.median(ours):.3f}",
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        )
    return [table]


def _ours(batch: int) -> float:
    """Seconds per image of a step of so many pairs."""
    with opened(KIND) as run:
        step = run.step(
            random_pairs(KIND, PAIRS, SIZE), batch_size=batch, execution_mode="full_concurrent"
        )
        step()
        began = time.perf_counter()
        step()
        return (time.perf_counter() - began) / (2 * batch)


def _theirs(batch: int) -> float:
    """Seconds per image of one of its steps of so many images."""
    pairs = random_pairs(KIND, PAIRS, SIZE)
    latents = torch.stack([latent for pair in pairs for latent in pair.latents])
    prompts = [[pair.conditioning] for pair in pairs for _ in pair.latents]
    settings = {
        "model": tiny_patcher(KIND), "batch_size": batch, "grad_accumulation_steps": 1,
        "steps": 2, "learning_rate": 1e-6, "rank": RANK, "optimizer": "AdamW",
        "loss_function": "MSE", "seed": 0, "training_dtype": "fp32", "lora_dtype": "fp32",
        "quantized_backward": False, "algorithm": "LoRA", "gradient_checkpointing": False,
        "checkpoint_depth": 1, "offloading": False, "existing_lora": "[None]",
        "bucket_mode": False, "bypass_mode": False,
    }
    lists = {name: [value] for name, value in settings.items()}
    with _stamped() as ends, torch.inference_mode():
        comfy_extras.nodes_train.TrainLoraNode.execute(
            latents=[{"samples": latents}], positive=prompts, **lists
        )
    return (ends[-1] - ends[-2]) / batch


@contextmanager
def _stamped() -> Iterator[list[float]]:
    """When each of its steps ended: it then tells its progress bar."""
    ends: list[float] = []
    real = comfy_extras.nodes_train.ProgressBar

    class Stamps:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def update(self, *_: Any) -> None:
            ends.append(time.perf_counter())

    comfy_extras.nodes_train.ProgressBar = Stamps
    try:
        yield ends
    finally:
        comfy_extras.nodes_train.ProgressBar = real
