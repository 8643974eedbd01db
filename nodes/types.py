"""The pack's own socket types, and the host's that it shares."""

from comfy_api.v0_0_2 import io

CATEGORY = "model/training/DPO"

Pairs = io.Custom("DPO_PAIRS")
Dataset = io.Custom("DPO_DATASET")
Objective = io.Custom("DPO_OBJECTIVE")
Trainer = io.Custom("DPO_TRAINER")
Lora = io.Custom("LORA_MODEL")
LossMap = io.Custom("LOSS_MAP")
