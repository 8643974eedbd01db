"""A language model of ComfyUI that sees, asked about images in words."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy.sd1_clip import SDClipModel
from torch import Tensor

from ....dpo_core.judging.judge import JudgeError, Pixels
from ....dpo_core.judging.matches import scores_of_matches
from ....dpo_core.judging.text_answer import (
    PAIRWISE_INSTRUCTION,
    POINTWISE_INSTRUCTION,
    TIE,
    filled,
    points,
    preference,
)
from ..encoder_identity import clip_identity
from .judge_name import judge_name

MAX_TOKENS = 64
"""Of an answer: room for a sentence and what was asked for."""
EXCERPT = 160
"""Characters of an answer that a person is shown."""
SIDE_BY_SIDE = "The picture shows both images: the first on the left, the second on the right.\n\n"
_GAP = 16
"""Of the taller image's height, this part lies between two images in one picture."""
_LOAD = (
    "Load a language model that sees and writes, such as Qwen3-VL, Qwen3.5 or Gemma 4, by Load "
    "CLIP; the type stable_diffusion is right for it."
)


class VisionLanguageJudge:
    """A judge: asks a language model for points from 0 to 10, or which of two images is better.

    Points are scores as they are. Comparisons become scores in log odds, as of every judge that
    compares; see :func:`~.dpo_core.judging.matches.scores_of_matches`. Its answers are those it
    finds most likely, so that the same question always has the same one.

    Args:
        clip: a CLIP that can see and write.
        pairwise: ask about two images at a time.
        instruction: what to ask, with ``{prompt}`` where the prompt belongs; empty for the usual.

    Raises:
        JudgeError: the model cannot see or write.
    """

    def __init__(self, clip: Any, pairwise: bool, instruction: str = "") -> None:
        if problem := language_problem(clip):
            raise JudgeError(problem)
        self._clip, self._pairwise = clip, pairwise
        usual = PAIRWISE_INSTRUCTION if pairwise else POINTWISE_INSTRUCTION
        self._instruction = instruction.strip() or usual
        kind = f"vision_language {'pairwise' if pairwise else 'points'}"
        self.name = judge_name(kind, clip_identity(clip), self._instruction)

    def score(self, images: Sequence[Pixels], prompt: str) -> Sequence[float]:
        """A number for each image. ComfyUI's layers obey Stop, even within an answer.

        An answer that says nothing clear counts as a tie, or as the mean of the other images'
        points.

        Raises:
            JudgeError: no answer says anything clear.
        """
        interview = _Interview(self.name, self._clip, filled(self._instruction, prompt))
        with torch.inference_mode():
            if self._pairwise:
                scores: Sequence[float] = scores_of_matches(interview, images, prompt)
            else:
                scores = _with_means([interview.points(image) for image in images])
        interview.tell_unclear()
        return scores


class _Interview:
    """What a model is asked about the images of one prompt, and how often its answer is clear.

    It is a pairwise judge as the matches see it.
    """

    def __init__(self, name: str, clip: Any, question: str) -> None:
        self.name = name
        self._clip, self._question = clip, question
        self._asked = 0
        self._unclear: list[str] = []

    def points(self, image: Pixels) -> float | None:
        return self._read(points, _tokens(self._clip, self._question, _tensor(image)))

    def prefer(self, first: Pixels, second: Pixels, prompt: str) -> float:
        tokens = _tokens_of_two(self._clip, self._question, _tensor(first), _tensor(second))
        said = self._read(preference, tokens)
        return TIE if said is None else said

    def _read(self, reading: Callable[[str], float | None], tokens: Any) -> float | None:
        answer = _answer(self._clip, tokens)
        said = reading(answer)
        self._asked += 1
        if said is None:
            self._unclear.append(answer)
        return said

    def tell_unclear(self) -> None:
        """Raises JudgeError if every answer was unclear; notes in the console if some were."""
        if not self._unclear:
            return
        excerpt = ascii(" ".join(self._unclear[0].split())[:EXCERPT])
        if len(self._unclear) == self._asked:
            raise JudgeError(
                f"The judge {self.name} gave no answer that can be read. It said: {excerpt}. Ask "
                "in the instruction for one word or one number alone, or use another model."
            )
        logging.warning(
            "DPO: %d of %d answers of the judge %s could not be read and count as ties, such as %s",
            len(self._unclear), self._asked, self.name, excerpt,
        )


def language_problem(clip: Any) -> str:
    """Why a CLIP cannot be asked about images, with what to do; empty if it can be."""
    models = [
        one.transformer for one in clip.cond_stage_model.modules() if isinstance(one, SDClipModel)
    ]
    if not any(hasattr(one, "generate") for one in models):
        return f"clip cannot write text. {_LOAD}"
    if not any(hasattr(one, "preprocess_embed") for one in models) or not _sees(clip, 1):
        return f"clip can write text, but sees no images. {_LOAD}"
    return ""


def _sees(clip: Any, count: int) -> bool:
    """Whether so many images of a batch arrive among the tokens."""
    try:
        return _pictures(_tokens(clip, "", torch.zeros(count, 64, 64, 3))) == count
    except (AttributeError, TypeError):  # tokenizers that were not made for images
        return False


def _with_means(found: Sequence[float | None]) -> list[float]:
    """Points, with the mean of all others where there are none."""
    known = [one for one in found if one is not None]
    mean = sum(known) / len(known) if known else 0.0
    return [mean if one is None else one for one in found]


def _tokens_of_two(clip: Any, question: str, first: Tensor, second: Tensor) -> Any:
    """A question about two images: as two where the model takes two, else in one picture."""
    if first.shape == second.shape and _sees(clip, 2):
        return _tokens(clip, question, torch.cat([first, second]))
    return _tokens(clip, SIDE_BY_SIDE + question, side_by_side(first, second))


def side_by_side(first: Tensor, second: Tensor) -> Tensor:
    """Two images, each (1, height, width, 3), in one with white between and around them."""
    height = max(first.shape[1], second.shape[1])
    gap = max(8, height // _GAP)
    picture = torch.ones(1, height, first.shape[2] + gap + second.shape[2], 3)
    for image, left in ((first, 0), (second, first.shape[2] + gap)):
        top = (height - image.shape[1]) // 2
        picture[:, top : top + image.shape[1], left : left + image.shape[2]] = image
    return picture


def _tokens(clip: Any, question: str, images: Tensor) -> Any:
    return clip.tokenize(question, image=images, skip_template=False, min_length=1, thinking=False)


def _pictures(tokens: Any) -> int:
    rows = [row for part in tokens.values() for row in part] if isinstance(tokens, dict) else tokens
    heads = [token[0] for row in rows for token in row]
    return sum(isinstance(head, dict) and head.get("type") == "image" for head in heads)


def _answer(clip: Any, tokens: Any) -> str:
    ids = clip.generate(tokens, do_sample=False, max_length=MAX_TOKENS)
    return str(clip.decode(ids))


def _tensor(image: Pixels) -> Tensor:
    """(1, height, width, 3), 0 to 1, as ComfyUI's IMAGE."""
    return torch.from_numpy(image).float().div(255)[None]
