"""SwarmUI's parameters: a JSON object with `sui_image_params`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .image_metadata import ImageMetadata
from .json_fields import object_in, text_in, whole_number_in

_NO_TEXT = re.compile(r"<(?:lora|comment):[^<>]*>", re.IGNORECASE)
_SEGMENT = re.compile(r"<(?:segment)\b", re.IGNORECASE)
# Texts for a part of the picture, a part of the sampling, or chosen anew in each image.
_SEVERAL_TEXTS = re.compile(
    r"<(?:alt|alternate|base|break|extend|fromto|object|pixeldecoder|preset|random|refiner|region"
    r"|video|videoswap|wc|wildcard)\b",
    re.IGNORECASE,
)


def metadata_of_swarm(fields: Mapping[str, Any]) -> ImageMetadata | None:
    """What such an object tells, None if it is none."""
    if not isinstance(fields.get("sui_image_params"), dict):
        return None
    settings = object_in(fields, "sui_image_params")
    texts = {field: _text(settings, name) for field, name in _TEXTS.items()}
    return ImageMetadata(
        tool="SwarmUI",
        prompt=texts["prompt"],
        negative=texts["negative"],
        seed=whole_number_in(settings, "seed"),
        width=whole_number_in(settings, "width"),
        height=whole_number_in(settings, "height"),
        model=text_in(settings, "model"),
        ambiguous=tuple(
            field
            for field, name in _TEXTS.items()
            if texts[field] is None and text_in(settings, name)
        ),
    )


_TEXTS = {"prompt": "prompt", "negative": "negativeprompt"}


def _text(settings: Mapping[str, Any], name: str) -> str | None:
    """The text of the whole picture; segments are mended afterwards, with texts of their own."""
    text = text_in(settings, name)
    if text is None or _SEVERAL_TEXTS.search(text):
        return None
    return _NO_TEXT.sub("", _SEGMENT.split(text, maxsplit=1)[0])
