"""The kinds of judges there are, and what each is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....dpo_core.judging.callable_judge import callable_judge
from ....dpo_core.judging.judge import AnyJudge, JudgeError
from ....dpo_core.judging.measures import (
    Brightness,
    Colourfulness,
    Contrast,
    SaturationPenalty,
    Sharpness,
    TargetColour,
)
from ..stopping import stopping
from .aesthetic_judge import ClipVisionAesthetic
from .clip_similarity import ClipSimilarity
from .judge_files import NONE, judge_weights
from .judge_name import judge_name
from .registered_judges import registered_judges, source_digest
from .reward_judge import RewardJudge
from .vision_language_judge import VisionLanguageJudge


@dataclass(frozen=True)
class JudgeInputs:
    """What a person gives for a judge, whichever kind it is; a kind takes what it needs."""

    weights: str = NONE
    registered: str = NONE
    colour: str = "#c08040"
    limit: float = 0.6
    clip: Any = None
    clip_vision: Any = None
    instruction: str = ""
    pairwise: bool = True

    def problems(self, kind: str) -> list[str]:
        """What a kind needs and has not been given, each with its remedy."""
        if kind not in KINDS:
            return [f"There is no kind {kind!r}: choose {', '.join(KINDS)}."]
        return [
            f"{kind} needs {name}: {_REMEDIES[name]}"
            for name in _NEEDS.get(kind, ())
            if getattr(self, name) in (None, NONE)
        ]

    def judge(self, kind: str) -> AnyJudge:
        """The judge of a kind for which nothing is missing.

        Raises:
            JudgeError: none can be made, with everything that is in the way.
        """
        return KINDS[kind](self)


_NEEDS = {
    "clip_similarity": ("clip", "clip_vision"),
    "reward_model": ("weights",),
    "aesthetic": ("weights", "clip_vision"),
    "vision_language": ("clip",),
    "registered": ("registered",),
}
_REMEDIES = {
    "clip": "connect a text model, from Load CLIP.",
    "clip_vision": "connect a vision model, from Load CLIP Vision.",
    "weights": "put its file or folder into models/judges, reload the page and choose it.",
    "registered": "choose a judge that another node pack brings along.",
}


def _weights(inputs: JudgeInputs) -> Path:
    path = judge_weights().get(inputs.weights)
    if path is None:
        raise JudgeError(
            f"There are no weights {inputs.weights!r} in models/judges any more. Reload the page "
            "and choose others."
        )
    return path


def _registered(inputs: JudgeInputs) -> AnyJudge:
    function = registered_judges().get(inputs.registered)
    if function is None:
        raise JudgeError(
            f"No node pack brings a judge {inputs.registered!r} any more. Install it again, or "
            "choose another one."
        )
    name = judge_name(inputs.registered, source_digest(function))
    return callable_judge(stopping(function), name, bool(getattr(function, "pairwise", False)))


KINDS: dict[str, Callable[[JudgeInputs], AnyJudge]] = {
    "sharpness": lambda _: Sharpness(),
    "contrast": lambda _: Contrast(),
    "colourfulness": lambda _: Colourfulness(),
    "brightness": lambda _: Brightness(),
    "target_colour": lambda given: TargetColour(given.colour),
    "saturation_penalty": lambda given: SaturationPenalty(given.limit),
    "clip_similarity": lambda given: ClipSimilarity(given.clip, given.clip_vision),
    "reward_model": lambda given: RewardJudge(_weights(given)),
    "aesthetic": lambda given: ClipVisionAesthetic(_weights(given), given.clip_vision),
    "vision_language": lambda given: VisionLanguageJudge(
        given.clip, given.pairwise, given.instruction
    ),
    "registered": _registered,
}
