"""InvokeAI: `invokeai_metadata` since version 3, `sd-metadata` before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .bounded_json import read_object
from .image_metadata import ImageMetadata
from .json_fields import object_in, text_in, whole_number_in

_NEGATIVE_AT_END = re.compile(r"([^\[\]]*)\[([^\[\]]*)\]\s*")


def metadata_of_invokeai(texts: Mapping[str, str]) -> ImageMetadata | None:
    """What the file's texts tell, None if InvokeAI did not write them."""
    if fields := read_object(texts.get("invokeai_metadata")):
        return _of_metadata(fields)
    if fields := read_object(texts.get("sd-metadata")):
        return _of_old_metadata(fields)
    return None


def _of_metadata(fields: Mapping[str, Any]) -> ImageMetadata:
    model = object_in(fields, "model")
    prompt, negative = (
        _one_text(fields, f"{side}_prompt", f"{side}_style_prompt")
        for side in ("positive", "negative")
    )
    return ImageMetadata(
        tool="InvokeAI",
        prompt=prompt,
        negative=negative,
        seed=whole_number_in(fields, "seed"),
        width=whole_number_in(fields, "width"),
        height=whole_number_in(fields, "height"),
        model=text_in(model, "name") or text_in(model, "model_name"),
        ambiguous=tuple(
            name
            for name, side, text in (
                ("prompt", "positive", prompt), ("negative", "negative", negative)
            )
            if text is None and text_in(fields, f"{side}_prompt") is not None
        ),
    )  # fmt: skip


def _one_text(fields: Mapping[str, Any], name: str, style_name: str) -> str | None:
    """The prompt, unless SDXL's second encoder or a region was given another text."""
    text, style = text_in(fields, name), text_in(fields, style_name)
    regional = f"{name.partition('_')[0]}Prompt"
    regions = object_in(fields, "canvas_v2_metadata").get("regionalGuidance")
    for region in regions if isinstance(regions, list) else []:
        if _is_object(region) and region.get("isEnabled", True) and text_in(region, regional):
            return None
    return text if (style or text) == text else None


def _of_old_metadata(fields: Mapping[str, Any]) -> ImageMetadata:
    image = object_in(fields, "image")
    prompt, negative = _split(image.get("prompt"))
    return ImageMetadata(
        tool="InvokeAI",
        prompt=prompt,
        negative=negative,
        seed=whole_number_in(image, "seed"),
        width=whole_number_in(image, "width"),
        height=whole_number_in(image, "height"),
        model=text_in(fields, "model_weights"),
        ambiguous=("prompt", "negative") if prompt is None else (),
    )


def _split(prompt: Any) -> tuple[str | None, str | None]:
    """Positive and negative text of one string; the negative stands in square brackets."""
    if isinstance(prompt, list):
        prompt = prompt[0].get("prompt") if len(prompt) == 1 and _is_object(prompt[0]) else None
    if not isinstance(prompt, str):
        return None, None
    if "[" not in prompt and "]" not in prompt:
        return prompt, ""
    found = _NEGATIVE_AT_END.fullmatch(prompt)
    return (found[1], found[2]) if found else (None, None)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)
