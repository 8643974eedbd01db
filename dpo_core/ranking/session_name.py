"""Names of preference sessions: safe as a folder's name on every system."""

from __future__ import annotations

import re
import unicodedata

MAX_NAME_CHARS = 80
MAX_NAME_BYTES = 200
"""In UTF-8; file systems take 255, and temporary names need some room."""

_FORBIDDEN = frozenset('/\\:*?"<>|')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


class SessionNameError(ValueError):
    """A name no session can have. The message says what is wrong and what to do."""


def session_name(text: str) -> str:
    """The name as it is stored: trimmed, its accents in one form. Raises SessionNameError."""
    if not isinstance(text, str):
        raise SessionNameError("The session's name must be text.")
    name = unicodedata.normalize("NFC", text.strip())
    fault = _fault(name)
    if fault is not None:
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
        raise SessionNameError(
            f"The session name {shown[:MAX_NAME_CHARS]!r} {fault}. Use letters, digits, spaces, "
            "dashes and underscores."
        )
    return name


def same_session(one: str, other: str) -> bool:
    """True if some file system would take both names for one folder."""
    return _folded(one) == _folded(other)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())


def _fault(name: str) -> str | None:
    if not name:
        return "is empty"
    if not name.isprintable():  # also lone surrogates and characters that reorder text
        return "holds characters that cannot be shown"
    if len(name) > MAX_NAME_CHARS or len(name.encode()) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_CHARS} characters or {MAX_NAME_BYTES} bytes"
    found = sorted(_FORBIDDEN.intersection(name))
    if found:
        return f"holds {' '.join(found)}"
    if name.startswith(".") or name.endswith("."):
        return "begins or ends with a dot"
    if _RESERVED.fullmatch(name):
        return "is reserved by Windows"
    return None
