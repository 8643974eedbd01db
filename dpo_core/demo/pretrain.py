"""Makes the demo's base model.

``python -m dpo_core.demo.pretrain --seed 0 --out weights.safetensors``

Draws pictures, trains ``FlowNetwork`` on them by flow matching and writes the averaged weights in
float16, every 200 updates and at the end. On a CPU the result is a function of the settings, the
torch build and the thread count.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from .muon import Muon
from .network import WEIGHTS, FlowNetwork, describe, prepare
from .pictures import ATTRIBUTES, UNNAMED, draw, encode, mirrored, prompt, sample_scene


@dataclass(frozen=True)
class PretrainSettings:
    """How the base model is trained."""

    seed: int = 0
    """Seed of pictures, initial weights and training noise."""
    steps: int = 2400
    """Optimiser updates."""
    batch_size: int = 32
    """Pictures per update."""
    pictures: int = 12000
    """Pictures drawn before training; each is also seen mirrored."""
    learning_rate: float = 0.01
    """Peak rate of Muon, for the weight matrices: reached after ``warmup``, then down to zero
    along a cosine."""
    adam_rate: float = 2e-3
    """Peak rate of AdamW, for everything else."""
    warmup: int = 100
    """Updates until the peak rate."""
    average: float = 0.997
    """Decay of the moving average of the weights that is shipped."""
    unnamed: float = 0.2
    """Share of pictures whose prompt loses a random part of its attributes."""


@dataclass(frozen=True)
class PretrainReport:
    """One optimiser update."""

    step: int
    """Updates done, from 1."""
    loss: float
    """Mean squared velocity error of the update's batch."""


