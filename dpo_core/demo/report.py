"""A page that says what the demo did; it opens offline."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ..evaluation.interval import Share
from ..saving.atomic import write_atomically

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>A taste learned: {taste}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fafafa }}
img {{ max-width: 100%; height: auto }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.5rem }}
dt {{ font-weight: 600 }} dd {{ margin: 0 }}
pre {{ background: #eee; padding: 1rem; overflow-x: auto }}
</style></head><body>
<h1>A taste learned: {taste}</h1>
<p>{pairs} times the taste, which prefers {wish}, picked one of two pictures the base model had
drawn. From these picks alone a LoRA was trained in {steps} steps. Below, base and LoRA draw
prompts and seeds neither has been trained on.</p>
<dl>
<dt>Win rate</dt><dd>{win_rate}: how often the LoRA's picture is liked better than the base's, of
{trials}, with its 95&nbsp;% interval</dd>
<dt>Reward</dt><dd>{reward:+.2f} standard deviations of the base's pictures</dd>
<dt>Drift</dt><dd>{drift:.2f}: how unlikely the base finds the LoRA's pictures; its own are 1</dd>
</dl>
<h2>Before and after</h2>
<img alt="Pictures of the base model above those of the LoRA" src="{sheet}">
<h2>Training</h2><img alt="Curves of loss, accuracy, margin and prediction change" src="{curves}">
<h2>Settings</h2><pre>{settings}</pre>
</body></html>
"""


def write_report(
    path: Path,
    result: Mapping[str, Any],
    settings: Mapping[str, Any],
    sheet: Image.Image,
    curves: Image.Image,
) -> None:
    """Writes one HTML file with the pictures inside it, atomically."""
    share = Share(**result["win_rate"])
    page = _PAGE.format(
        taste=html.escape(result["taste"]),
        wish=html.escape(result["wish"]),
        pairs=result["pairs"],
        steps=result["steps"],
        win_rate=share,
        trials=share.trials,
        reward=result["reward"],
        drift=result["drift"],
        sheet=_embedded(sheet),
        curves=_embedded(curves),
        settings=html.escape(json.dumps(settings, indent=2)),
    )
    write_atomically(path, lambda part: _write(part, page))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _embedded(picture: Image.Image) -> str:
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
