"""The positive prompt in an image's metadata: our own, A1111 and Forge, SwarmUI, ComfyUI graphs.

A wrong prompt is worse than none: whatever is ambiguous gives None, and a negative prompt is never
returned. All text is hostile: sizes and depths are bounded, nothing raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

from .image_metadata import PROMPT_KEY
from .prompt_text import MAX_PROMPT_CHARS, tidy_prompt

MAX_METADATA_CHARS = 4_000_000
MAX_NODES = 20_000
MAX_SAMPLERS = 64
MAX_LINKS = 64
MAX_VISITED = 2_000

_FORMATS = ("PNG", "JPEG", "WEBP")
_GRAPH_TAGS = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
)
_USER_COMMENT_CODECS = {
    b"UNICODE\0": ("utf-16-be", "utf-16-le", "utf-8"),
    b"ASCII\0\0\0": ("utf-8",),
    b"\0\0\0\0\0\0\0\0": ("utf-8",),
}
_STEPS = re.compile(r"\s*Steps: *\d")
_NEGATIVE = re.compile(r"\s*Negative prompt:", re.IGNORECASE)

# Nodes whose output is not the one text below them: several texts joined, one for a part of the
# picture only, or none at all.
_NOT_ONE_TEXT = (
    "combine", "concat", "average", "blend", "lerp", "interpol", "area", "mask", "gligen",
    "zero", "negative", "invert",
)  # fmt: skip
_ENCODER_FIELDS = (
    "text", "text_g", "text_l", "clip_l", "clip_g", "t5xxl", "llama", "bert", "mt5xl",
    "prompt", "user_prompt",
)  # fmt: skip
_STRING_FIELDS = ("value", "text", "string", "prompt")

# What shapes a picture without being one: what made those is another story.
_NO_PICTURE = {
    "clip", "cond", "conditioning", "control", "guider", "lora", "mask", "model", "negative",
    "noise", "positive", "sampler", "sigmas", "unet", "vae",
}  # fmt: skip

Node = Mapping[str, Any]


def read_prompt(path: Path) -> str | None:
    """The positive prompt an image file was made with, on one line; None if not certain.

    Never raises; reads only as far as the pixels begin.
    """
    try:
        if not path.is_file():
            return None
        Image.init()
        formats = [known for known in _FORMATS if known in Image.OPEN]
        with Image.open(path, formats=formats) as image:
            return prompt_of_image(image)
    except Exception:  # hostile files make Pillow raise almost anything
        return None


def prompt_of_image(image: Image.Image) -> str | None:
    """`read_prompt` for an opened image, which is not decoded. Never raises."""
    try:
        own = image.info.get(PROMPT_KEY)
        if isinstance(own, str) and len(own) <= MAX_PROMPT_CHARS:
            return tidy_prompt(own)
        found = {prompt for prompt in _candidates(image) if prompt is not None}
    except Exception:  # as above: json, struct, codecs and Pillow on hostile data
        return None
    return found.pop() if len(found) == 1 else None


def _candidates(image: Image.Image) -> Iterator[str | None]:
    for key, read in (("parameters", _from_parameters), ("prompt", _from_graph)):
        text = image.info.get(key)
        if isinstance(text, str):
            yield _bounded(read, _as_utf8(text))
    # The base class's method: the PNG plugin's own would decode the whole file.
    exif = Image.Image.getexif(image)
    for tag in _GRAPH_TAGS:
        text = exif.get(tag)
        if isinstance(text, str) and text[:7].lower() == "prompt:":
            yield _bounded(_from_graph, text[7:])
    comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if isinstance(comment, bytes):
        yield _from_user_comment(comment)


def _bounded(read: Callable[[str], str | None], text: str) -> str | None:
    if len(text) > MAX_METADATA_CHARS:
        return None
    prompt = read(text.rstrip("\0"))
    if prompt is None or len(prompt) > MAX_PROMPT_CHARS:
        return None
    return tidy_prompt(prompt)


def _as_utf8(text: str) -> str:
    """Undo Pillow's Latin-1 reading of a plain text chunk into which a tool wrote UTF-8."""
    if isinstance(text, PngImagePlugin.iTXt) or text.isascii():
        return text
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _from_user_comment(comment: bytes) -> str | None:
    """EXIF UserComment: an 8-byte character code, then text; writers disagree on byte order."""
    body = comment[8:] if comment[:8] in _USER_COMMENT_CODECS else comment
    for codec in _USER_COMMENT_CODECS.get(comment[:8], ("utf-8",)):
        even = len(body) // 2 * 2 if codec.startswith("utf-16") else len(body)
        try:
            text = body[:even].decode(codec)
        except UnicodeDecodeError:
            continue
        # The wrong byte order holds none of the words the parser needs.
        prompt = _bounded(_from_parameters, text.lstrip("\ufeff"))
        if prompt is not None:
            return prompt
    return None


def _from_parameters(text: str) -> str | None:
    """A1111 and Forge: prompt, "Negative prompt: ...", "Steps: ...", each on lines of its own."""
    if text.lstrip().startswith("{"):
        return _from_swarm(text)
    lines = text.splitlines()
    ends = [i for i, line in enumerate(lines) if _NEGATIVE.match(line)][:1]
    ends += [i for i, line in enumerate(lines) if _STEPS.match(line)][-1:]
    if not ends:
        return None
    prompt = "\n".join(lines[: min(ends)])
    # A tool that dropped line breaks left the negative prompt in the middle of a line.
    return None if "negative prompt:" in prompt.lower() else prompt


