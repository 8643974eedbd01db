"""What training minimises."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..dpo_core.training.objectives import Objective as ObjectiveSettings
from .tooltip import field_docs
from .types import CATEGORY, Objective

PRESETS = {
    "conservative": ObjectiveSettings(beta=5000.0),
    "strong": ObjectiveSettings(beta=200.0, supervised_mix=0.25),
}


class ObjectiveNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        docs = field_docs(ObjectiveSettings)
        return io.Schema(
            node_id="DPOObjective",
            display_name="Objective (DPO)",
            category=CATEGORY,
            description="How picks become a loss. Without this node the trainer uses its defaults.",
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=["custom", *PRESETS],
                    default="custom",
                    tooltip="custom uses the values below. conservative stays close to the model "
                    "(beta 5000). strong lets it move far (beta 200, supervised mix 0.25): watch "
                    "the pictures. A preset replaces the values below.",
                ),
                io.Combo.Input(
                    "loss", options=["sigmoid"], default="sigmoid", tooltip=docs["loss"]
                ),
                io.Float.Input(
                    "beta", default=5000.0, min=0.0, max=1e7, step=1.0, tooltip=docs["beta"]
                ),
                io.Float.Input(
                    "label_smoothing", default=0.0, min=0.0, max=0.5, step=0.01,
                    tooltip=docs["label_smoothing"],
                ),
                io.Float.Input(
                    "supervised_mix", default=0.0, min=0.0, max=1000.0, step=0.01,
                    tooltip=docs["supervised_mix"],
                ),
            ],
            outputs=[Objective.Output(display_name="objective")],
        )

    @classmethod
    def execute(
        cls,
        preset: str,
        loss: str,
        beta: float,
        label_smoothing: float,
        supervised_mix: float,
    ) -> io.NodeOutput:
        objective = PRESETS.get(preset) or ObjectiveSettings(
            loss, beta, label_smoothing=label_smoothing, supervised_mix=supervised_mix
        )
        if problems := objective.problems():
            raise ValueError("This objective cannot be used:\n- " + "\n- ".join(problems))
        return io.NodeOutput(objective)
