"""Validation in a real host: what is held out, what is said, and which LoRA comes out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hostkit.pair_folder import write_pairs
from hostkit.server import ComfyServer, RunResult
from hostkit.workflows import Prompt, node, training
from safetensors.torch import load_file

RUN = re.compile(r"pairs?, run ([0-9a-f]{20})")


@pytest.fixture(scope="module", autouse=True)
def folder(comfy_server: ComfyServer) -> None:
    write_pairs(comfy_server.base_dir / "input" / "validated", 6, first=400)


def prompt(checkpoint: str, steps: int, trainer: dict[str, Any], **settings: Any) -> Prompt:
    made = training(checkpoint, "validated", steps, validation=["validation", 0], **trainer)
    inputs: dict[str, Any] = {
        "percent": 30, "split_seed": 0, "every": 2, "at_start": True, "patience": 0,
        "patience_mode": "either", "save_best": False,
    }  # fmt: skip
    made["validation"] = node("DPOValidation", **(inputs | settings))
    made["save"] = node("SaveLoRA", lora=["steps", 1], prefix="loras/validated/lora")
    made["count"] = node("PreviewAny", source=["steps", 3])
    return made


def run_folder(server: ComfyServer, result: RunResult) -> Path:
    match = RUN.search(result.outputs["trainer"]["text"][0])
    assert match is not None, result.outputs["trainer"]
    return server.base_dir / "output" / "dpo" / "runs" / match[1]


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_held_out_pairs_are_measured_and_the_best_lora_comes_out(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    asked = prompt(sd15_checkpoint.name, 6, {"seed": 3}, save_best=True)
    result = comfy_server.queue(asked)
    assert result.error == ""
    run = run_folder(comfy_server, result)
    measured = {int(row["step"]): row for row in rows(run) if "dpo/val_loss" in row}
    assert sorted(measured) == [0, 2, 4, 6]
    assert measured[0]["dpo/val_accuracy"] == 0.5
    assert measured[0]["dpo/val_loss"] == pytest.approx(0.6931472, abs=1e-5)
    assert measured[0]["val/prediction_change"] < 1e-8 < measured[6]["val/prediction_change"]
    said = result.outputs["trainer"]["text"][0]
    count = int(re.search(r"validation on (\d) pair", said)[1])  # type: ignore[index]
    assert said.startswith(f"{6 - count} pairs, run ") and 1 <= count <= 5

    best = max(measured, key=lambda s: (measured[s]["dpo/val_accuracy"],
                                        -measured[s]["dpo/val_loss"], -s))
    checkpoint = load_file(run / "step_00000006.safetensors")
    saved = load_file(
        max((comfy_server.base_dir / "output/loras/validated").glob("lora_*.safetensors"))
    )
    name = next(one for one in saved if one.endswith(".lora_B.weight"))
    assert torch.equal(saved[name], checkpoint[f"best/{name}"])
    assert f"In validation at step {best} " in result.outputs["steps"]["text"][0]
    assert result.outputs["count"]["text"] == ["6"]


def test_it_stops_early_says_so_and_is_found_again(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    # A rate that moves nothing: every validation is equal to the one before.
    asked = prompt(
        sd15_checkpoint.name, 40, {"seed": 4, "learning_rate": 1e-8, "alpha": 0.01}, patience=2
    )
    result = comfy_server.queue(asked)
    assert result.error == ""
    (line,) = result.outputs["steps"]["text"]
    assert "Training stopped early: 2 validations without progress" in line
    reached = int(result.outputs["count"]["text"][0])
    assert 4 <= reached < 40 and reached % 2 == 0
    comfy_server.free()
    again = comfy_server.queue(asked)
    assert again.outputs["count"]["text"] == [str(reached)]
    assert "found in" in again.outputs["steps"]["text"][0]


def test_what_is_wrong_with_the_validation_is_said(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    asked = prompt(sd15_checkpoint.name, 2, {}, percent=80, every=1)
    asked["pairs"]["inputs"]["folder"] = "one_prompt"
    write_pairs(comfy_server.base_dir / "input" / "one_prompt", 3, first=500)
    for caption in (comfy_server.base_dir / "input" / "one_prompt").rglob("*.txt"):
        caption.write_text("the same for all")
    result = comfy_server.queue(asked)
    assert result.error == ""
    assert "trained on too" in result.outputs["trainer"]["text"][0]


def test_validation_that_comes_late_says_what_was_trained_on_before(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    asked = training(sd15_checkpoint.name, "validated", 1, seed=6)
    late = prompt(sd15_checkpoint.name, 1, {"seed": 6})
    before = {"first": asked["trainer"], "first_steps": asked["steps"]}
    before["first_steps"]["inputs"]["trainer"] = ["first", 0]
    late["trainer"]["inputs"]["continue_from"] = ["first_steps", 0]
    result = comfy_server.queue(late | before)
    assert result.error == ""
    said = result.outputs["trainer"]["text"][0]
    held_out = re.search(r"validation on (\d) pair", said)
    assert held_out is not None and f"{held_out[1]} of them have been trained on" in said
