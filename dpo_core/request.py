"""Requests of a page, whatever the web server: what is read of them, and how they are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MAX_BODY_BYTES = 512 * 1024

Answer = dict[str, Any]


class RequestRefused(Exception):
    """A request that is not answered: an HTTP `status`, one sentence, and all `problems`."""

    def __init__(self, status: int, error: str, problems: Sequence[str] = ()) -> None:
        super().__init__(error)
        self.status = status
        self.problems = tuple(problems)

    def answer(self) -> Answer:
        return {"error": str(self), "problems": list(self.problems)}


def read_body(data: bytes) -> Mapping[str, Any]:
    """The JSON object in a request's body. Raises RequestRefused."""
    if len(data) > MAX_BODY_BYTES:
        raise RequestRefused(413, f"The request is larger than {MAX_BODY_BYTES // 1024} KB.")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestRefused(400, "The request is not JSON.") from error
    if not isinstance(body, dict):
        raise RequestRefused(400, "The request is not a JSON object.")
    return body


def query_number(query: Mapping[str, str], name: str, usual: int, low: int, high: int) -> int:
    """A whole number of a query, `usual` if it is not there. Raises RequestRefused."""
    text = query.get(name, str(usual))
    digits = text.removeprefix("-")
    number = int(text) if digits.isascii() and digits.isdigit() and len(text) <= 16 else low - 1
    if not low <= number <= high:
        raise RequestRefused(
            400,
            "The request cannot be understood.",
            [f"`{name}` is {ascii(text)[:60]}, no number of {low} to {high}."],
        )
    return number


def within(root: Path, file: Path) -> bool:
    """True if the file is there, below the folder, and no link leads out of it."""
    try:
        return file.resolve(strict=True).is_relative_to(root.resolve()) and file.is_file()
    except (OSError, ValueError, RuntimeError):  # a NUL in the name, a loop of links
        return False
