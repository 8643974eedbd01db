"""What a language model's answer says: which of two images it names, or a number of points.

A model talks: it thinks aloud, repeats the question, explains itself. What it says outright counts
first (``Answer: B``, a last line of one word), then a sentence that calls one image better. Where
two readings are left, or none, it has not told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

PAIRWISE_INSTRUCTION = """\
You see two images, the first and the second. Both were made for this prompt:

{prompt}

Which of them follows the prompt better? If both follow it equally well, prefer the one that looks \
better and has fewer mistakes.
Answer with one word: first, second, or tie."""

POINTWISE_INSTRUCTION = """\
This image was made for this prompt:

{prompt}

How well does it follow the prompt, and how good does it look? Give points from 0 (not at all) to \
10 (perfectly). Answer with the number alone."""

FIRST, TIE, SECOND = 1.0, 0.5, 0.0
MOST_POINTS = 10

_PROMPT = "{prompt}"

_THINK = r"(?:think|thinking|thought|reasoning)"
_THOUGHT = re.compile(rf"<{_THINK}>.*?</{_THINK}>", re.DOTALL | re.IGNORECASE)
_END_OF_THOUGHT = re.compile(rf"</{_THINK}>", re.IGNORECASE)
_UNFINISHED = re.compile(rf"<{_THINK}>.*", re.DOTALL | re.IGNORECASE)
_MARKS = re.compile(r"[*_`#>\"'{}\[\]()|~$\\\u201c\u201d\u201e\u2018\u2019«»]|boxed\b")

_APOSTROPHE = re.compile(r"(?<=\w)['\u2019](?=\w)")

_FIRST = r"first|1st|left"
_SECOND = r"second|2nd|right"
_TIED = r"tied?|draw|equal(?:ly\s+good)?|both|neither|same"
_NOUN = r"(?:image|picture|photo|option|candidate|choice|answer|response)"
# A letter or number names an image only beside such a noun, or where an answer is due.
_DUE = (
    rf"(?:the\s+)?(?:{_NOUN}\s+)?(?P<side>{_FIRST}|{_SECOND}|one|two|[ab12]|{_TIED})\b"
    rf"(?:\s+{_NOUN})?(?:\s+one)?"
)
_ALONE = re.compile(rf"(?:it\s+is\s+|it's\s+)?(?:an?\s+)?{_DUE}\s*[.!]*")
_MARKED = re.compile(
    r"\b(?:answer|verdict|choice|winner|preference|decision|judge?ment|better)\b\s*"
    rf"(?:{_NOUN}\s*)?(?:is|:|=|-)+\s*:?\s*(?:an?\s+)?{_DUE}"
    r"(?=\s*(?:[.,;!\n]|$|because\b|is\b|as\b|since\b))"
)
_MENTION = re.compile(
    rf"{_NOUN}\s+(?:no\.?\s*|number\s+)?(?P<mark>[ab12]|one|two)\b"
    rf"|\b(?P<word>{_FIRST}|{_SECOND})\b(?!\s+(?:of all|place|glance|look|thing|step)\b)"
)
_BETTER = re.compile(
    r"\b(?:better|best|wins?|preferred|superior|stronger|closer"
    r"|more\s+(?:faithful(?:ly)?|accurate(?:ly)?|closely))\b"
)
_PREFER = re.compile(r"\b(?:i|i'd|i\s+would)\s+(?:prefer|choose|pick|select|go\s+with)\b")
_DENIED = re.compile(
    r"\b(?:not|no|cannot|neither|if|whether|which|hard|unclear|worse)\b|n't\b"
)
_SENTENCE = re.compile(r"[^.!?;\n]+")

_NUMBER = r"(?P<number>\d+(?:[.,]\d+)?)"
_OUT_OF = r"\s*(?:/|out\s+of)\s*10(?:[.,]0+)?\b(?!\s*/)"
_WHOLE = re.compile(rf"{_NUMBER}(?:{_OUT_OF})?\s*(?:points?)?\s*[.!]*")
_OF_TEN = re.compile(rf"(?<![\d.,/-]){_NUMBER}{_OUT_OF}")
_SCORED = re.compile(
    r"\b(?:score|rating|rate|points|grade|mark|answer)\b\s*"
    r"(?:(?:it|this|is|of|a|an|at|as)\b\s*|[:=]\s*|-\s+)*"
    rf"{_NUMBER}(?:{_OUT_OF})?(?!\s*[/\d])(?![.,]\d)"
)
_LEADING = re.compile(rf"{_NUMBER}\s*(?:[:;,\n]|[.](?!\d)|\s[-\u2013\u2014])")


def filled(instruction: str, prompt: str) -> str:
    """An instruction with the prompt in the place of ``{prompt}``; braces mean nothing else."""
    return instruction.replace(_PROMPT, prompt)


def preference(answer: str) -> float | None:
    """Which of two images an answer calls better.

    Returns:
        FIRST, SECOND, TIE, or None if it cannot be told. "A", "1" and "left" are the first.
    """
    lines = _lines(answer)
    text = "\n".join(lines)
    if marked := list(_MARKED.finditer(text)):
        return _side(marked[-1]["side"])
    for line in (*lines[-1:], *lines[:1]):
        if alone := _ALONE.fullmatch(line):
            return _side(alone["side"])
    called = (_called_better(sentence[0]) for sentence in _SENTENCE.finditer(text))
    return _only(side for side in called if side is not None)


def points(answer: str) -> float | None:
    """How many points an answer gives, 0 to MOST_POINTS; None if it cannot be told."""
    lines = _lines(answer)
    text = "\n".join(lines)
    for pattern in (_SCORED, _OF_TEN):
        if found := list(pattern.finditer(text)):
            return _points(found[-1])
    for line in (*lines[-1:], *lines[:1]):
        if whole := _WHOLE.fullmatch(line):
            return _points(whole)
    leading = _LEADING.match(text)
    return _points(leading) if leading else None


def _lines(answer: str) -> list[str]:
    """Lower case, without thoughts, markdown, quotation marks and empty lines."""
    text = _THOUGHT.sub("\n", answer)
    # A chat template may have opened the thought; a limit on length may have cut it off.
    text = _UNFINISHED.sub("", _END_OF_THOUGHT.split(text)[-1])
    text = _APOSTROPHE.sub("\0", text)  # which is no quotation mark
    text = _MARKS.sub(" ", text).replace("\0", "'").lower()
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def _side(word: str) -> float:
    if re.fullmatch(rf"{_FIRST}|one|[a1]", word):
        return FIRST
    return SECOND if re.fullmatch(rf"{_SECOND}|two|[b2]", word) else TIE


def _called_better(sentence: str) -> float | None:
    """Which image one sentence calls better, if it names one and denies nothing."""
    if _DENIED.search(sentence):
        return None
    if chosen := _PREFER.search(sentence):
        found = _MENTION.search(sentence, chosen.end())
        return None if found is None else _side(found["mark"] or found["word"])
    if (better := _BETTER.search(sentence)) is None:
        return None
    before = _MENTION.finditer(sentence, 0, better.start())
    return _only(_side(one["mark"] or one["word"]) for one in before)


def _only(sides: Iterable[float]) -> float | None:
    """The one that all are, if there is one."""
    found = set(sides)
    return found.pop() if len(found) == 1 else None


def _points(found: re.Match[str]) -> float | None:
    number = float(found["number"].replace(",", "."))
    return number if number <= MOST_POINTS else None
