"""A judge that is a Python callable of somebody else's: whatever it does wrong is said by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .judge import AnyJudge, JudgeError, Pixels

PAIRWISE = "pairwise"
"""A callable that has this attribute, and has it true, compares two images."""


def callable_judge(
    function: Callable[..., Any], name: str, pairwise: bool | None = None
) -> AnyJudge:
    """Makes a judge of a callable.

    Args:
        function: ``function(images, prompt)`` gives a number for each of a list of images, larger
            is better; or, pairwise, ``function(first, second, prompt)`` gives how sure it is that
            the first is better, 0 to 1. Images are (height, width, 3), uint8, its own copies.
        name: for people and to tell judges apart.
        pairwise: which of the two; None: the callable's attribute ``pairwise``, false without one.

    Raises:
        JudgeError: it cannot be called.
    """
    if not callable(function):
        raise JudgeError(
            f"The judge {name} is no function, but a {type(function).__name__}. Register what can "
            "be called with (images, prompt)."
        )
    if pairwise is None:
        pairwise = bool(getattr(function, PAIRWISE, False))
    return CallablePairwiseJudge(name, function) if pairwise else CallableJudge(name, function)


@dataclass(frozen=True)
class CallableJudge:
    """Scores images with a callable; see :func:`callable_judge`."""

    name: str
    function: Callable[[list[Pixels], str], Any]

    def score(self, images: Sequence[Pixels], prompt: str) -> list[float]:
        """As of a judge.

        Raises:
            JudgeError: the callable raised an exception, or did not give a number for each image.
        """
        said = _called(self.name, self.function, [image.copy() for image in images], prompt)
        return self._numbers(said, len(images))

    def _numbers(self, said: Any, count: int) -> list[float]:
        wanted = f"It must give a list of {count} numbers, one for each image."
        given = isinstance(said, Iterable) and not isinstance(said, (str, bytes, Mapping))
        try:
            if not given:
                raise TypeError(type(said).__name__)
            numbers = [_number(one) for one in _called(self.name, list, said)]
        except TypeError as error:
            raise JudgeError(
                f"The judge {self.name} gave no list of numbers, but {_shown(said)}. {wanted}"
            ) from error
        if len(numbers) != count:
            raise JudgeError(f"The judge {self.name} gave {len(numbers)} scores. {wanted}")
        for place, number in enumerate(numbers, 1):
            if not abs(number) < float("inf"):
                raise JudgeError(
                    f"The judge {self.name} gave image {place} the score {number}. {wanted}"
                )
        return numbers


@dataclass(frozen=True)
class CallablePairwiseJudge:
    """Compares images with a callable; see :func:`callable_judge`."""

    name: str
    function: Callable[[Pixels, Pixels, str], Any]

    def prefer(self, first: Pixels, second: Pixels, prompt: str) -> float:
        """As of a pairwise judge.

        Raises:
            JudgeError: the callable raised an exception, or did not give a number from 0 to 1.
        """
        said = _called(self.name, self.function, first.copy(), second.copy(), prompt)
        try:
            answer = _number(said)
        except TypeError:
            answer = float("nan")
        if not 0 <= answer <= 1:
            raise JudgeError(
                f"The judge {self.name} answered {_shown(said)}. It must give a number from 0 "
                "(certainly the second image) to 1 (certainly the first), .5 for a tie."
            )
        return answer


def _called(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except JudgeError:
        raise
    except Exception as error:  # what it does is its own; a Stop is no Exception
        raise JudgeError(
            f"The judge {name} failed with {type(error).__name__}: {error}. It comes from another "
            "node pack: tell its author, or take the judge out."
        ) from error


def _number(value: Any) -> float:
    """Raises TypeError for what is none. A text is none, whatever it spells."""
    if not hasattr(type(value), "__float__") and not hasattr(type(value), "__index__"):
        raise TypeError(type(value).__name__)
    try:
        return float(value)
    except (ValueError, RuntimeError, OverflowError) as error:  # an array or tensor of several
        raise TypeError(type(value).__name__) from error


def _shown(value: Any) -> str:
    text = " ".join(ascii(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
