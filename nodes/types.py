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
Judge = io.Custom("DPO_JUDGE")
Lora = io.Custom("LORA_MODEL")
LossMap = io.Custom("LOSS_MAP")


@io.comfytype(io_type="DPO_RANKING")
class Ranking(io.ComfyTypeI):
    """What the ranking widget keeps in a workflow: which set was ranked, never an image."""

    Type = dict

    class Input(io.WidgetInput):
        def __init__(
            self, id: str, tooltip: str, optional: bool = False, blind: bool = False
        ) -> None:
            # The page reads `blind` and shows a comparison of two sides in place of a ranking.
            extra = {"blind": True} if blind else None
            super().__init__(
                id, optional=optional, tooltip=tooltip, default={}, socketless=True,
                extra_dict=extra,
            )  # fmt: skip
