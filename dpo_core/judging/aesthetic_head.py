"""How beautiful an image is, told from its CLIP vector: the small heads LAION and others trained.

"LAION-Aesthetics" (Schuhmann 2022): a single linear layer (`sa_0_4_vit_l_14_linear.pth`), or
several (`sac+logos+ava1-l14-linearMSE.pth`), on the unit vectors of OpenAI's ViT-L/14. ImageReward
took the latter's form over for its own head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear, relu

from .clip_encoder import ClipEncoder
from .judge import JudgeError, Pixels
from .network_judge import NetworkJudge
from .weights_file import fingerprint, read_weights

_LAYER = re.compile(r"(?:(.*)\.)?(weight|bias)")
_NUMBER = re.compile(r"(\d+)$")
_WITH_ACTIVATION = 3


@dataclass(frozen=True)
class AestheticHead:
    """A chain of linear layers.

    Attributes:
        name: of its file, and a fingerprint.
        layers: weight (outputs, inputs) and bias (outputs,) of each, first to last; float32.
        rectified: what comes out of each but the last is cut off at 0.
    """

    name: str
    layers: tuple[tuple[Tensor, Tensor], ...]
    rectified: bool = False

    @classmethod
    def from_file(cls, path: Path) -> AestheticHead:
        """The head in a file.

        Raises:
            JudgeError: it cannot be read, or holds another thing.
        """
        tensors = read_weights([path])
        return cls.from_tensors(tensors, f"{path.name}, {fingerprint([path])}")

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], name: str) -> AestheticHead:
        """The head of some weights, named ``<number>.weight`` and ``<number>.bias``.

        The numbers are places in a sequence: where every next layer stands one or two places on,
        at most a dropout lies between; where one stands three on, there is an activation, too, as
        in LAION's `ava+logos-l14-reluMSE.pth`.

        Raises:
            JudgeError: they are no chain of linear layers that ends in one number.
        """
        layers = _layers(tensors)
        if layers is None:
            raise JudgeError(
                f"{name} holds no aesthetic head: it must have linear layers that follow on each "
                "other and end in one number."
            )
        steps = [after - before for before, after in pairwise(layers)]
        return cls(
            name,
            tuple((weight.float(), bias.float()) for weight, bias in layers.values()),
            _WITH_ACTIVATION in steps,
        )

    @property
    def width(self) -> int:
        """Numbers of a vector it takes, D."""
        return self.layers[0][0].shape[1]

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Scores of N images: (N,), float32, about 1 to 10 for LAION's.

        Args:
            embeddings: (N, D), projected and of length 1, as the head was trained on them; on any
                device.

        Raises:
            JudgeError: D is not that of the head.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.width:
            raise JudgeError(
                f"The aesthetic head {self.name} takes CLIP vectors of {self.width} numbers, not "
                f"of {embeddings.shape[-1]}: it was trained on another CLIP. LAION's are for "
                "OpenAI's ViT-L/14."
            )
        x = embeddings.float()
        for place, (weight, bias) in enumerate(self.layers):
            x = relu(x) if place and self.rectified else x
            x = linear(x, weight.to(x.device), bias.to(x.device))
        return x[:, 0]


class AestheticJudge(NetworkJudge):
    """Scores images by an aesthetic head on the vectors of a CLIP; the prompt does not matter.

    Raises:
        JudgeError: the head is for another CLIP.
    """

    def __init__(self, name: str, head: AestheticHead, encoder: ClipEncoder) -> None:
        super().__init__(name, encoder.network)
        self._head, self._encoder = head, encoder
        head(torch.zeros(1, encoder.width))

    def score(self, images: Sequence[Pixels], prompt: str) -> list[float]:
        """As of a judge."""
        with torch.inference_mode():
            return self._head(self._encoder.images(images)).tolist()


def is_aesthetic_head(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of one."""
    return _layers(tensors) is not None


def _layers(tensors: Mapping[str, Tensor]) -> dict[int, tuple[Tensor, Tensor]] | None:
    """Weight and bias by place, in order; None if these are not the layers of a head."""
    found: dict[tuple[str, int], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _LAYER.fullmatch(name)
        if match is None:
            return None
        at = _NUMBER.search(match[1] or "")
        stem = (match[1] or "")[: at.start()] if at else (match[1] or "")
        found.setdefault((stem, int(at[1]) if at else 0), {})[match[2]] = tensor
    whole = all(one.keys() == {"weight", "bias"} for one in found.values())
    if not found or not whole or len({stem for stem, _ in found}) > 1:
        return None
    layers = {number: (one["weight"], one["bias"]) for (_, number), one in sorted(found.items())}
    return layers if _is_chain(list(layers.values())) else None


def _is_chain(layers: Sequence[tuple[Tensor, Tensor]]) -> bool:
    shaped = all(
        weight.ndim == 2 and bias.shape == weight.shape[:1] for weight, bias in layers
    )
    return (
        shaped
        and all(after[0].shape[1] == before[0].shape[0] for before, after in pairwise(layers))
        and layers[-1][0].shape[0] == 1
    )
