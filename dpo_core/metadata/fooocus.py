"""Fooocus in both its ways: a JSON object, and A1111's text with the prompt as it was typed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .a1111 import metadata_of_parts, split_infotext
from .image_metadata import ImageMetadata
from .json_fields import text_in, whole_number_in

_RESOLUTION = re.compile(r"\(?\s*(\d{1,6})\s*[,x×*]\s*(\d{1,6})\s*\)?")  # noqa: RUF001


def metadata_of_fooocus(fields: Mapping[str, Any]) -> ImageMetadata | None:
    """What Fooocus' JSON object tells, None if it is none."""
    if text_in(fields, "prompt") is None or "base_model" not in fields:
        return None
    size = _RESOLUTION.fullmatch(str(fields.get("resolution", ""))[:40])
    return ImageMetadata(
        tool="Fooocus",
        prompt=text_in(fields, "prompt"),
        negative=text_in(fields, "negative_prompt"),
        seed=whole_number_in(fields, "seed"),
        width=int(size[1]) if size else whole_number_in(fields, "width"),
        height=int(size[2]) if size else whole_number_in(fields, "height"),
        model=text_in(fields, "base_model"),
    )


def metadata_of_fooocus_text(text: str) -> ImageMetadata | None:
    """What Fooocus' text in A1111's form tells, None if it is none.

    The prompt above the settings has the words of styles and of the expansion in it; the one that
    was typed stands among the settings.
    """
    parts = split_infotext(text)
    if parts is None or not parts.settings.get("Version", "").startswith("Fooocus"):
        return None
    settings = parts.settings
    return replace(
        metadata_of_parts(
            replace(
                parts,
                prompt=settings.get("Raw prompt", parts.prompt),
                negative=settings.get("Raw negative prompt", parts.negative),
            )
        ),
        tool="Fooocus",
    )
