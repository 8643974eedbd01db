"""How gradients become changes of the LoRA."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..dpo_core.training.optimizer import ALGORITHMS, SCHEDULES, OptimizerSettings
from .tooltip import field_docs
from .types import CATEGORY, Optimizer


class OptimizerNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        docs, usual = field_docs(OptimizerSettings), OptimizerSettings()
        return io.Schema(
            node_id="DPOOptimizer",
            display_name="Optimizer (DPO)",
            category=CATEGORY,
            description="How gradients become changes of the LoRA. Without this node the trainer "
            "uses AdamW at a constant rate. The learning rate itself is set on the trainer.",
            inputs=[
                io.Combo.Input(
                    "optimizer", options=list(ALGORITHMS), default=usual.algorithm,
                    tooltip=docs["algorithm"],
                ),
                io.Combo.Input(
                    "schedule", options=list(SCHEDULES), default=usual.schedule,
                    tooltip=docs["schedule"],
                ),
                io.Int.Input(
                    "warmup_steps", default=usual.warmup_steps, min=0, max=1_000_000,
                    tooltip=docs["warmup_steps"],
                ),
                io.Int.Input(
                    "total_steps", default=usual.total_steps, min=0, max=10_000_000,
                    tooltip=docs["total_steps"],
                ),
                io.Float.Input(
                    "weight_decay", default=usual.weight_decay, min=0.0, max=10.0, step=1e-4,
                    tooltip=docs["weight_decay"],
                ),
                io.Float.Input(
                    "beta1", default=usual.beta1, min=0.0, max=0.9999, step=1e-3,
                    tooltip=docs["beta1"],
                ),
                io.Float.Input(
                    "beta2", default=usual.beta2, min=0.0, max=0.99999, step=1e-4,
                    tooltip=docs["beta2"],
                ),
                io.Float.Input(
                    "max_grad_norm", default=usual.max_grad_norm, min=1e-6, max=1e6, step=0.1,
                    tooltip=docs["max_grad_norm"],
                ),
                io.Float.Input(
                    "ema", default=usual.ema, min=0.0, max=0.9999, step=1e-3, tooltip=docs["ema"]
                ),
            ],
            outputs=[Optimizer.Output(display_name="optimizer")],
        )

    @classmethod
    def execute(
        cls,
        optimizer: str,
        schedule: str,
        warmup_steps: int,
        total_steps: int,
        weight_decay: float,
        beta1: float,
        beta2: float,
        max_grad_norm: float,
        ema: float,
    ) -> io.NodeOutput:
        # The trainer brings the rate, and looks for problems with all of it.
        return io.NodeOutput(
            OptimizerSettings(
                algorithm=optimizer,
                schedule=schedule,
                warmup_steps=warmup_steps,
                total_steps=total_steps,
                weight_decay=weight_decay,
                beta1=beta1,
                beta2=beta2,
                max_grad_norm=max_grad_norm,
                ema=ema,
            )
        )
