"""NovelAI: a description and, in the comment, a JSON object of settings.

What it hides in the lowest bits of the pixels is not read: that needs the whole picture decoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .bounded_json import read_object
from .image_metadata import ImageMetadata
from .json_fields import object_in, text_in, whole_number_in


def metadata_of_novelai(texts: Mapping[str, str]) -> ImageMetadata | None:
    """What the file's texts tell, None if NovelAI did not write them."""
    fields = read_object(texts.get("Comment"))
    if texts.get("Software") == "NovelAI":
        return _of_settings(fields, texts)
    # A JPEG or WebP holds all of them in one object.
    outer = read_object(texts.get("exif:UserComment"))
    if text_in(outer, "Software") == "NovelAI":
        return _of_settings(read_object(text_in(outer, "Comment")), outer)
    return None


def _of_settings(fields: Mapping[str, Any], texts: Mapping[str, Any]) -> ImageMetadata:
    prompt = _one_text(fields, "v4_prompt", text_in(fields, "prompt"))
    description = text_in(texts, "Description")
    if "prompt" not in fields and "v4_prompt" not in fields:
        prompt = _settled(description)
    negative = _one_text(fields, "v4_negative_prompt", text_in(fields, "uc"))
    return ImageMetadata(
        tool="NovelAI",
        prompt=prompt,
        negative=negative,
        seed=whole_number_in(fields, "seed"),
        width=whole_number_in(fields, "width"),
        height=whole_number_in(fields, "height"),
        model=text_in(texts, "Source"),
        ambiguous=tuple(
            name
            for name, text, known in (
                ("prompt", prompt, {"prompt", "v4_prompt"} & fields.keys() or description),
                ("negative", negative, {"uc", "v4_negative_prompt"} & fields.keys()),
            )
            if text is None and known
        ),
    )


def _one_text(fields: Mapping[str, Any], name: str, text: str | None) -> str | None:
    """The text of the whole picture; None if characters in it have texts of their own."""
    caption = object_in(object_in(fields, name), "caption")
    characters = caption.get("char_captions")
    for one in characters if isinstance(characters, list) else []:
        if isinstance(one, dict) and text_in(one, "char_caption"):
            return None
    base = text_in(caption, "base_caption")
    return _settled(text if base is None else base)


def _settled(text: str | None) -> str | None:
    # ||this|or this|| is chosen anew for each image.
    return None if text is None or "||" in text else text
