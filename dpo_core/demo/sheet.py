"""Pictures of base and LoRA side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .network import to_pictures

SCALE = 2
GAP, HEAD = 6, 34
PAPER, INK = (250, 250, 250), (40, 40, 40)


def contact_sheet(
    before: Tensor, after: Tensor, columns: int, labels: Sequence[str]
) -> Image.Image:
    """Rows of pictures from the base, each above the LoRA's from the same prompt and seed.

    Args:
        before: (B, 3, 64, 64).
        after: (B, 3, 64, 64).
        columns: pictures in a row.
        labels: what stands to the left of a row of the base's, and of the LoRA's.
    """
    pictures = [(255 * to_pictures(x)).round().astype(np.uint8) for x in (before, after)]
    side = pictures[0].shape[1] * SCALE
    rows = -(-len(before) // columns)
    margin = 62
    band = 2 * side + 3 * GAP
    sheet = Image.new("RGB", (margin + columns * (side + GAP), HEAD + rows * band), PAPER)
    pen = ImageDraw.Draw(sheet)
    title = "same prompt and seed, one above the other"
    pen.text((margin, 8), title, INK, ImageFont.load_default(14))
    for i in range(len(before)):
        x = margin + (i % columns) * (side + GAP)
        y = HEAD + (i // columns) * band
        for k in (0, 1):
            picture = Image.fromarray(pictures[k][i]).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(picture, (x, y + k * (side + GAP)))
            if i % columns == 0:
                pen.text((8, y + k * (side + GAP) + side // 2 - 7), labels[k], INK,
                         ImageFont.load_default(13))
    return sheet
