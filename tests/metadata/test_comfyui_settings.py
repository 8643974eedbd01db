from __future__ import annotations

from typing import Any

import pytest

from dpo_core.metadata.comfyui_settings import (
    generation_behind,
    models_behind,
    vae_behind,
)


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def test_settings_of_a_plain_sampler_and_the_file_below_its_lora() -> None:
    graph = {
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["file", 2]),
        "sampler": node(
            "KSampler", model=["lora", 0], positive=["text", 0], seed=7, steps=20, cfg=4.5,
            sampler_name="euler", scheduler="normal", denoise=1.0, latent_image=["empty", 0],
        ),
        "lora": node("LoraLoader", model=["file", 0], lora_name="a.safetensors"),
        "file": node("CheckpointLoaderSimple", ckpt_name="base.safetensors"),
    }  # fmt: skip
    assert generation_behind(graph, ["decode", 0]) == {
        "seed": 7, "steps": 20, "cfg": 4.5, "sampler": "euler", "scheduler": "normal",
        "denoise": 1.0, "checkpoint": "base.safetensors",
    }  # fmt: skip


def test_settings_that_nodes_of_their_own_hold() -> None:
    graph = {
        "sampler": node(
            "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0],
            sampler=["euler", 0], sigmas=["sigmas", 0], latent_image=["empty", 0],
        ),
        "noise": node("RandomNoise", noise_seed=["number", 0]),
        "number": node("PrimitiveInt", value=11),
        "guider": node("BasicGuider", model=["file", 0], conditioning=["text", 0]),
        "euler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", scheduler="simple", steps=8, denoise=0.5),
        "file": node("UNETLoader", unet_name="flux.safetensors"),
    }  # fmt: skip
    assert generation_behind(graph, ["sampler", 0]) == {
        "seed": 11, "sampler": "euler", "scheduler": "simple", "steps": 8, "denoise": 0.5,
        "checkpoint": "flux.safetensors",
    }  # fmt: skip


@pytest.mark.parametrize(
    "inputs",
    [
        {"seed": {"a": 1}, "model": 4},
        {"seed": ["sampler", 0], "model": ["sampler", 0]},
        {"seed": ["gone", 0], "model": ["gone", 0], "noise": ["gone", 0]},
    ],
)
def test_hostile_graphs_tell_nothing(inputs: dict[str, Any]) -> None:
    assert generation_behind({"sampler": node("KSampler", **inputs)}, ["sampler", 0]) == {}


def test_pictures_that_no_sampler_made_have_no_settings() -> None:
    graph = {"load": node("LoadImage", image="a.png")}
    assert generation_behind(graph, ["load", 0]) == {}
    assert generation_behind(None, None) == {}


def _two_vaes() -> dict[str, Any]:
    return {
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["tiled", 0]),
        "tiled": node("SeamlessVAE", vae=["vae", 0]),
        "vae": node("VAELoader", vae_name="xl/sdxl_vae.safetensors"),
        "sampler": node("KSampler", model=["file", 0], latent_image=["encode", 0]),
        "encode": node("VAEEncode", pixels=["photo", 0], vae=["file", 2]),
        "file": node("CheckpointLoaderSimple", ckpt_name="base.safetensors"),
        "photo": node("LoadImage", image="a.png"),
        "upscale": node("ImageScale", image=["decode", 0]),
        "switched": node("VAEDecode", samples=["sampler", 0], vae=["switch", 0]),
        "switch": node("Switch", a=["vae", 0], b=["file", 2]),
    }


@pytest.mark.parametrize(
    ("link", "file"),
    [
        (["upscale", 0], "xl/sdxl_vae.safetensors"),
        (["sampler", 0], "base.safetensors"),
        (["photo", 0], None),
        (["switched", 0], None),
        (["nowhere", 0], None),
        (7, None),
    ],
)
def test_the_vae_that_pictures_or_latents_passed_last(link: Any, file: str | None) -> None:
    assert vae_behind(_two_vaes(), link) == file


def test_the_loras_on_a_model_in_the_order_they_were_applied() -> None:
    graph = {
        "sampler": node("KSampler", model=["second", 0], positive=["text", 0], steps=20),
        "second": node("LoraModelLoader", model=["shift", 0], lora=["lora", 0], strength_model=0.5),
        "lora": node("DPOLoadLoRA", lora_name="two.safetensors"),
        "shift": node("ModelSamplingSD3", model=["first", 0], shift=3),
        "first": node("LoraLoaderModelOnly", model=["file", 0], lora_name="one.safetensors",
                      strength_model=1.0),
        "file": node("UNETLoader", unet_name="base.safetensors"),
    }  # fmt: skip
    expected = ["base.safetensors", "one.safetensors", "two.safetensors x 0.5"]
    assert models_behind(graph, ["sampler", 0]) == expected
    graph["lora"] = node("DPOTrainSteps", trainer=["trainer", 0], steps=40)
    graph["first"]["inputs"]["strength_model"] = "much"
    trained = ["base.safetensors", "one.safetensors", "a LoRA of DPOTrainSteps x 0.5"]
    assert models_behind(graph, ["sampler", 0]) == trained
    assert models_behind(graph, ["file", 0]) == models_behind(None, None) == []
