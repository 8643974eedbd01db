"""Previews in a real host: shown while training, kept with the run, no part of the result."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import pytest
from hostkit.pair_folder import write_pairs
from hostkit.server import ComfyServer, RunResult
from hostkit.tiny_models import write_diffusion_model, write_vae
from hostkit.workflows import Prompt, node, preview, train_steps, trainer, training
from PIL import Image

PROMPTS = "a warm sky\n\na cold sea\n"
RUN = re.compile(r"run ([0-9a-f]{20})$")


@pytest.fixture(scope="module", autouse=True)
def folder(comfy_server: ComfyServer) -> None:
    write_pairs(comfy_server.base_dir / "input" / "previews", 4)


def flux(server: ComfyServer) -> Prompt:
    """Training of a model that embeds guidance, with a VAE and a text encoder of its own."""
    models = server.base_dir / "models"
    for name in ("diffusion_models", "vae"):
        (models / name).mkdir(parents=True, exist_ok=True)
    model = write_diffusion_model(models / "diffusion_models", "flux_guidance")
    vae = write_vae(models / "vae", channels=16)
    latents = {"batch": 2, "channels": 16, "height": 8, "width": 8}
    return {
        "model": node("UNETLoader", unet_name=model.name, weight_dtype="default"),
        "vae": node("VAELoader", vae_name=vae.name),
        "clip": node("TestTextEncoder", width=64, pooled=48),
        "chosen": node("TestRandomLatents", **latents, seed=1),
        "rejected": node("TestRandomLatents", **latents, seed=2),
        "text": node("CLIPTextEncode", text="a warm sky", clip=["clip", 0]),
        "dataset": node(
            "DPODatasetFromLatents", chosen=["chosen", 0], rejected=["rejected", 0],
            positive=["text", 0],
        ),
        "trainer": trainer(model=["model", 0], learning_rate=0.01),
        "steps": train_steps("trainer", 3),
        "preview": preview(PROMPTS, clip=["clip", 0], vae=["vae", 0], cfg=1.0, every=2),
    }


def sd15(checkpoint: Path) -> Prompt:
    prompt = training(checkpoint.name, "previews", 3, learning_rate=0.01, seed=71)
    return prompt | {"preview": preview(PROMPTS, every=2)}


def run_of(server: ComfyServer, result: RunResult) -> Path:
    assert (result.status, result.error) == ("success", "")
    (said,) = result.outputs["trainer"]["text"]
    match = RUN.search(said)
    assert match is not None, said
    return server.base_dir / "output" / "dpo" / "runs" / match[1]


def results(run: Path) -> dict[str, bytes]:
    """What training leaves, byte for byte, besides pictures and the times of day."""
    return {
        path.name: path.read_bytes()
        for path in run.iterdir()
        if path.suffix in (".safetensors", ".jsonl") or path.name == "settings.json"
    }


@pytest.mark.parametrize("kind", ["sd15", "flux"])
def test_they_are_shown_and_kept_and_the_training_is_the_same_without(
    comfy_server: ComfyServer, sd15_checkpoint: Path, kind: str
) -> None:
    prompt = sd15(sd15_checkpoint) if kind == "sd15" else flux(comfy_server)
    without = comfy_server.queue(prompt)
    run = run_of(comfy_server, without)
    assert "images" not in without.outputs["steps"] and not (run / "previews").exists()
    trained = results(run)
    shutil.rmtree(run)
    comfy_server.free()

    prompt["trainer"]["inputs"]["preview"] = ["preview", 0]
    start = len(comfy_server.log())
    sent = comfy_server.pictures_sent()
    result = comfy_server.queue(prompt)
    log = comfy_server.log()[start:]
    assert run_of(comfy_server, result) == run
    assert results(run) == trained

    index = json.loads((run / "previews" / "index.json").read_text())
    assert [column["step"] for column in index["columns"]] == [None, 2, 3]
    assert index["prompts"] == ["a warm sky", "a cold sea"]
    files = [name for column in index["columns"] for name in column["files"]]
    pictures = [(run / "previews" / name).read_bytes() for name in files]
    assert len(set(pictures)) == 6  # each prompt, each moment another
    # Live it has been shown already: pages keep the last live picture beside a node's images.
    assert "images" not in result.outputs["steps"]

    lines = comfy_server.texts("steps")
    assert "preview of the base: picture 2 of 2" in lines
    assert re.search(r"preview of step 2: 2 pictures in [\d.]+ s; previews have taken \d+%", log)
    assert "Traceback" not in log
    assert comfy_server.pictures_sent() >= sent + 3  # a strip each time, and pictures as they form

    # Asked for once more, nothing is sampled, and the filmstrip is shown again.
    comfy_server.free()
    again = comfy_server.queue(prompt)
    (image,) = again.outputs["steps"]["images"]
    assert image["subfolder"] == f"dpo/runs/{run.name}/previews"
    with Image.open(io.BytesIO(comfy_server.image(image))) as strip:
        assert strip.size[0] > 3 * 200
    assert "The run is found in" in again.outputs["steps"]["text"][0]


def test_a_preview_without_a_prompt_is_refused(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = sd15(sd15_checkpoint)
    prompt["preview"]["inputs"]["prompts"] = " \n"
    prompt["trainer"]["inputs"]["preview"] = ["preview", 0]
    result = comfy_server.queue(prompt)
    assert result.status == "error"
    assert result.error.strip() == (
        "These previews cannot be made:\n- There is no prompt: write at least one line."
    )
