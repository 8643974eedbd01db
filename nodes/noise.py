"""How noise is drawn for each look at a pair."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..dpo_core.training.noise import SIGMAS, NoiseSettings
from .tooltip import field_docs
from .types import CATEGORY, Noise


class NoiseNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        docs, usual = field_docs(NoiseSettings), NoiseSettings()
        return io.Schema(
            node_id="DPONoise",
            display_name="Noise (DPO)",
            category=CATEGORY,
            description="How noise is drawn for each look at a pair. Without this node each look "
            "gets fresh noise, of the strengths the model was trained with.",
            inputs=[
                io.Combo.Input(
                    "sigmas", options=list(SIGMAS), default=usual.sigmas, tooltip=docs["sigmas"]
                ),
                io.Float.Input(
                    "low", default=usual.low, min=0.0, max=1.0, step=0.01, tooltip=docs["low"]
                ),
                io.Float.Input(
                    "high", default=usual.high, min=0.0, max=1.0, step=0.01, tooltip=docs["high"]
                ),
                io.Int.Input(
                    "draws_per_pair", default=usual.draws_per_pair, min=1, max=64,
                    tooltip=docs["draws_per_pair"],
                ),
                io.Int.Input(
                    "cached_draws", default=usual.cached_draws, min=0, max=1024,
                    tooltip=docs["cached_draws"],
                ),
            ],
            outputs=[Noise.Output(display_name="noise")],
        )

    @classmethod
    def execute(
        cls, sigmas: str, low: float, high: float, draws_per_pair: int, cached_draws: int
    ) -> io.NodeOutput:
        settings = NoiseSettings(sigmas, low, high, draws_per_pair, cached_draws)
        if problems := settings.problems():
            raise ValueError("This noise cannot be used:\n- " + "\n- ".join(problems))
        return io.NodeOutput(settings)
