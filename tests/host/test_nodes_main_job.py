"""The main job in a real host: a pair folder becomes a LoRA, saved, loaded again and sampled."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hostkit.pair_folder import write_pairs
from hostkit.server import ComfyServer, RunResult
from hostkit.workflows import Prompt, node, sampled, train_steps, training
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

STEPS = 4


@dataclass(frozen=True)
class MainJob:
    """What the main workflow left behind, and what the log said meanwhile."""

    prompt: Prompt
    result: RunResult
    untouched: Tensor
    """Latents sampled from the user's model before anything was trained."""
    log: str
    folder: Path
    """The host's output folder."""
    again: RunResult
    """The same prompt queued once more."""

    def file(self, name: str) -> Path:
        (found,) = (self.folder / "loras").rglob(f"{name}*.safetensors")
        return found


def latents(server: ComfyServer, result: RunResult, prefix: str) -> Tensor:
    (record,) = result.outputs[f"{prefix}_save"]["latents"]
    path = server.base_dir / "output" / record["subfolder"] / record["filename"]
    return load_file(path)["latent_tensor"]


def _main_prompt(checkpoint: str) -> Prompt:
    prompt = training(checkpoint, "main", STEPS, learning_rate=0.01)
    prompt["steps"] = train_steps("trainer", STEPS, min_pairs=4)
    prompt["save"] = node(
        "DPOSaveLoRA",
        lora=["steps", 1],
        filename_prefix="loras/taste/mine",
        trainer=["steps", 0],
    )
    prompt["with_lora"] = node(
        "LoraModelLoader",
        model=["checkpoint", 0],
        lora=["steps", 1],
        strength_model=1.0,
        bypass=False,
    )
    prompt["core_save"] = node(
        "SaveLoRA", lora=["steps", 1], prefix="loras/core", steps=["steps", 3]
    )
    prompt["core_graph"] = node("LossGraphNode", loss=["steps", 2], filename_prefix="loss")
    prompt["chart"] = node("SaveImage", images=["steps", 4], filename_prefix="chart")
    prompt["where"] = node("PreviewAny", source=["save", 0])
    return prompt | sampled(["with_lora", 0], "live")


@pytest.fixture(scope="module")
def job(comfy_server: ComfyServer, sd15_checkpoint: Path) -> MainJob:
    write_pairs(comfy_server.base_dir / "input" / "main", 4)
    prompt = _main_prompt(sd15_checkpoint.name)
    load = {"checkpoint": prompt["checkpoint"]}
    before = comfy_server.queue(load | sampled(["checkpoint", 0], "before"))
    untouched = latents(comfy_server, before, "before")
    start = len(comfy_server.log())
    result = comfy_server.queue(prompt)
    log = comfy_server.log()[start:]
    # At once: the host drops what the prompts in between do not use.
    again = comfy_server.queue(prompt)
    return MainJob(prompt, result, untouched, log, comfy_server.base_dir / "output", again)


def test_it_runs_and_no_lora_key_is_left_over(job: MainJob) -> None:
    assert (job.result.status, job.result.error) == ("success", "")
    assert "lora key not loaded" not in job.log and "Traceback" not in job.log


