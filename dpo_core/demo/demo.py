"""The demo: a taste is learned by the embedded model, from picks to before and after."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..evaluation.chart import draw_chart
from ..run import TrainSettings, train
from ..saving.atomic import write_atomically
from ..saving.lora_file import lora_metadata, lora_tensors, save_lora
from ..saving.run_folder import RunFolder
from ..training.adapter import Adapter, AdapterSettings
from ..training.dataset import EncodedPairs, tensor_digest
from ..training.objectives import Objective
from ..training.optimizer import OptimizerSettings
from .denoiser import DemoDenoiser, attached, build_adapter
from .judgement import Judgement, judge
from .network import FlowNetwork, load_base
from .picks import drawn, picked_pairs, questions
from .report import write_report
from .sheet import contact_sheet
from .taste import Taste

CHECKPOINT_EVERY = 10
SHOWN = 24

Progress = Callable[[str, int, int], None]
"""Told the name of a stage, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class DemoSettings:
    """Size of the demo."""

    pairs: int = 48
    """Pairs the taste picks for training."""
    steps: int = 60
    """Optimiser steps."""
    judged: int = 64
    """Held-out pictures by which base and LoRA are compared."""
    seed: int = 0
    """Decides everything that is drawn."""


@dataclass(frozen=True)
class Outcome:
    """What the demo found, and where it lies."""

    folder: Path
    result: dict[str, Any]


def run_demo(taste: Taste, out: Path, settings: DemoSettings, progress: Progress) -> Outcome:
    """Learns ``taste`` and leaves everything in one folder below ``out``.

    A finished demo is found again; one that was interrupted goes on from its last checkpoint.

    Raises:
        OSError: ``out`` cannot be written.
    """
    network = load_base()
    training = train_settings(settings.seed)
    shape = AdapterSettings(rank=8, alpha=8.0)
    base = base_digest(network)
    content = {
        "taste": taste.name,
        "base": base,
        "demo": asdict(settings),
        "training": asdict(training),
        "adapter": asdict(shape),
    }
    run = RunFolder(out, content, f"{taste.name}-")
    run.open()
    finished = run.path / "result.json"
    if finished.exists():
        return Outcome(run.path, json.loads(finished.read_text(encoding="utf-8")))
    asked = questions(settings.pairs, settings.seed, held_out=False)
    pictures = drawn(network, asked, lambda n: progress("drawing pictures", n, 2 * len(asked)))
    pairs = picked_pairs(asked, pictures, taste)
    adapter = build_adapter(network, shape, training.seed)
    train_until(network, adapter, pairs, training, run, settings.steps, progress)
    judgement = _judge(network, adapter, taste, settings, progress)
    result = _leave(run, adapter, taste, settings, training, shape, judgement)
    write_atomically(finished, lambda part: write_text(part, json.dumps(result, indent=2) + "\n"))
    return Outcome(run.path, result)


def base_digest(network: FlowNetwork) -> str:
    """Digest of the base model's weights."""
    return tensor_digest(*(p for _, p in sorted(network.named_parameters())))


def train_settings(seed: int, objective: Objective | None = None) -> TrainSettings:
    """How the embedded model is trained, in the demo as in the laboratory."""
    return TrainSettings(
        objective=objective or Objective(beta=1000.0),
        optimizer=OptimizerSettings(learning_rate=5e-4, warmup_steps=5),
        batch_size=8,
        grad_accumulation_steps=1,
        execution_mode="full_concurrent",
        seed=seed,
    )


def train_until(
    network: FlowNetwork,
    adapter: Adapter,
    pairs: EncodedPairs,
    training: TrainSettings,
    run: RunFolder,
    steps: int,
    progress: Progress,
    stopped: Callable[[], bool] = lambda: False,
) -> int:
    """Goes on from the run's last checkpoint, or begins, until it has made so many steps.

    Args:
        network: the base model, without the adapter.
        adapter: is trained in place.
        pairs: the picks; they may be others than before the checkpoint.
        training: how to train.
        run: gets metrics and checkpoints.
        steps: of the run in all.
        progress: told after every step.
        stopped: asked after every step; True ends the training, with a checkpoint.

    Returns:
        Steps made in all.
    """
    done = [step for step in run.checkpoints() if step <= steps]
    start = run.load_checkpoint(done[-1]) if done else None
    if start is not None:
        adapter.load(start.adapter)
    made = 0 if start is None else start.step
    denoiser = DemoDenoiser(network)
    with attached(network, adapter):
        for report in train(denoiser, adapter, pairs, training, steps - made, start):
            made = report.step
            run.append_metrics(made, report.metrics)
            ends = made == steps or stopped()
            if made % CHECKPOINT_EVERY == 0 or ends:
                run.save_checkpoint(report.state())
            progress("training", made, steps)
            if ends:
                break
    return made


def _judge(
    network: FlowNetwork,
    adapter: Adapter,
    taste: Taste,
    settings: DemoSettings,
    progress: Progress,
) -> Judgement:
    asked = questions(settings.judged, settings.seed, held_out=True)
    progress("comparing", 0, settings.judged)
    judgement = judge(
        network, adapter, taste, [q.prompt for q in asked], [q.seeds[0] for q in asked]
    )
    progress("comparing", settings.judged, settings.judged)
    return judgement


def _leave(
    run: RunFolder,
    adapter: Adapter,
    taste: Taste,
    settings: DemoSettings,
    training: TrainSettings,
    shape: AdapterSettings,
    judgement: Judgement,
) -> dict[str, Any]:
    """Writes pictures, curves, LoRA and report; gives what is to be printed."""
    rows = run.metrics(settings.steps)
    result = {
        "taste": taste.name,
        "wish": taste.wish,
        "win_rate": judgement.win_rate._asdict(),
        "reward": judgement.reward,
        "drift": judgement.drift,
        "pairs": settings.pairs,
        "steps": settings.steps,
    }
    sheet = contact_sheet(
        judgement.before[:SHOWN], judgement.after[:SHOWN], 8, ("base", "LoRA")
    )
    curves = draw_chart(rows, f"taste: {taste.name}")
    save_picture(run.path / "before_and_after.png", sheet)
    save_picture(run.path / "curves.png", curves)
    write_lora(
        run, adapter, shape, training, f"demo_{taste.name}", settings.pairs, settings.steps
    )
    write_report(run.path / "report.html", result, asdict(training), sheet, curves)
    return result


def write_lora(
    run: RunFolder,
    adapter: Adapter,
    shape: AdapterSettings,
    training: TrainSettings,
    title: str,
    pairs: int,
    steps: int,
) -> Path:
    """Writes ``lora.safetensors`` into the run's folder; its path."""
    path = run.path / "lora.safetensors"
    tensors = lora_tensors(adapter.snapshot(), adapter.alphas())
    metadata = lora_metadata(
        tensors, title=title, architecture="dpo-demo", rank=shape.rank, alpha=shape.alpha,
        settings=asdict(training), metrics=run.metrics(steps)[-1], steps=steps, pairs=pairs,
    )
    save_lora(path, tensors, metadata)
    return path


def save_picture(path: Path, picture: Image.Image) -> None:
    """Writes a PNG, atomically."""
    write_atomically(path, lambda part: picture.save(part, format="PNG"))


def write_text(path: Path, text: str) -> None:
    """For :func:`write_atomically`."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
