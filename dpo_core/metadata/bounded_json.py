"""JSON that a stranger wrote, read without letting it grow."""

from __future__ import annotations

import json
from typing import Any

MAX_JSON_CHARS = 4_000_000
MAX_CONTAINERS = 200_000
"""Objects and lists: the largest workflows have a tenth of them."""
MAX_ITEMS = 600_000


def read_json(text: str) -> Any:
    """The value of a JSON text; None if it is none, or larger or deeper than any real one."""
    if len(text) > MAX_JSON_CHARS or text.count("{") + text.count("[") > MAX_CONTAINERS:
        return None
    if text.count(",") > MAX_ITEMS:
        return None
    try:
        return json.loads(text.rstrip("\0"))
    except (ValueError, RecursionError):
        return None


def read_object(text: str | None) -> dict[str, Any]:
    """The object of a JSON text; empty if it is none."""
    if text is None or not text.lstrip().startswith("{"):
        return {}
    value = read_json(text)
    return value if isinstance(value, dict) else {}
