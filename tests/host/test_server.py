"""A real ComfyUI runs workflows on the tiny checkpoint, and the kit reports what happened."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hostkit.server import ComfyServer, PromptRejected
from hostkit.workflows import node, text_to_image
from PIL import Image, ImageStat


def test_text_to_image_writes_an_image(comfy_server: ComfyServer, sd15_checkpoint: Path) -> None:
    result = comfy_server.queue(text_to_image(sd15_checkpoint.name, seed=1, batch=2))
    assert (result.status, result.error) == ("success", "")
    records = result.outputs["save"]["images"]
    assert len(records) == 2
    image = Image.open(io.BytesIO(comfy_server.image(records[0])))
    assert image.size == (64, 64)
    assert max(ImageStat.Stat(image).stddev) > 5
    saved = comfy_server.base_dir / "output" / records[0]["subfolder"] / records[0]["filename"]
    assert saved.is_file()


def test_progress_and_executed_nodes_arrive_in_order(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    result = comfy_server.queue(text_to_image(sd15_checkpoint.name, seed=2, steps=3))
    steps = [e["data"]["value"] for e in result.events if e["type"] == "progress"]
    # The host leaves out steps that follow each other too fast, never the last.
    assert steps[-1] == 3 and steps == sorted(steps)
    assert result.executed[-3:] == ["sampler", "decode", "save"]
    again = comfy_server.queue(text_to_image(sd15_checkpoint.name, seed=2, steps=3))
    assert again.executed == []


def test_saved_image_is_encoded_and_sampled_anew(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    picture = Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 20).convert("RGB")
    picture.save(comfy_server.base_dir / "input" / "picture.png")
    prompt = text_to_image(sd15_checkpoint.name, seed=3)
    prompt["load"] = node("LoadImage", image="picture.png")
    prompt["empty"] = node("VAEEncode", pixels=["load", 0], vae=["checkpoint", 2])
    prompt["sampler"]["inputs"]["denoise"] = 0.5
    assert comfy_server.queue(prompt).status == "success"


def test_interrupt_ends_a_run(comfy_server: ComfyServer, sd15_checkpoint: Path) -> None:
    prompt_id = comfy_server.submit(text_to_image(sd15_checkpoint.name, seed=4, steps=2000))
    comfy_server.wait_for_event("progress", prompt_id=prompt_id)
    comfy_server.interrupt()
    assert comfy_server.wait(prompt_id, timeout=30).status == "interrupted"


def test_a_failing_node_is_reported_with_its_message(comfy_server: ComfyServer) -> None:
    (comfy_server.base_dir / "input" / "broken.png").write_bytes(b"not a picture")
    prompt = {
        "load": node("LoadImage", image="broken.png"),
        "save": node("SaveImage", images=["load", 0], filename_prefix="tiny/broken"),
    }
    result = comfy_server.queue(prompt)
    assert result.status == "error"
    assert "cannot identify image file" in result.error


def test_a_prompt_with_a_missing_input_is_rejected(comfy_server: ComfyServer) -> None:
    with pytest.raises(PromptRejected) as rejection:
        comfy_server.queue({"save": node("SaveImage", filename_prefix="tiny/none")})
    assert "save" in rejection.value.reply["node_errors"]


def test_schema_and_log_are_at_hand(comfy_server: ComfyServer) -> None:
    assert "steps" in comfy_server.object_info("KSampler")["input"]["required"]
    assert "Starting server" in comfy_server.log()
    assert comfy_server.get("/no/such/route").status == 404
    with pytest.raises(KeyError):
        comfy_server.object_info("NoSuchNode")


def test_the_pack_is_installed_without_what_publishing_leaves_out(
    comfy_server: ComfyServer,
) -> None:
    assert comfy_server.pack_dir.name == "comfyui-dpo.test-1"
    assert (comfy_server.pack_dir / "dpo_core" / "__init__.py").is_file()
    assert not (comfy_server.pack_dir / "tests").exists()
