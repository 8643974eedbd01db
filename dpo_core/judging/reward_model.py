"""Reward models from files a person already has: what they are is seen, nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .aesthetic_head import AestheticHead, AestheticJudge, is_aesthetic_head
from .clip_encoder import ClipEncoder, clip_pixels
from .clip_judge import HPS_SCALE, ClipJudge
from .image_reward import ImageRewardJudge, is_image_reward
from .judge import Judge, JudgeError
from .open_clip_layout import from_open_clip, is_open_clip, open_clip_config
from .prompt_tokens import clip_tokens
from .weights_file import SUFFIXES, fingerprint, read_weights

KINDS = ("auto", "pickscore", "hpsv2", "clip", "imagereward", "aesthetic")

_LABELS = {
    "pickscore": "PickScore", "hpsv2": "HPSv2", "clip": "CLIP", "imagereward": "ImageReward",
    "aesthetic": "aesthetic",
}  # fmt: skip
_ARCHITECTURES = {
    "CLIP": ("pickscore", "hpsv2", "clip"),
    "open_clip": ("hpsv2", "pickscore", "clip"),
    "ImageReward": ("imagereward",),
    "an aesthetic head": ("aesthetic",),
}
"""What a file may hold, and the kinds of judges that can be made of it."""

_AUTO = {"CLIP": "clip", "open_clip": "hpsv2", "ImageReward": "imagereward"}
_CONFIG = "config.json"
_PREPROCESSOR = "preprocessor_config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_SHARDS = ("model-*-of-*.safetensors", "pytorch_model-*-of-*.bin")
_MAX_JSON_BYTES = 1 << 20


class RewardModel(Judge, Protocol):
    """A judge with weights, which the host moves to where there is room."""

    @property
    def nbytes(self) -> int:
        """What its weights take on the device they are on."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def to(self, device: torch.device | str) -> None:
        """Moves it; to the CPU to free a card."""


@dataclass(frozen=True)
class _Found:
    """What lies at a path.

    Attributes:
        source: how messages call it.
        label: its name and a fingerprint, for the judge's name.
        architecture: a key of _ARCHITECTURES.
        tensors: its weights.
        folder: that they lie in.
        config: of a CLIP of transformers.
        preprocessor: of the same.
    """

    source: str
    label: str
    architecture: str
    tensors: dict[str, Tensor]
    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    preprocessor: Mapping[str, Any] = field(default_factory=dict)


def load_reward_model(
    path: Path,
    kind: str = "auto",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    clip_tokenizer: Path | None = None,
    clip_folder: Path | None = None,
) -> RewardModel:
    """A judge from a file or folder.

    Known are a CLIP of `transformers` (a folder: PickScore and the like), a CLIP of open_clip
    (HPSv2's single file), `ImageReward.pt`, and LAION's aesthetic heads. A file's tokenizer is
    looked for beside it.

    Args:
        path: of the weights, or of a folder with them.
        kind: one of KINDS. auto: what the weights are; "clip" for a CLIP of transformers.
        device: where it computes.
        dtype: of its weights.
        clip_tokenizer: a folder with CLIP's tokenizer, for weights that come without one.
        clip_folder: of the CLIP whose vectors an aesthetic head takes.

    Raises:
        JudgeError: nothing there, another architecture, weights missing or left over, no
            tokenizer; with what to do.
    """
    if kind not in KINDS:
        raise JudgeError(f"There is no judge of the kind {kind!r}. Choose {', '.join(KINDS)}.")
    found = _found(path)
    possible = _ARCHITECTURES[found.architecture]
    if kind not in ("auto", *possible):
        raise JudgeError(
            f"{found.source} is {found.architecture}, of which no judge of the kind {kind} can be "
            f"made. Choose auto or {' or '.join(possible)}, or other weights."
        )
    kind = _AUTO.get(found.architecture, possible[0]) if kind == "auto" else kind
    judge = _made(found, kind, dtype, clip_tokenizer, clip_folder)
    judge.to(device)
    return judge


