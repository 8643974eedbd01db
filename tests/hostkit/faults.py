"""Trainings that use everything a state can hold, and ways to disturb them at any point."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from functools import reduce
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch

from hostkit.tiny_models import tiny_patcher
from hostkit.training import pack_module, random_pairs, train_settings

KIND = "sd3"
PLACES = {
    "loading": ("nodes.host.injection", "TrainedModel._inject"),
    "reference": ("dpo_core.training.four_passes", "_computed_reference"),
    "policy": ("dpo_core.training.four_passes", "_score"),
    "backward": ("dpo_core.training.four_passes", "_backward"),
    "reserve": ("dpo_core.training.optimizer", "AdapterOptimizer.reserve"),
    "optimizer": ("torch.optim.adamw", "AdamW.step"),
    "average": ("dpo_core.training.ema", "AdapterAverage.update"),
    "validation": ("dpo_core.evaluation.validation", "Validation.measure"),
    "metrics": ("dpo_core.saving.metrics_log", "MetricsLog.append"),
    "snapshot": ("dpo_core.training.adapter", "Adapter.snapshot"),
    "writing": ("dpo_core.saving.tensor_file", "_Writer.write"),
    "renaming": ("dpo_core.saving.atomic", "sync_file"),
    "removing": ("dpo_core.saving.run_folder", "RunFolder.remove_checkpoint"),
    "lora": ("dpo_core.saving.lora_file", "write_tensors"),
    "end": ("nodes.host.training", "save_end"),
    "reference errors": ("dpo_core.saving.run_folder", "RunFolder.save_reference_errors"),
}
"""What can be disturbed: module and function, of the pack unless it is torch's."""


@contextmanager
def at(place: str, number: int, action: Callable[[], object], last: int = 0) -> Iterator[list[int]]:
    """`action` is called before the `number`th call of a place, and those up to the `last`.

    Yields a list that holds how often the place was called. Calls do not count that are made to
    find out beforehand what a step will need.
    """
    module, name = PLACES[place]
    owner: Any = pack_module(module) if not module.startswith("torch") else _torch(module)
    *classes, name = name.split(".")
    owner = reduce(getattr, classes, owner)
    real = getattr(owner, name)
    calls, beforehand = [0], [False]
    counting = pack_module("nodes.host.step_memory")
    count = counting._count

    def undisturbed(*args: Any) -> Any:
        beforehand[0] = True
        try:
            return count(*args)
        finally:
            beforehand[0] = False

    def disturbed(*args: Any, **options: Any) -> Any:
        if beforehand[0]:
            return real(*args, **options)
        calls[0] += 1
        if number <= calls[0] <= max(number, last):
            action()
        return real(*args, **options)

    setattr(owner, name, disturbed)
    counting._count = undisturbed
    try:
        yield calls
    finally:
        counting._count = count
        setattr(owner, name, real)


def _torch(module: str) -> Any:
    import importlib

    return importlib.import_module(module)


def stop() -> None:
    """What the Stop button does."""
    comfy.model_management.interrupt_current_processing()


@contextmanager
def frequent_checkpoints(every: int = 2) -> Iterator[None]:
    """One after `every` steps, however long it takes to write."""
    training, autosave = pack_module("nodes.host.training"), pack_module("dpo_core.saving.autosave")
    before = training.AUTOSAVE_EVERY, autosave.TIME_SHARE
    training.AUTOSAVE_EVERY, autosave.TIME_SHARE = every, 1e9
    try:
        yield
    finally:
        training.AUTOSAVE_EVERY, autosave.TIME_SHARE = before


@contextmanager
def output(folder: Path) -> Iterator[Path]:
    """The host's output folder for the time being."""
    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(folder))
    try:
        yield folder
    finally:
        folder_paths.set_output_directory(before)