def _from_swarm(text: str) -> str | None:
    swarm = json.loads(text)
    settings = swarm.get("sui_image_params") if isinstance(swarm, dict) else None
    prompt = settings.get("prompt") if isinstance(settings, dict) else None
    return prompt if isinstance(prompt, str) else None


def _from_graph(text: str) -> str | None:
    """ComfyUI's API graph: the one text behind the positive side of all its samplers."""
    nodes = graph_nodes(json.loads(text))
    return _one_prompt(nodes, nodes.values())


def prompt_behind(graph: object, link: object) -> str | None:
    """The positive prompt of the pictures that come in by one link of a ComfyUI API graph.

    Other samplers of the graph do not matter. On one line; None if not certain. Never raises.

    Args:
        graph: node id -> {"class_type": ..., "inputs": {...}}.
        link: [node id, output], the value of an image or latent input.
    """
    nodes = graph_nodes(graph)
    prompt = _one_prompt(nodes, picture_nodes(nodes, link))
    return None if prompt is None or len(prompt) > MAX_PROMPT_CHARS else tidy_prompt(prompt)


def graph_nodes(graph: object) -> dict[str, Node]:
    """The nodes of a graph; none if it is no graph, or larger than any real one."""
    if not isinstance(graph, Mapping) or len(graph) > MAX_NODES:
        return {}
    return {key: node for key, node in graph.items() if _is_node(node)}


def picture_nodes(nodes: Mapping[str, Node], link: object) -> list[Node]:
    """The nodes that pictures pass on their way to `link`, the nearest first.

    Models, prompts and masks are not followed: what they were made with is of other pictures.
    """
    found: dict[str, Node] = {}
    links: list[Any] = [link] if is_link(link) else []
    while links and len(found) < MAX_VISITED:
        key = str(links.pop(0)[0])
        if key not in nodes or key in found:
            continue
        node = found[key] = nodes[key]
        links += [
            value
            for name, value in node["inputs"].items()
            if is_link(value) and _NO_PICTURE.isdisjoint(re.split("[^a-z]+", name.lower()))
        ]
    return list(found.values())


def _one_prompt(nodes: Mapping[str, Node], among: Iterable[Node]) -> str | None:
    """The one text behind the positive side of all samplers of `among`."""
    sources = [link for node in among for link in _sampler_sources(nodes, node)]
    if not sources or len(sources) > MAX_SAMPLERS:
        return None
    prompts = {None if link is None else _conditioning_text(nodes, link) for link in sources}
    return prompts.pop() if len(prompts) == 1 else None


def _is_node(node: object) -> bool:
    return (
        isinstance(node, dict)
        and isinstance(node.get("class_type"), str)
        and isinstance(node.get("inputs"), dict)
    )


def _sampler_sources(nodes: Mapping[str, Node], node: Node) -> Iterator[list[Any] | None]:
    """Where a sampler's positive conditioning comes from; None where that cannot be told."""
    if "sampler" not in node["class_type"].lower():
        return
    inputs = node["inputs"]
    if is_link(inputs.get("positive")):
        yield inputs["positive"]
    elif is_link(inputs.get("guider")):
        guider = linked(nodes, inputs["guider"])
        given = {} if guider is None else guider["inputs"]
        links = [given[name] for name in ("positive", "conditioning") if is_link(given.get(name))]
        yield links[0] if len(links) == 1 else None


def _conditioning_text(nodes: Mapping[str, Node], link: list[Any]) -> str | None:
    for _ in range(MAX_LINKS):
        node = linked(nodes, link)
        if node is None:
            return None
        kind = node["class_type"].lower()
        if any(word in kind for word in _NOT_ONE_TEXT):
            return None
        before = [
            value
            for name, value in node["inputs"].items()
            if name.lower().startswith(("cond", "positive")) and is_link(value)
        ]
        if not before:
            return _encoder_text(nodes, node) if "textencode" in kind else None
        if len(before) > 1:
            return None
        link = before[0]
    return None


def _encoder_text(nodes: Mapping[str, Node], node: Node) -> str | None:
    fields = [node["inputs"][name] for name in _ENCODER_FIELDS if name in node["inputs"]]
    texts = [_string(nodes, field) for field in fields]
    if not texts or None in texts:
        return None
    filled = {text for text in texts if text}
    if len(filled) > 1:
        return None
    return filled.pop() if filled else ""


def _string(nodes: Mapping[str, Node], field: object) -> str | None:
    """A text widget's value, or that of the plain string node it is linked to."""
    for _ in range(MAX_LINKS):
        if isinstance(field, str):
            return field
        node = linked(nodes, field) if is_link(field) else None
        if node is None:
            return None
        # Any further setting may change the text on its way (a separator, a seed, a position).
        others = [item for item in node["inputs"].items() if not isinstance(item[1], bool)]
        if len(others) != 1 or others[0][0].lower() not in _STRING_FIELDS:
            return None
        field = others[0][1]
    return None


def linked(nodes: Mapping[str, Node], link: Any) -> Node | None:
    """The node behind a link, if it comes from that node's first output."""
    # Positive conditioning, guiders and strings leave their node by its first output; of another
    # output it cannot be told what it is.
    return nodes.get(str(link[0])) if link[1] == 0 else None


def is_link(value: Any) -> bool:
    """True for [node id, output]."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], (str, int))
        and type(value[1]) is int
    )
