"""The pack as ComfyUI sees it."""

from __future__ import annotations

from comfy_api.v0_0_2 import ComfyExtension, io

from .adapter import AdapterNode
from .comparison import BlindCompare
from .dataset import DatasetFromLatents, EncodePairs
from .exchange import ImportPreferences
from .host.judges.judge_files import register_judges_folder
from .judging import JudgeImages, JudgeNode
from .lora import LoadLora, SaveLora
from .noise import NoiseNode
from .objective import ObjectiveNode
from .online import OnlineRoundsNode
from .optimizer import OptimizerNode
from .pairs import (
    ExportPairFolder,
    JoinPairs,
    LoadLabelledFolder,
    LoadPairFolder,
    PairsFromImages,
)
from .preview import PreviewNode
from .ranking import LoadPreferences, RankImages
from .routes import register_routes
from .trainer import TrainerNode, TrainStepsNode
from .validation import ValidationNode

register_routes()
register_judges_folder()


class DPOExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            LoadPairFolder,
            LoadLabelledFolder,
            ImportPreferences,
            PairsFromImages,
            JoinPairs,
            RankImages,
            LoadPreferences,
            JudgeNode,
            JudgeImages,
            BlindCompare,
            ExportPairFolder,
            EncodePairs,
            DatasetFromLatents,
            ObjectiveNode,
            NoiseNode,
            OptimizerNode,
            AdapterNode,
            ValidationNode,
            PreviewNode,
            TrainerNode,
            TrainStepsNode,
            OnlineRoundsNode,
            LoadLora,
            SaveLora,
        ]


async def comfy_entrypoint() -> DPOExtension:
    return DPOExtension()