def everything(**changed: Any) -> Any:
    """Settings under which a state holds all it can."""
    optimizer = pack_module("dpo_core.training.optimizer").OptimizerSettings(
        1e-3, schedule="cosine", warmup_steps=1, total_steps=12, ema=0.9
    )
    objective = pack_module("dpo_core.training.objectives").Objective(
        beta=200.0, adaptive_beta="target"
    )
    validation = pack_module("dpo_core.evaluation.validation").ValidationSettings(
        every=3, patience=9, save_best=True
    )
    noise = pack_module("dpo_core.training.noise").NoiseSettings(cached_draws=2)
    options = {
        "optimizer": optimizer, "objective": objective, "validation": validation, "noise": noise,
        "grad_accumulation_steps": 1,
    }  # fmt: skip
    return train_settings(**options | changed)


def trainer_of(
    patcher: Any = None, checkpointing: bool = False, policy: str = "stop", count: int = 3,
    lineage: tuple[str, ...] = (), **changed: Any,
) -> Any:
    """A trainer with :func:`everything`, on so many pairs, as DPOTrainer makes it."""
    patcher = patcher or tiny_patcher(KIND)
    # Its file has been written for this program: to others it is the same one all the same.
    os.utime(patcher.cached_patcher_init[1][0], (10**9, 10**9))
    adapter = pack_module("dpo_core.training.adapter").AdapterSettings(2, 2.0)
    encoded = pack_module("dpo_core.training.dataset").EncodedPairs
    with torch.inference_mode(False):
        pairs = random_pairs(KIND, count + 2).pairs
        return pack_module("nodes.host.trainer").build_trainer(
            patcher, encoded(pairs[2:], lineage=lineage), everything(**changed), adapter,
            checkpointing, pack_module("nodes.host.lineage").Origin(), encoded(pairs[:2]),
            when_out_of_memory=policy,
        )


class Heard:
    """A Progress that also keeps what it is told, in order."""

    def __new__(cls, total: int) -> Any:
        progress = pack_module("nodes.host.progress").Progress

        class Kept(progress):  # type: ignore[misc,valid-type]
            def __init__(self) -> None:
                super().__init__(total, None)
                self.lines: list[str] = []
                self.toasts: list[str] = []

            def say(self, text: str, log: bool = False) -> None:
                self.lines.append(text)
                super().say(text, log)

            def warn(self, text: str, serious: bool) -> None:
                self.toasts.append(text)
                super().warn(text, serious)

        return Kept()


def train(trainer: Any, steps: int, progress: Any = None) -> Any:
    """Steps as DPOTrainSteps does them: under inference mode, as nodes are run."""
    with torch.inference_mode():
        return pack_module("nodes.host.training").train_steps(
            trainer, steps, progress or Heard(steps)
        )


def differences(one: Any, other: Any) -> list[str]:
    """What of two results of training is not the same bit for bit."""
    first, second = one.trainer.state(), other.trainer.state()
    found = [
        field.name for field in fields(first)
        if not same(getattr(first, field.name), getattr(second, field.name))
    ]
    found += [] if same(one.lora, other.lora) else ["lora"]
    for row, twin in zip(one.rows, other.rows, strict=True):
        # Where the reference's error was remembered, how far predictions moved is not known.
        names = (row.keys() & twin.keys()) | {"step", "loss/dpo"} & (row.keys() | twin.keys())
        found += [f"{name} of {row['step']}" for name in names if row[name] != twin[name]]
        found += [
            f"{name} of {row['step']}" for name in row.keys() ^ twin.keys() if "val" in name
        ]
    return found


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return bool(one == other)


def halves(folder: Path) -> list[Path]:
    """Files under their final names that are not whole."""
    read = pack_module("dpo_core.saving.tensor_file").read_tensors
    found = []
    for path in folder.rglob("*.safetensors"):
        try:
            read(path)
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError:
            found.append(path)
    return found


def train_in_child(folder: str, steps: int, place: str, number: int, stopped_at: int) -> None:
    """For another process: trains, and stands still for ever before a call of a place.

    It makes a file `waiting` when it does.
    """

    def wait() -> None:
        (Path(folder) / "waiting").touch()
        time.sleep(600)

    with ExitStack() as entered:
        entered.enter_context(output(Path(folder)))
        entered.enter_context(frequent_checkpoints())
        entered.enter_context(at(place, number, wait))
        if stopped_at:
            entered.enter_context(at("metrics", stopped_at, stop))
        train(trainer_of(), steps)