def draw_pictures(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Random scenes, each with its mirror image.

    Returns:
        (2 * count, 3, 64, 64) uint8 pictures, (2 * count, len(ATTRIBUTES)) int64 prompts.
    """
    rng = np.random.default_rng(seed)
    pictures: list[np.ndarray] = []
    words: list[tuple[int, ...]] = []
    for _ in range(count):
        scene = sample_scene(rng)
        picture = np.round(draw(scene, rng) * 255).astype(np.uint8).transpose(2, 0, 1)
        pictures += [picture, picture[:, :, ::-1]]
        words += [encode(prompt(scene)), encode(prompt(mirrored(scene)))]
    return torch.from_numpy(np.stack(pictures)), torch.tensor(words)


def pretrain(
    settings: PretrainSettings, average: FlowNetwork | None = None
) -> Iterator[PretrainReport]:
    """Train; one report per update.

    Args:
        average: receives the averaged weights after every update.
    """
    pictures, words = draw_pictures(settings.seed, settings.pictures)
    torch.manual_seed(settings.seed)
    model = prepare(FlowNetwork())
    average = average if average is not None else FlowNetwork()
    average.load_state_dict(model.state_dict())
    optimizers = _optimizers(model, settings)
    peaks = (settings.learning_rate, settings.adam_rate)
    for step in range(settings.steps):
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * _rate(step, settings)
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        rows = torch.randint(len(pictures), (settings.batch_size,), generator=generator)
        prompts = drop_words(words[rows], settings.unnamed, generator)
        clean = pictures[rows].float() / 127.5 - 1
        loss = flow_loss(model, clean, prompts, generator)
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        _follow(average, model, min(settings.average, (step + 1) / (step + 10)))
        yield PretrainReport(step + 1, loss.item())


def drop_words(words: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Unname attributes in about ``share`` of the rows, each row at a rate of its own.

    Args:
        words: (B, A) int64.

    Returns:
        (B, A) int64.
    """
    touched = torch.rand(len(words), 1, generator=generator) < share
    rate = torch.rand(len(words), 1, generator=generator)
    dropped = torch.rand(words.shape, generator=generator) < rate
    return words.masked_fill(touched & dropped, UNNAMED)


def flow_loss(
    model: torch.nn.Module, clean: Tensor, prompts: Tensor, generator: torch.Generator
) -> Tensor:
    """Mean squared velocity error at logit-normal sigmas (Esser et al. 2024, arXiv:2403.03206).

    Args:
        clean: (B, 3, 64, 64) in [-1, 1].
        prompts: (B, len(ATTRIBUTES)) int64.

    Returns:
        Scalar.
    """
    sigma = torch.randn(len(clean), generator=generator).sigmoid()
    noise = torch.randn(clean.shape, generator=generator)
    level = sigma[:, None, None, None]
    with torch.autocast("cpu", torch.bfloat16):
        velocity = model(torch.lerp(clean, noise, level), sigma, prompts)
    return (velocity.float() - (noise - clean)).square().mean()


def save_weights(model: FlowNetwork, path: Path, metadata: dict[str, str]) -> None:
    """Write the model in float16, whole or not at all."""
    tensors = {
        name: value.detach().to(torch.float16).contiguous()
        for name, value in model.state_dict().items()
    }
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, str(beside), metadata)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    settings, out = _arguments(argv)
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        print(f"Cannot write {out}: choose --out in a folder that exists.", file=sys.stderr)
        return 2
    print(f"Drawing {settings.pictures} pictures ...", file=sys.stderr, flush=True)
    average, losses, started = FlowNetwork(), [], time.monotonic()
    for report in pretrain(settings, average):
        losses.append(report.loss)
        done = report.step == settings.steps
        recent = sum(losses[-50:]) / len(losses[-50:])
        if report.step % 200 == 0 or done:
            save_weights(average, out, _metadata(settings, average, report.step, recent))
        if report.step % 50 == 0 or done:
            print(
                f"{report.step}/{settings.steps}  loss {recent:.4f}"
                f"  {time.monotonic() - started:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    print(out)
    return 0


def _arguments(argv: list[str] | None) -> tuple[PretrainSettings, Path]:
    parser = argparse.ArgumentParser(prog="python -m dpo_core.demo.pretrain", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(WEIGHTS), help="file to write")
    read: dict[str, Callable[[str], object]] = {"int": int, "float": float}
    for field in fields(PretrainSettings):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=read[str(field.type)], default=field.default)
    given = vars(parser.parse_args(argv))
    out = given.pop("out")
    return PretrainSettings(**given), out


def _metadata(
    settings: PretrainSettings, model: FlowNetwork, updates: int, loss: float
) -> dict[str, str]:
    flags = [
        f"--{field.name.replace('_', '-')} {getattr(settings, field.name)}"
        for field in fields(settings)
        if field.name == "seed" or getattr(settings, field.name) != field.default
    ]
    return {
        "command": " ".join(["python -m dpo_core.demo.pretrain", *flags]),
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "updates": str(updates),
        "loss": f"{loss:.5f}",
        "attributes": ", ".join(ATTRIBUTES),
        **{name: str(value) for name, value in asdict(settings).items()},
        **describe(model.settings),
    }


def _optimizers(
    model: FlowNetwork, settings: PretrainSettings
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the matrices between the first and the last layer, AdamW for all else."""
    ends = {id(p) for part in (model.words, model.enter, model.leave) for p in part.parameters()}
    ends.add(id(model.position))
    inner = [p for p in model.parameters() if p.ndim > 1 and id(p) not in ends]
    chosen = {id(p) for p in inner}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    adam = torch.optim.AdamW(rest, settings.adam_rate, betas=(0.9, 0.99), weight_decay=0.0)
    return Muon(inner, settings.learning_rate), adam


def _rate(step: int, settings: PretrainSettings) -> float:
    """Share of the peak learning rate at an update: a linear warm-up, then half a cosine."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(settings.steps - settings.warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def _follow(average: FlowNetwork, model: FlowNetwork, decay: float) -> None:
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)


if __name__ == "__main__":
    raise SystemExit(main())
