"""What a LoRA of any type holds for one layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor


@dataclass(frozen=True)
class LoraWeights:
    """One layer's weights.

    Attributes:
        parts: tensors by their names in a LoRA file. Of lora and dora ``lora_A.weight``, shape
            (rank, in, *kernel), and ``lora_B.weight``, (out, rank, *ones); of dora also
            ``dora_scale``, (1, in, *ones). Of loha ``hada_w1_a``, (out, rank), ``hada_w1_b``,
            (rank, in * kernel), and the same for ``hada_w2``. Of lokr ``lokr_w1`` and ``lokr_w2``,
            flat, or for either the two factors ``_a`` and ``_b`` of it.
        alpha: the layer's scale is ``alpha / rank``; None if it has no rank.
    """

    parts: Mapping[str, Tensor]
    alpha: float | None

    @staticmethod
    def plain(down: Tensor, up: Tensor, alpha: float) -> LoraWeights:
        """Of type lora."""
        return LoraWeights({"lora_A.weight": down, "lora_B.weight": up}, alpha)

    @property
    def kind(self) -> str:
        """Its type."""
        if "hada_w1_a" in self.parts:
            return "loha"
        if "lora_A.weight" in self.parts:
            return "dora" if "dora_scale" in self.parts else "lora"
        return "lokr"

    @property
    def rank(self) -> int:
        """Of the matrices; 0 if none has one."""
        names = ("lora_A.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
        return next((self.parts[name].shape[0] for name in names if name in self.parts), 0)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """True if these are for a layer whose weight has this shape."""
        out, into, *kernel = shape
        shapes = {name: tuple(tensor.shape) for name, tensor in self.parts.items()}
        rank, ones = self.rank, [1] * len(kernel)
        if self.kind == "lokr":
            first, second = self._factor("lokr_w1"), self._factor("lokr_w2")
            return (
                first is not None
                and second is not None
                and first[0] * second[0] == out
                and first[1] * second[1] == into * prod(kernel)
                and into % first[1] == 0
            )
        if self.kind == "loha":
            a, b = (out, rank), (rank, into * prod(kernel))
            return shapes == {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": a, "hada_w2_b": b}
        expected = {"lora_A.weight": (rank, into, *kernel), "lora_B.weight": (out, rank, *ones)}
        if self.kind == "dora":
            expected["dora_scale"] = (1, into, *ones)
        return shapes == expected

    def _factor(self, name: str) -> tuple[int, int] | None:
        """Shape of a factor of lokr; None if it is none."""
        if name in self.parts:
            whole = self.parts[name]
            return (whole.shape[0], whole.shape[1]) if whole.ndim == 2 else None
        if not {f"{name}_a", f"{name}_b"} <= self.parts.keys():
            return None
        a, b = self.parts[f"{name}_a"], self.parts[f"{name}_b"]
        fitting = a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0]
        return (a.shape[0], b.shape[1]) if fitting else None
