"""Reward models from disk, on the card only while they judge."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import comfy.model_management
import comfy.sd1_clip
import torch

from ....dpo_core.judging.aesthetic_head import AestheticHead
from ....dpo_core.judging.judge import JudgeError, Pixels
from ....dpo_core.judging.reward_model import RewardModel, load_reward_model
from .judge_files import weights_facts

KEPT = 2
"""Models that stay in memory between runs, beside those a graph holds."""
BATCH = 4
"""Images scored at once; between two batches Stop is obeyed."""
_LARGEST_HEAD = 1 << 26
_CLIP_TOKENIZER = Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer"
_CPU = torch.device("cpu")
_models: OrderedDict[tuple[str, torch.dtype], RewardModel] = OrderedDict()


class RewardJudge:
    """A judge: a reward model, brought to where ComfyUI has text encoders and back again.

    Args:
        path: of its weights, a file or a folder.

    Raises:
        JudgeError: they cannot be read, or are of no reward model that is known.
    """

    def __init__(self, path: Path) -> None:
        if _is_aesthetic_head(path):
            raise JudgeError(
                f"{path.name} is an aesthetic head, which scores what CLIP sees. Choose the kind "
                "aesthetic and connect clip_vision, most often CLIP-ViT-L-14."
            )
        self._model = _kept(path, _dtype(comfy.model_management.text_encoder_device()))
        self.name = self._model.name

    def score(self, images: Sequence[Pixels], prompt: str) -> list[float]:
        """A number for each image. Obeys Stop."""
        scores: list[float] = []
        with torch.inference_mode(), _on_card(self._model):
            for begin in range(0, len(images), BATCH):
                comfy.model_management.throw_exception_if_processing_interrupted()
                scores += self._model.score(images[begin : begin + BATCH], prompt)
        return scores


@contextmanager
def _on_card(model: RewardModel) -> Iterator[None]:
    """Inside, the model is where it computes; other models have made room. Then it leaves."""
    management = comfy.model_management
    device = management.text_encoder_device()
    if not management.is_device_cpu(device):
        management.free_memory(model.nbytes + management.minimum_inference_memory(), device)
    try:
        model.to(device)
        yield
    finally:
        model.to(_CPU)
        management.soft_empty_cache()


def _dtype(device: torch.device) -> torch.dtype:
    """Not bfloat16, which tells images apart that differ by hundredths less well."""
    half = comfy.model_management.should_use_fp16(device, prioritize_performance=False)
    return torch.float16 if half else torch.float32


def _kept(path: Path, dtype: torch.dtype) -> RewardModel:
    """The model of some weights, loaded once as long as they stay as they are."""
    key = weights_facts(path), dtype
    if key not in _models:
        _models[key] = load_reward_model(path, dtype=dtype, clip_tokenizer=_CLIP_TOKENIZER)
        while len(_models) > KEPT:
            _models.popitem(last=False)
    _models.move_to_end(key)
    return _models[key]


def _is_aesthetic_head(path: Path) -> bool:
    """Looks into small files only: heads have a few megabytes at most."""
    if not path.is_file() or path.stat().st_size > _LARGEST_HEAD:
        return False
    try:
        AestheticHead.from_file(path)
    except JudgeError:
        return False
    return True