def test_the_saved_file_is_where_the_node_says_and_was_checked(job: MainJob) -> None:
    path = job.file("mine")
    assert path.relative_to(job.folder) == Path("loras/taste/mine_00001_.safetensors")
    (said,) = job.result.outputs["save"]["text"]
    assert said.startswith("Saved output/loras/taste/mine_00001_.safetensors. ")
    assert "all used by ComfyUI's loader" in said
    assert job.result.outputs["where"]["text"] == [str(path)]
    # Nothing half-written lies beside it.
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_metadata_is_what_other_tools_read_and_holds_our_settings(
    job: MainJob, comfy_server: ComfyServer
) -> None:
    with safe_open(job.file("mine"), framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    assert metadata["modelspec.sai_model_spec"] == "1.0.0"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert metadata["modelspec.title"] == "mine_00001_"
    assert re.fullmatch(r"0x[0-9a-f]{64}", metadata["modelspec.hash_sha256"])
    assert metadata["ss_network_module"] == "networks.lora"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("2", "2.0")
    assert metadata["ss_steps"] == str(STEPS)
    settings = json.loads(metadata["dpo.settings"])
    assert settings["optimizer"]["learning_rate"] == 0.01
    assert settings["execution_mode"] == "sequential"
    assert settings["objective"]["beta"] == 5000.0
    metrics = json.loads(metadata["dpo.metrics"])
    assert metrics["step"] == STEPS and 0 <= metrics["dpo/accuracy"] <= 1
    ranks = {t.shape[0] for name, t in tensors.items() if name.endswith("lora_A.weight")}
    assert ranks == {2}
    # What a model manager reads through the host itself.
    shown = comfy_server.get("/view_metadata/loras?filename=taste/mine_00001_.safetensors")
    assert shown.json()["ss_steps"] == str(STEPS)


def test_core_saves_the_same_weights_and_plots_the_loss(job: MainJob) -> None:
    ours = load_file(job.file("mine"))
    cores = load_file(job.file(f"core_{STEPS}_steps"))
    assert ours.keys() == cores.keys()
    assert all(torch.equal(ours[name], cores[name]) for name in ours)
    assert len(job.result.outputs["core_graph"]["images"]) == 1


def test_the_chart_is_a_picture_with_curves(job: MainJob, comfy_server: ComfyServer) -> None:
    (record,) = job.result.outputs["chart"]["images"]
    chart = Image.open(io.BytesIO(comfy_server.image(record)))
    colours = chart.getcolors(chart.width * chart.height)
    assert colours is not None and len(colours) > 8


def test_the_run_folder_holds_settings_a_line_per_step_and_the_checkpoint(job: MainJob) -> None:
    (said,) = job.result.outputs["trainer"]["text"]
    match = re.fullmatch(r"4 pairs, run ([0-9a-f]+)", said)
    assert match is not None
    run = job.folder / "dpo" / "runs" / match[1]
    names = {entry.name for entry in run.iterdir()}
    assert names == {
        "settings.json", "metrics.jsonl", f"step_{STEPS:08d}.safetensors", "run.json",
        "model_card.md", "lock",
    }  # fmt: skip
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    # At the first step model and reference agree: ln 2, no margin, and every pair a tie.
    assert rows[0]["dpo/raw_loss"] == pytest.approx(0.693147, abs=1e-4)
    assert (rows[0]["dpo/reward_margin"], rows[0]["dpo/accuracy"]) == (0, 0.5)


def test_progress_has_a_bar_and_a_line_with_loss_accuracy_and_margin(
    job: MainJob, comfy_server: ComfyServer
) -> None:
    bar = [
        (event["data"]["value"], event["data"]["max"])
        for event in job.result.events
        if event["type"] == "progress" and event["data"]["node"] == "steps"
    ]
    assert bar[-1] == (STEPS, STEPS)
    lines = comfy_server.texts("steps")
    pattern = rf"{STEPS}/{STEPS}  loss \d\.\d{{4}}  accuracy [01]\.\d\d  margin -?\d\.\d\de[+-]\d\d"
    assert any(re.fullmatch(pattern, line) for line in lines)
    (summary,) = job.result.outputs["steps"]["text"]
    assert summary.startswith("4 steps. Over the last 4: loss 0.") and summary in job.log


def test_the_file_samples_as_the_live_lora_does_and_otherwise_than_the_bare_model(
    job: MainJob, comfy_server: ComfyServer
) -> None:
    name = "taste/mine_00001_.safetensors"
    info = comfy_server.object_info("DPOLoadLoRA")["input"]["required"]["lora_name"]
    assert name in info[1]["options"]
    prompt: dict[str, Any] = {
        "checkpoint": job.prompt["checkpoint"],
        "loader": node(
            "LoraLoader",
            model=["checkpoint", 0],
            clip=["checkpoint", 1],
            lora_name=name,
            strength_model=1.0,
            strength_clip=1.0,
        ),
        **sampled(["loader", 0], "file"),
        "read": node("DPOLoadLoRA", lora_name=name),
        "again": node("SaveLoRA", lora=["read", 0], prefix="loras/again"),
    }
    start = len(comfy_server.log())
    result = comfy_server.queue(prompt)
    assert result.status == "success"
    assert "lora key not loaded" not in comfy_server.log()[start:]
    live = latents(comfy_server, job.result, "live")
    assert torch.equal(latents(comfy_server, result, "file"), live)
    assert (live - job.untouched).abs().max() > 1e-3
    read = load_file(job.file("again"))
    saved = load_file(job.file("mine"))
    assert all(torch.equal(read[key], saved[key]) for key in read.keys() | saved.keys())


def test_the_users_model_samples_as_before_bit_for_bit(
    job: MainJob, comfy_server: ComfyServer
) -> None:
    load = {"checkpoint": job.prompt["checkpoint"]}
    result = comfy_server.queue(load | sampled(["checkpoint", 0], "after", detour=1))
    # The very model that was trained on, not a freshly loaded one.
    assert "checkpoint" not in result.executed and "after_sampler" in result.executed
    assert torch.equal(latents(comfy_server, result, "after"), job.untouched)


def test_an_identical_prompt_is_taken_from_the_cache(job: MainJob) -> None:
    assert (job.again.status, job.again.executed) == ("success", [])
