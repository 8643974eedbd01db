"""Judging as a graph does it."""

from __future__ import annotations

from typing import Any

from hostkit.ranking import noise
from hostkit.workflows import Prompt, node


def judge(kind: str, **inputs: Any) -> dict[str, Any]:
    """DPOJudge with its defaults; `inputs` replace and add."""
    return node("DPOJudge", **{"kind": kind, "weight": 1.0, **inputs})


def registered(name: str, **inputs: Any) -> dict[str, Any]:
    """A judge of `hostkit/node_pack`."""
    return judge("registered", registered=name, **inputs)


def judging(session: str, by: dict[str, Any], seed: int = 0, **inputs: Any) -> Prompt:
    """A batch of noise judged; ids: images, judge, judged, and what becomes of each output.

    `pairs` exports to output/<session>, `ranked` is saved, `scores` is shown.
    """
    settings: dict[str, Any] = {
        "images": ["images", 0],
        "judge": ["judge", 0],
        "session": session,
        "use": "session",
        "pairs_per_group": 1,
        "min_gap": 0.0,
        "prompt": "a cat",
    }
    return {
        "images": noise(seed),
        "judge": by,
        "judged": node("DPOJudgeImages", **(settings | inputs)),
        "pairs": node("DPOExportPairFolder", pairs=["judged", 0], folder=session),
        "scores": node("PreviewAny", source=["judged", 1]),
        "ranked": node("SaveImage", images=["judged", 2], filename_prefix=f"ranked/{session}"),
    }
