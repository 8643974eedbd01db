"""The text of A1111's web interface, which Forge, reForge and many others write, too.

Prompt, "Negative prompt: ...", "Steps: ..., Seed: ...", each on lines of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from .image_metadata import ImageMetadata

MAX_SETTINGS = 500
MAX_SETTINGS_CHARS = 200_000
_NEGATIVE = re.compile(r"\s*Negative prompt:", re.IGNORECASE)
_STEPS = re.compile(r"\s*Steps: *\d")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_NETWORK = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE)
_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")
_WHOLE = re.compile(r"\d{1,20}")

# What else was conditioned on, if it was set: another text for the second pass, or texts for parts
# of the picture. The text of a face detailer counts for the face alone and takes nothing away.
_OTHER_PROMPT = ("Hires prompt", "RP Active", "forge_couple")


@dataclass(frozen=True)
class Infotext:
    """The three parts of such a text; None where a part cannot be told from the others."""

    prompt: str | None
    negative: str | None
    settings: Mapping[str, str]


def metadata_of_infotext(text: str) -> ImageMetadata | None:
    """What such a text tells, None if it is none."""
    parts = split_infotext(text)
    return None if parts is None else metadata_of_parts(parts)


def split_infotext(text: str) -> Infotext | None:
    """The parts of such a text, None if it is none."""
    lines = text.splitlines()
    negatives = [i for i, line in enumerate(lines) if _NEGATIVE.match(line)]
    steps = [i for i, line in enumerate(lines) if _STEPS.match(line)][-1:]
    if not negatives and not steps:
        return None
    end = steps[0] if steps else len(lines)
    settings = _settings(lines[end]) if steps else {}
    first = min([*negatives, end])
    prompt = "\n".join(lines[:first])
    # A tool that dropped line breaks left the negative prompt in the middle of a line.
    if "negative prompt:" in prompt.lower():
        return Infotext(None, None, settings)
    negative = "\n".join(lines[first:end])
    negative = negative.partition(":")[2] if first < end else ""
    several = len([i for i in negatives if i < end]) > 1
    return Infotext(_without_networks(prompt), None if several else _without_networks(negative),
                    settings)  # fmt: skip


def metadata_of_parts(parts: Infotext) -> ImageMetadata:
    """What the parts tell together."""
    settings = parts.settings
    prompt, negative = parts.prompt, parts.negative
    if any(settings.get(name, "False") not in ("False", prompt) for name in _OTHER_PROMPT):
        prompt = None
    if settings.get("Hires negative prompt", negative) != negative:
        negative = None
    size = _SIZE.fullmatch(settings.get("Size", ""))
    seed = settings.get("Seed", "")
    return ImageMetadata(
        tool=_tool(settings),
        prompt=prompt,
        negative=negative,
        seed=int(seed) if _WHOLE.fullmatch(seed) else None,
        width=int(size[1]) if size else None,
        height=int(size[2]) if size else None,
        model=settings.get("Model") or None,
        ambiguous=tuple(
            name for name, text in (("prompt", prompt), ("negative", negative)) if text is None
        ),
    )


def _tool(settings: Mapping[str, str]) -> str:
    version = settings.get("Version", "")
    if settings.get("App"):
        return settings["App"][:40]
    if version.startswith("ComfyUI"):
        return "ComfyUI"
    return "Forge" if re.match(r"f\d|neo", version) else "A1111"


def _without_networks(text: str) -> str:
    # They load a LoRA and are taken out before the text is encoded.
    return _NETWORK.sub("", text)


def _settings(line: str) -> dict[str, str]:
    """`Name: value, Name: "value, with a comma", ...`"""
    line = line[:MAX_SETTINGS_CHARS]
    found: dict[str, str] = {}
    at = 0
    for _ in range(MAX_SETTINGS):
        colon = line.find(":", at)
        if colon < 0:
            break
        name = line[at:colon].rpartition(",")[2].strip()
        start = colon + 1
        while line[start : start + 1] == " ":
            start += 1
        quoted = _QUOTED.match(line, start)
        after = line.find(",", quoted.end() if quoted else start)
        at = len(line) if after < 0 else after + 1
        value = line[start:at].rstrip(", ")
        found.setdefault(name, _unquoted(quoted[0]) if quoted else value)
    return found


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return text
