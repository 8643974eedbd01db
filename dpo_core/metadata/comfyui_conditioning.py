"""The text behind a conditioning of a ComfyUI graph."""

from __future__ import annotations

from typing import Any

from .comfyui_graph import MAX_DEPTH, MAX_HOPS, Graph, Node, is_link
from .comfyui_strings import string_of

# Nodes whose output is not the one text below them: several texts joined, one for a part of the
# picture only, or none at all.
_NOT_ONE_TEXT = (
    "combine", "concat", "average", "blend", "lerp", "interpol", "area", "mask", "gligen",
    "zero", "negative", "invert", "setdefault", "wildcard", "regional",
)  # fmt: skip
_MIXING = ("ConditioningCombine", "ConditioningAverage")
"""They mix what they are given: of one text twice comes that text."""
_ENCODER_FIELDS = (
    "text", "text_g", "text_l", "clip_l", "clip_g", "t5xxl", "llama", "bert", "mt5xl",
    "qwen25_7b", "prompt", "user_prompt",
)  # fmt: skip
_ENCODERS = ("PhotoMakerEncode", "MiniMaxH3ImageToVideo")
"""Encoders that are not called so."""
_OF_BOTH_SIDES = {
    "TextEncodeBooguEdit": {0: "prompt", 1: "negative_prompt"},
    "TextEncodeMageFlowEdit": {0: "prompt", 1: "negative_prompt"},
    "Efficient Loader": {1: "positive", 2: "negative"},
    "ImpactWildcardEncode": {2: "populated_text"},
}
"""Nodes that encode texts of their own: output -> the input with its text."""
_OUTPUTS = {"LTXVReferenceAudio": (1, 2), "WanInfiniteTalkToVideo": (1, 2)}
"""Where the positive and the negative side leave a node, if not by the first and the second."""
_PAIRED = {
    "ACN_AdvancedControlNetApply", "BerniniConditioning", "ControlNetApplyAdvanced",
    "ControlNetApplySD3", "ControlNetInpaintingAliMamaApply", "HiDreamO1ReferenceImages",
    "HunyuanRefinerLatent", "HunyuanVideo15ImageToVideo", "HunyuanVideo15SuperResolution",
    "InpaintModelConditioning", "InstructPixToPixConditioning", "Kandinsky5ImageToVideo",
    "LTXVAddGuide", "LTXVConditioning", "LTXVCropGuides", "LTXVImgToVideo", "LTXVReferenceAudio",
    "SD_4XUpscale_Conditioning", "VOIDInpaintConditioning", "Wan22FunControlToVideo",
    "WanAnimateToVideo", "WanCameraImageToVideo", "WanDancerVideo", "WanFirstLastFrameToVideo",
    "WanFunControlToVideo", "WanFunInpaintToVideo", "WanHuMoImageToVideo", "WanImageToVideo",
    "WanInfiniteTalkToVideo", "WanMoveTrackToVideo", "WanPhantomSubjectToVideo",
    "WanSCAILToVideo", "WanSoundImageToVideo", "WanSoundImageToVideoExtend", "WanTrackToVideo",
    "WanVaceToVideo",
}  # fmt: skip
"""Nodes known to give back both sides they were given, the positive one first."""


def conditioning_text(
    graph: Graph, link: Any, emptied: str | None = None, depth: int = 0
) -> str | None:
    """The one text for the whole picture that a conditioning was encoded from; None if unsure.

    Args:
        link: [node id, output].
        emptied: what a conditioning counts as that was set to zero.
    """
    for _ in range(MAX_HOPS):
        link = graph.routed(link) if is_link(link) else None
        node = graph.node(link)
        if node is None or depth > MAX_DEPTH:
            return None
        kind = node["class_type"]
        if kind == "ConditioningZeroOut":
            return emptied
        if kind in _MIXING:
            return _mixed(graph, node, emptied, depth)
        if kind in _OF_BOTH_SIDES:
            return string_of(graph, node["inputs"].get(_OF_BOTH_SIDES[kind].get(link[1], "")))
        if any(word in kind.lower() for word in _NOT_ONE_TEXT):
            return None
        if not any(map(_brings_conditioning, node["inputs"].items())):
            return _encoder_text(graph, node, link)
        link = _conditioning_before(graph, node, link)
    return None


def _brings_conditioning(item: tuple[str, Any]) -> bool:
    name = item[0].lower()
    return is_link(item[1]) and name.startswith(("cond", "positive", "negative"))


def _conditioning_before(graph: Graph, node: Node, link: Any) -> Any:
    """The link of the conditioning that leaves a node by the output of `link`."""
    inputs = node["inputs"]
    before = {
        name.lower(): value for name, value in inputs.items() if _brings_conditioning((name, value))
    }
    if "setproperties" in node["class_type"].lower():
        # With a mask, for a part of the picture only.
        if is_link(inputs.get("mask")):
            return None
        before = {name.removesuffix("_new"): value for name, value in before.items()}
    side = _side(graph, node, link)
    if before.keys() <= {"positive", "negative"}:
        return before.get(side or "")
    return next(iter(before.values())) if len(before) == 1 and link[1] == 0 else None


def _side(graph: Graph, node: Node, link: Any) -> str | None:
    """Which of its two sides leaves a node by an output, None if that cannot be told."""
    kind, name = node["class_type"], graph.output_name(link) or ""
    named = [side for side in ("positive", "negative") if side[:3] in name]
    if len(named) == 1:
        return named[0]
    positive, negative = _OUTPUTS.get(kind, (0, 1))
    if link[1] == positive:
        return "positive"
    known = kind in _PAIRED or kind.startswith("PairConditioning")
    return "negative" if link[1] == negative and known else None


def _mixed(graph: Graph, node: Node, emptied: str | None, depth: int) -> str | None:
    links = [value for value in node["inputs"].values() if is_link(value)]
    texts = {conditioning_text(graph, one, emptied, depth + 1) for one in links[:8]}
    return texts.pop() if len(links) <= 8 and len(texts) == 1 else None


def _encoder_text(graph: Graph, node: Node, link: Any) -> str | None:
    kind = node["class_type"]
    if "textencode" not in kind.lower() and kind not in _ENCODERS:
        return None
    # A text leaves by the first output, by another one only what is known above.
    fields = [node["inputs"][name] for name in _ENCODER_FIELDS if name in node["inputs"]]
    texts = [string_of(graph, field) for field in fields]
    if link[1] != 0 or not texts or None in texts:
        return None
    filled = {text for text in texts if text}
    if len(filled) > 1:
        return None
    return filled.pop() if filled else ""
