"""What training minimises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.v0_0_2 import io

from ..dpo_core.training.objectives import LOSSES
from ..dpo_core.training.objectives import Objective as ObjectiveSettings
from ..dpo_core.training.objectives.adaptive_beta import RULES
from .tooltip import field_docs
from .types import CATEGORY, Objective

PRESETS = {
    "conservative": ObjectiveSettings(beta=5000.0),
    "balanced": ObjectiveSettings(beta=1000.0, safeguard=0.5, supervised_mix=0.25),
    "strong": ObjectiveSettings(beta=200.0, supervised_mix=0.25),
}

OWN_PARAMETERS = {
    "simpo_beta": (0.0, 1e6, 1.0),
    "simpo_gamma": (0.0, 100.0, 0.05),
    "cpo_alpha": (0.0, 1000.0, 0.01),
    "mapo_lambda": (0.0, 1000.0, 0.01),
    "exo_epsilon": (1e-6, 0.49, 1e-4),
    "rating_scale": (0.0, 100.0, 0.05),
    "divergence_alpha": (-10.0, 10.0, 0.05),
    "dpop_lambda": (0.0, 1000.0, 0.1),
    "davidson_nu": (0.01, 100.0, 0.05),
    "discopop_tau": (0.001, 0.99, 0.01),
}
"""Of single losses: lowest and highest value, and step."""


class ObjectiveNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        docs, usual = field_docs(ObjectiveSettings), ObjectiveSettings()

        def number(
            name: str, low: float, high: float, step: float, advanced: bool = False
        ) -> io.Input:
            return io.Float.Input(
                name, default=getattr(usual, name), min=low, max=high, step=step,
                tooltip=docs[name], advanced=advanced,
            )

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
                    "(beta 5000). balanced moves further and holds itself back where it would "
                    "spoil chosen images (beta 1000, safeguard 0.5, supervised mix 0.25). strong "
                    "moves far (beta 200, supervised mix 0.25): watch the pictures. A preset "
                    "replaces all values below but weight.",
                ),
                io.Combo.Input(
                    "loss", options=list(LOSSES), default=usual.loss,
                    tooltip=docs["loss"] + " Losses that look at a whole batch (kto, bco_pair) "
                    "take what is loaded at once, batch_size, for it: adding up more batches "
                    "before an update does not make it larger.",
                ),
                number("beta", 0.0, 1e7, 1.0),
                io.String.Input(
                    "beta_per_epoch", default="",
                    tooltip=docs["beta_per_epoch"] + " For example: 5000, 2000, 500.",
                    advanced=True,
                ),
                number("label_smoothing", 0.0, 0.5, 0.01),
                number("supervised_mix", 0.0, 1000.0, 0.01),
                number("safeguard", 0.0, 1.0, 0.05),
                *(number(name, *bounds, advanced=True) for name, bounds in OWN_PARAMETERS.items()),
                io.Combo.Input(
                    "adaptive_beta", options=list(RULES), default=usual.adaptive_beta,
                    tooltip=docs["adaptive_beta"], advanced=True,
                ),
                number("gradient_target", 0.01, 0.49, 0.01, advanced=True),
                number("weight", 0.0, 1000.0, 0.05, advanced=True),
                Objective.Input("also", optional=True, tooltip=docs["also"]),
            ],
            outputs=[Objective.Output(display_name="objective")],
        )

    @classmethod
    def execute(
        cls,
        preset: str,
        beta_per_epoch: str,
        weight: float,
        also: ObjectiveSettings | None = None,
        **values: Any,
    ) -> io.NodeOutput:
        betas, wrong = parse_betas(beta_per_epoch)
        objective = ObjectiveSettings(beta_per_epoch=betas, **values)
        if preset in PRESETS:
            objective, wrong = PRESETS[preset], []
        objective = replace(objective, weight=weight, also=also)
        if problems := objective.problems() + wrong:
            raise ValueError("This objective cannot be used:\n- " + "\n- ".join(problems))
        return io.NodeOutput(objective)


def parse_betas(text: str) -> tuple[tuple[float, ...], list[str]]:
    """The numbers of a list such as "5000, 2000, 500", and what is wrong with it."""
    words = text.replace(",", " ").replace(";", " ").split()
    betas, problems = [], []
    for word in words:
        try:
            betas.append(float(word))
        except ValueError:
            problems.append(
                f"beta_per_epoch holds {word!r}: write numbers with commas between them, such as "
                "5000, 2000, 500."
            )
    return tuple(betas), problems
