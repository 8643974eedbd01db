"""From a folder of 1,000 pairs to the first step, the first and the second time."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.sd
import numpy as np
import torch
from hostkit import faults
from hostkit.tiny_models import write_sd15_checkpoint
from PIL import Image

from .model import pack
from .table import Table

PAIRS, SIDE, PROMPTS = 1000, 128, 20


def tables() -> list[Table]:
    table = Table("start_up", ("what", "first time", "second time"))
    with tempfile.TemporaryDirectory() as name, faults.output(Path(name) / "output"):
        folder = Path(name)
        pictures = _write_pairs(folder / "output" / "pairs")
        checkpoint = str(write_sd15_checkpoint(folder))
        runs = [_run(checkpoint, folder / "output" / "pairs", seed) for seed in (0, 1)]
        bare = _bare(checkpoint, pictures)
    for what in runs[0]:
        table.add(what, *(f"{run[what]:.1f} s" for run in runs))
    encoding = "encode pairs"
    table.note(
        f"{PAIRS} pairs of pictures of {SIDE} x {SIDE} under {PROMPTS} prompts. The bare passes "
        f"of the VAE, one picture at a time, and of the text encoder take {bare:.1f} s; encoding "
        f"takes {runs[0][encoding] / bare:.2f} and {runs[1][encoding] / bare:.2f} times as long."
    )
    return [table]


def _write_pairs(folder: Path) -> list[Path]:
    """Plain pictures, no two alike, with captions."""
    found = []
    for number in range(PAIRS):
        for side, hue in (("chosen", 0), ("rejected", 2)):
            pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
            pixels[:, :, hue] = np.linspace(0, 255, SIDE)[:, None]
            pixels[:, :, 1] = number % 256
            pixels[number // 256 :: 7, :, 2 - hue] = 255
            path = folder / side / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            found.append(path)
        caption = folder / "chosen" / f"{number:04}.txt"
        caption.write_text(f"a plain picture, number {number % PROMPTS}")
    return found


def _run(checkpoint: str, folder: Path, seed: int) -> dict[str, float]:
    """Seconds of each node, by what it does, with everything loaded anew.

    Args:
        seed: of the training: the same one would be found again, and not be done.
    """
    seconds: dict[str, float] = {}

    def timed(what: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = work()
        seconds[what] = time.perf_counter() - began
        return result

    with torch.inference_mode():
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(checkpoint)
        load, encode = pack("nodes.pairs").LoadPairFolder, pack("nodes.dataset").EncodePairs
        pairs = timed("load the folder", lambda: _result(
            load, folder=str(folder), chosen_pattern="chosen/{}", rejected_pattern="rejected/{}",
            on_problem="error",
        ))
        dataset = timed(
            "encode pairs",
            lambda: _result(encode, pairs=pairs, vae=vae, clip=clip, megapixels=0.0, guidance=3.5),
        )
        timed("build the trainer, and one step", lambda: _one_step(model, dataset, seed))
    seconds["all of it"] = sum(seconds.values())
    return seconds


def _result(node: Any, **inputs: Any) -> Any:
    """A node's first output, run as the host runs it."""
    return node.PREPARE_CLASS_CLONE({"hidden_inputs": {}}).execute(**inputs).args[0]


def _one_step(model: Any, dataset: Any, seed: int) -> None:
    training, settings = pack("nodes.host.training"), pack("dpo_core.run").TrainSettings(seed=seed)
    adapter = pack("dpo_core.training.adapter").AdapterSettings()
    with torch.inference_mode(False):
        trainer = pack("nodes.host.trainer").build_trainer(
            model, dataset, settings, adapter, False, pack("nodes.host.lineage").Origin(),
            pack("dpo_core.training.dataset").EncodedPairs(()),
        )
    training.train_steps(trainer, 1, pack("nodes.host.progress").Progress(1, None))


def _bare(checkpoint: str, pictures: list[Path]) -> float:
    """Seconds of the passes alone, on what has been read and cut into tokens."""
    with torch.inference_mode():
        _, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(checkpoint)
        pixels = [
            torch.from_numpy(np.asarray(Image.open(path).convert("RGB"), np.float32) / 255)[None]
            for path in pictures
        ]
        tokens = [clip.tokenize(f"a plain picture, number {i}") for i in range(PROMPTS)]
        began = time.perf_counter()
        for one in pixels:
            vae.encode(one)
        for one in tokens:
            clip.encode_from_tokens_scheduled(one)
        return time.perf_counter() - began
