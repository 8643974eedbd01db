"""Seeing what the LoRA does while it is trained."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import torch
from comfy_api.v0_0_2 import io

from .host.preview import PreviewSettings, encode_preview
from .tooltip import field_docs
from .types import CATEGORY, Preview


class PreviewNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        docs, usual = field_docs(PreviewSettings), PreviewSettings()
        samplers, schedulers = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS
        return io.Schema(
            node_id="DPOPreview",
            display_name="Preview (DPO)",
            category=CATEGORY,
            description="Samples a few prompts every so many steps, always with the same seeds, "
            "beside what the model makes without the LoRA. The pictures are kept with the run as "
            "a filmstrip. Training comes out the same as without them.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder that belongs to the model."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.String.Input(
                    "prompts", default=usual.prompts, multiline=True, tooltip=docs["prompts"]
                ),
                io.Int.Input(
                    "every", default=usual.every, min=1, max=1_000_000, tooltip=docs["every"]
                ),
                io.Int.Input(
                    "seed", default=usual.seed, min=0, max=2**53 - 1, tooltip=docs["seed"],
                    control_after_generate=io.ControlAfterGenerate.fixed,
                ),
                io.Int.Input(
                    "steps", default=usual.steps, min=1, max=10_000, tooltip=docs["steps"]
                ),
                io.Float.Input(
                    "cfg", default=usual.cfg, min=0.0, max=100.0, step=0.1, tooltip=docs["cfg"]
                ),
                io.Combo.Input(
                    "sampler", options=list(samplers), default=usual.sampler,
                    tooltip=docs["sampler"],
                ),
                io.Combo.Input(
                    "scheduler", options=list(schedulers), default=usual.scheduler,
                    tooltip=docs["scheduler"],
                ),
                io.Int.Input(
                    "width", default=usual.width, min=16, max=16384, step=8, tooltip=docs["width"]
                ),
                io.Int.Input(
                    "height", default=usual.height, min=16, max=16384, step=8,
                    tooltip=docs["height"],
                ),
                io.Float.Input(
                    "guidance", default=usual.guidance, min=0.0, max=100.0, step=0.1,
                    optional=True, tooltip=docs["guidance"],
                ),
            ],
            outputs=[Preview.Output(display_name="preview")],
        )

    @classmethod
    def execute(
        cls,
        clip: Any,
        vae: Any,
        prompts: str,
        every: int,
        seed: int,
        steps: int,
        cfg: float,
        sampler: str,
        scheduler: str,
        width: int,
        height: int,
        guidance: float = PreviewSettings.guidance,
    ) -> io.NodeOutput:
        settings = PreviewSettings(
            steps, float(cfg), sampler, scheduler, width, height, prompts, every, seed,
            float(guidance),
        )
        if problems := settings.problems():
            raise ValueError("These previews cannot be made:\n- " + "\n- ".join(problems))
        # Outside inference mode: it is used during training.
        with torch.inference_mode(False), torch.no_grad():
            return io.NodeOutput(encode_preview(settings, clip, vae))
