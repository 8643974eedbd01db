"""Fields of a JSON object as the types they should have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_WHOLE = re.compile(r"\d{1,20}")


def text_in(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) else None


def whole_number_in(fields: Mapping[str, Any], name: str) -> int | None:
    """A number that counts something, also where it was written as a text."""
    value = fields.get(name)
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value)
    return value if type(value) is int and 0 <= value < 10**20 else None


def object_in(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}
