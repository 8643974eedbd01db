"""The one form in which prompts are kept and compared."""

from __future__ import annotations

MAX_PROMPT_CHARS = 64 * 1024


def tidy_prompt(text: str) -> str:
    """One line of text: lines trimmed and joined by a space, blank lines dropped.

    Text encoders read a line break as a space, so nothing is lost. Characters that UTF-8 cannot
    hold become question marks.
    """
    text = text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
    return " ".join(line.strip() for line in text.splitlines() if line.strip())
