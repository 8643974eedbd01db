"""What kind of LoRA is trained, and on which layers."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..dpo_core.training.adapter import AdapterSettings
from ..dpo_core.training.adapter_layer import KINDS
from ..dpo_core.training.targets import TARGETS
from .tooltip import field_docs
from .types import CATEGORY, Adapter


class AdapterNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        docs, usual = field_docs(AdapterSettings), AdapterSettings()
        return io.Schema(
            node_id="DPOAdapter",
            display_name="Adapter (DPO)",
            category=CATEGORY,
            description="What kind of LoRA is trained, and on which layers. Without this node it "
            "is a plain LoRA on every linear layer of the blocks. Rank and alpha are set on the "
            "trainer.",
            search_aliases=["lora", "dora", "rslora", "loha", "lokr", "lycoris"],
            inputs=[
                io.Combo.Input(
                    "type", options=list(KINDS), default=usual.kind, tooltip=docs["kind"]
                ),
                io.Combo.Input(
                    "targets", options=list(TARGETS), default=usual.targets,
                    tooltip=docs["targets"],
                ),
                io.String.Input(
                    "pattern", default=usual.pattern, multiline=True, tooltip=docs["pattern"]
                ),
                io.Float.Input(
                    "dropout", default=usual.dropout, min=0.0, max=0.95, step=0.01,
                    tooltip=docs["dropout"],
                ),
            ],
            outputs=[Adapter.Output(display_name="adapter")],
        )

    @classmethod
    def execute(cls, type: str, targets: str, pattern: str, dropout: float) -> io.NodeOutput:
        # The trainer brings rank, alpha and the model, and looks for problems with all of it.
        return io.NodeOutput(
            AdapterSettings(kind=type, targets=targets, pattern=pattern, dropout=dropout)
        )