def _made(
    found: _Found,
    kind: str,
    dtype: torch.dtype,
    clip_tokenizer: Path | None,
    clip_folder: Path | None,
) -> RewardModel:
    name = f"{_LABELS[kind]} ({found.label})"
    if kind == "aesthetic":
        return _aesthetic(found, name, dtype, clip_folder)
    if kind == "imagereward":
        return ImageRewardJudge(name, found.tensors, [found.folder], found.source, dtype)
    encoder = _encoder(found, dtype)
    folders = [found.folder, *([clip_tokenizer] if clip_tokenizer else [])]
    text = encoder.config.text_config
    tokens = clip_tokens(
        folders, text.max_position_embeddings, text.vocab_size, encoder.end, found.source
    )
    return ClipJudge(name, encoder, tokens, HPS_SCALE if kind == "hpsv2" else encoder.scale)


def _aesthetic(
    found: _Found, name: str, dtype: torch.dtype, clip_folder: Path | None
) -> AestheticJudge:
    head = AestheticHead.from_tensors(found.tensors, found.label)
    if clip_folder is None:
        raise JudgeError(
            f"{found.source} is an aesthetic head: it scores the vectors of a CLIP. Give it the "
            "CLIP it was trained on, OpenAI's ViT-L/14 for LAION's heads."
        )
    clip = _found(clip_folder)
    if clip.architecture not in ("CLIP", "open_clip"):
        raise JudgeError(f"{clip.source} is no CLIP, but {clip.architecture}.")
    return AestheticJudge(f"{name[:-1]} on {clip.label})", head, _encoder(clip, dtype))


def _encoder(found: _Found, dtype: torch.dtype) -> ClipEncoder:
    if found.architecture == "open_clip":
        config = open_clip_config(found.tensors, found.source)
        return ClipEncoder(config, from_open_clip(found.tensors), found.source, dtype=dtype)
    pixels = clip_pixels(found.config, found.preprocessor)
    return ClipEncoder(found.config, found.tensors, found.source, pixels, dtype)


def _found(path: Path) -> _Found:
    files = _weights_files(path)
    folder = files[0].parent
    tensors = read_weights(files)
    try:
        label = f"{path.stem if path.is_file() else path.name}, {fingerprint(files)}"
    except OSError as error:
        raise JudgeError(f"{path} cannot be read ({error}).") from error
    if is_open_clip(tensors):
        return _Found(str(path), label, "open_clip", tensors, folder)
    if is_image_reward(tensors):
        return _Found(str(path), label, "ImageReward", tensors, folder)
    if is_aesthetic_head(tensors):
        return _Found(str(path), label, "an aesthetic head", tensors, folder)
    if not (folder / _CONFIG).is_file():
        raise JudgeError(
            f"{path} holds no judge that is known here: a CLIP of transformers (with its "
            f"{_CONFIG} beside it), a CLIP of open_clip (HPSv2), ImageReward, or an aesthetic "
            f"head. Its weights are called {_some(tensors)}."
        )
    config = _json(folder / _CONFIG)
    if config.get("model_type") != "clip":
        raise JudgeError(
            f"{folder / _CONFIG} says that this is a model of the type "
            f"{str(config.get('model_type'))[:40]!r}, not clip. Choose a folder with a whole CLIP: "
            "its image and its text encoder."
        )
    preprocessor = folder / _PREPROCESSOR
    told = _json(preprocessor) if preprocessor.is_file() else {}
    return _Found(str(path), label, "CLIP", tensors, folder, config, told)


def _weights_files(path: Path) -> list[Path]:
    """One file, or the shards of one."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise JudgeError(f"There is nothing at {path}. Choose a judge's weights that are on disk.")
    for name in _WEIGHTS:
        if (path / name).is_file():
            return [path / name]
    for pattern in _SHARDS:
        if shards := sorted(path.glob(pattern)):
            return shards
    others = sorted(one for one in path.iterdir() if one.suffix.lower() in SUFFIXES)
    if len(others) != 1:
        raise JudgeError(
            f"In {path} lie "
            + ("no weights" if not others else f"the weights of several models ({_names(others)})")
            + f". Choose a folder with {' or '.join(_WEIGHTS)}, or one file."
        )
    return others


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError("it is too large")
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise JudgeError(f"{path} cannot be read ({error}). Get it again.") from error
    return content


def _names(files: Sequence[Path]) -> str:
    return ", ".join(one.name for one in files[:5]) + (", ..." if len(files) > 5 else "")


def _some(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(list(tensors)[:5]) + (", ..." if len(tensors) > 5 else "") or "nothing"
