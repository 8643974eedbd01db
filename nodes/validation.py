"""Trying the LoRA on pairs it does not learn from."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..dpo_core.evaluation.validation import PATIENCE_MODES, ValidationSettings
from .tooltip import field_docs
from .types import CATEGORY, Validation


class ValidationNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        docs, usual = field_docs(ValidationSettings), ValidationSettings()
        return io.Schema(
            node_id="DPOValidation",
            display_name="Validation (DPO)",
            category=CATEGORY,
            description="Keeps some prompts out of training and tries the LoRA on them, always "
            "under the same noise. Shows whether it learns your taste or only your pairs.",
            inputs=[
                io.Int.Input(
                    "percent", default=usual.percent, min=1, max=90, tooltip=docs["percent"]
                ),
                io.Int.Input(
                    "split_seed", default=usual.split_seed, min=0, max=2**53 - 1,
                    tooltip=docs["split_seed"],
                ),
                io.Int.Input(
                    "every", default=usual.every, min=1, max=1_000_000, tooltip=docs["every"]
                ),
                io.Boolean.Input("at_start", default=usual.at_start, tooltip=docs["at_start"]),
                io.Int.Input(
                    "patience", default=usual.patience, min=0, max=1_000_000,
                    tooltip=docs["patience"],
                ),
                io.Combo.Input(
                    "patience_mode", options=list(PATIENCE_MODES), default=usual.patience_mode,
                    tooltip=docs["patience_mode"],
                ),
                io.Boolean.Input("save_best", default=usual.save_best, tooltip=docs["save_best"]),
            ],
            outputs=[Validation.Output(display_name="validation")],
        )

    @classmethod
    def execute(
        cls,
        percent: int,
        split_seed: int,
        every: int,
        at_start: bool,
        patience: int,
        patience_mode: str,
        save_best: bool,
    ) -> io.NodeOutput:
        settings = ValidationSettings(
            percent, split_seed, every, at_start, patience, patience_mode, save_best
        )
        if problems := settings.problems():
            raise ValueError("This validation cannot be done:\n- " + "\n- ".join(problems))
        return io.NodeOutput(settings)
