"""What judges that are made of models are called."""

from __future__ import annotations

import secrets
from hashlib import blake2b


def judge_name(kind: str, *parts: str | None) -> str:
    """A kind and the digest of what decides its scores, so that equal names mean equal scores.

    Args:
        parts: contents and settings; None for one that cannot be told, which is like no other.
    """
    told = [secrets.token_hex(8) if part is None else part for part in parts]
    digest = blake2b("\n".join(told).encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{kind} ({digest})"
