"""Pictures of the same prompts as training went on, drawn as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from PIL import Image, ImageDraw, ImageFont

SIDE = 224
"""The longest side a picture is drawn with."""
MOST_COLUMNS = 12
GAP, HEAD, LINE = 6, 26, 20
PAPER, INK, FAINT = (250, 250, 250), (40, 40, 40), (110, 110, 110)

_Item = TypeVar("_Item")


def draw_strip(
    columns: Sequence[tuple[str, Sequence[Image.Image]]], prompts: Sequence[str]
) -> Image.Image:
    """A column for each moment of training, a row for each prompt, which stands above it.

    Args:
        columns: what stands above a column, and its pictures, one for each prompt.
        prompts: a line each.
    """
    pictures = [[_fitted(picture) for picture in column] for _, column in columns]
    across = max(picture.width for column in pictures for picture in column) + GAP
    down = LINE + max(picture.height for column in pictures for picture in column) + GAP
    size = (GAP + len(columns) * across, HEAD + len(prompts) * down)
    strip = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(strip)
    for i, (heading, _) in enumerate(columns):
        pen.text((GAP + i * across, 6), heading, INK, ImageFont.load_default(14))
        for k, picture in enumerate(pictures[i]):
            strip.paste(picture, (GAP + i * across, HEAD + k * down + LINE))
    for k, prompt in enumerate(prompts):
        line = _shortened(_drawable(prompt, k), size[0] - 2 * GAP, pen)
        pen.text((GAP, HEAD + k * down + 2), line, FAINT, ImageFont.load_default(12))
    return strip


def few_of(items: Sequence[_Item], most: int) -> list[_Item]:
    """At most so many of them, evenly spaced, the first and the last among them.

    Args:
        most: 2 or more.
    """
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def thumbnail(picture: Image.Image) -> Image.Image:
    """A copy as large as it is drawn in a strip."""
    return _fitted(picture)


def _fitted(picture: Image.Image) -> Image.Image:
    scale = SIDE / max(picture.size)
    if scale == 1:
        return picture
    size = [max(1, round(side * scale)) for side in picture.size]
    how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return picture.convert("RGB").resize((size[0], size[1]), how)


def _drawable(prompt: str, number: int) -> str:
    """The prompt, or its number where the font has no letters for it."""
    try:
        prompt.encode("latin-1")
    except UnicodeEncodeError:
        return f"prompt {number + 1}"
    return " ".join(prompt.split()) or "(no prompt)"


def _shortened(text: str, width: int, pen: ImageDraw.ImageDraw) -> str:
    font, shown = ImageFont.load_default(12), text
    while len(text) > 1 and pen.textlength(shown, font) > width:
        text = text[: max(1, len(text) * 9 // 10)]
        shown = text.rstrip() + " ..."
    return shown
