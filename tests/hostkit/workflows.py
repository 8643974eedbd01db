"""Prompts in the form that `/prompt` takes: node id -> class and inputs, links as [id, slot]."""

from __future__ import annotations

from typing import Any

Prompt = dict[str, dict[str, Any]]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One node of a prompt."""
    return {"class_type": class_type, "inputs": inputs}


def text_to_image(
    checkpoint: str,
    text: str = "a cat",
    seed: int = 0,
    steps: int = 2,
    batch: int = 1,
    size: int = 64,
) -> Prompt:
    """The default workflow on `checkpoint` (a file name in models/checkpoints).

    The ids are names: checkpoint, positive, negative, empty, sampler, decode, save. Images are
    `size` pixels wide and high and are saved under output/tiny.
    """
    return {
        "checkpoint": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "positive": node("CLIPTextEncode", text=text, clip=["checkpoint", 1]),
        "negative": node("CLIPTextEncode", text="", clip=["checkpoint", 1]),
        "empty": node("EmptyLatentImage", width=size, height=size, batch_size=batch),
        "sampler": node(
            "KSampler",
            model=["checkpoint", 0],
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["empty", 0],
            seed=seed,
            steps=steps,
            cfg=2.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["checkpoint", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="tiny/image"),
    }
