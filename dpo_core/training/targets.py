"""Which of a model's layers are adapted: a choice by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

TARGETS = ("attention", "attention_mlp", "all_linear", "convolutions", "pattern")
MAX_RANK = 1024
SHOWN = 12
"""Kinds of layers named in an error."""

_ATTENTION = {"attn", "attention"}
# What steers a block by time and prompt instead of working on the picture. A linear layer below a
# norm is the scale and shift it computes.
_MODULATION = {
    "mod", "modulation", "ada", "adaln", "norm", "emb", "embed", "embedder", "embedding",
    "embeddings", "guidance", "temb", "time", "timestep",
}  # fmt: skip
# Attention and MLP in one matrix: the single-stream blocks of the Flux family.
_FUSED = re.compile(r"single\w*blocks\.\d+\.linear[12]$")


@dataclass(frozen=True)
class ModelLayers:
    """Names of the layers that an adapter can attach to, in the model's order.

    Attributes:
        linear: linear layers of the repeated blocks.
        convolutions: convolutions of the repeated blocks.
        outside: both kinds outside of them: embeddings, the last layer.
    """

    linear: Sequence[str]
    convolutions: Sequence[str] = ()
    outside: Sequence[str] = ()


@dataclass(frozen=True)
class PatternLine:
    """One line of a pattern: names that match ``glob`` get ``rank``, if it gives one."""

    glob: str
    rank: int | None = None

    @property
    def text(self) -> str:
        return self.glob if self.rank is None else f"{self.glob} = {self.rank}"

    def matches(self, name: str) -> bool:
        return fnmatchcase(name, self.glob)


def pattern_lines(pattern: str) -> list[PatternLine]:
    """The lines of a pattern; a rank that is no number reads as -1."""
    found = []
    for line in pattern.splitlines():
        glob, equals, rank = (part.strip() for part in line.partition("="))
        if glob or equals:
            number = int(rank) if re.fullmatch(r"\d{1,9}", rank) else -1
            found.append(PatternLine(glob, number if equals else None))
    return found


def pattern_problems(targets: str, pattern: str) -> list[str]:
    """What is wrong with a choice of layers before any model is known, each with its fix."""
    if targets not in TARGETS:
        return [f"targets is {targets!r}: choose {', '.join(TARGETS)}."]
    lines = pattern_lines(pattern)
    found = []
    if targets == "pattern" and not lines:
        found.append(
            "targets is pattern, but pattern is empty: write parts of layer names between stars, "
            "such as *attn*, one per line."
        )
    for line in lines:
        if not line.glob:
            found.append("A line of pattern gives a rank but no name: write it before the =.")
        elif line.rank is not None and not 1 <= line.rank <= MAX_RANK:
            found.append(
                f"The rank after {line.glob!r} in pattern must be a number from 1 to {MAX_RANK}."
            )
        elif line.rank is None and targets != "pattern":
            found.append(
                f"Pattern line {line.glob!r} does nothing while targets is {targets}: give it a "
                f"rank ({line.glob} = 32), or set targets to pattern."
            )
    return found


def pattern_rank(pattern: str, name: str, otherwise: int) -> int:
    """The rank for a layer: of the last line that matches it and gives one."""
    ranks = [line.rank for line in pattern_lines(pattern) if line.rank and line.matches(name)]
    return ranks[-1] if ranks else otherwise


def chosen_layers(targets: str, pattern: str, layers: ModelLayers) -> list[str]:
    """Names of the layers to adapt.

    Args:
        targets: one of ``TARGETS``.
        pattern: lines ``glob`` or ``glob = rank``.
        layers: what the model has.

    Raises:
        ValueError: the model has no such layer, or a line of the pattern matches none.
    """
    lines = pattern_lines(pattern)
    everything = [*layers.linear, *layers.convolutions, *layers.outside]
    if targets == "pattern":
        found = [name for name in everything if any(line.matches(name) for line in lines)]
    else:
        found = {
            "attention": [name for name in layers.linear if _is_attention(name)],
            "attention_mlp": [name for name in layers.linear if not _is_modulation(name)],
            "all_linear": list(layers.linear),
            "convolutions": [*layers.linear, *layers.convolutions],
        }[targets]
    searched = everything if targets == "pattern" else found
    for line in lines:
        if not any(line.matches(name) for name in searched):
            raise ValueError(
                f"Pattern line {line.text!r} matches no layer"
                f"{'' if targets == 'pattern' else f' among {targets}'}. "
                f"This model's layers are named like {_samples(searched or everything)}."
            )
    if not found:
        raise ValueError(
            f"This model has no layers that say {targets} in their name: set targets to all_linear "
            f"or to pattern. They are named like {_samples(everything)}."
        )
    return found


def _is_attention(name: str) -> bool:
    if _FUSED.search(name):
        return True
    return bool(_words(name) & _ATTENTION) and not _is_modulation(name)


def _is_modulation(name: str) -> bool:
    return bool(_words(name) & _MODULATION)


def _words(name: str) -> set[str]:
    """``blocks.3.adaLN_modulation.1`` -> blocks, ada, ln, modulation."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


def _samples(names: Iterable[str]) -> str:
    """One name of each kind: blocks differ by their number alone."""
    kinds: dict[str, str] = {}
    for name in names:
        kinds.setdefault(re.sub(r"\.\d+(?=\.)", ".*", name), name)
    shown = list(kinds.values())[:SHOWN]
    return ", ".join(shown) + (", ..." if len(kinds) > len(shown) else "")
