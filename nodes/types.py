"""The pack's own socket types, and the host's that it shares."""

from comfy_api.v0_0_2 import io

CATEGORY = "model/training/DPO"

Pairs = io.Custom("DPO_PAIRS")
Dataset = io.Custom("DPO_DATASET")
Noise = io.Custom("DPO_NOISE")
Objective = io.Custom("DPO_OBJECTIVE")
Optimizer = io.Custom("DPO_OPTIMIZER")
Adapter = io.Custom("DPO_ADAPTER")
Trainer = io.Custom("DPO_TRAINER")
Validation = io.Custom("DPO_VALIDATION")
Preview = io.Custom("DPO_PREVIEW")
Lora = io.Custom("LORA_MODEL")
LossMap = io.Custom("LOSS_MAP")


@io.comfytype(io_type="DPO_RANKING")
class Ranking(io.ComfyTypeI):
    """What the ranking widget keeps in a workflow: which set was ranked, never an image."""

    Type = dict

    class Input(io.WidgetInput):
        def __init__(self, id: str, tooltip: str, optional: bool = False) -> None:
            super().__init__(id, optional=optional, tooltip=tooltip, default={}, socketless=True)
