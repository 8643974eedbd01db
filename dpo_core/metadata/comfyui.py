"""What ComfyUI's graphs tell of the pictures they made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from .comfyui_graph import Graph, Node, picture_links
from .comfyui_sampler import (
    Sampler,
    adds_noise,
    model_file,
    negative_text,
    positive_text,
    samplers_among,
    seed_of,
)
from .comfyui_workflow import output_names_of
from .image_metadata import ImageMetadata
from .prompt_text import MAX_PROMPT_CHARS, tidy_prompt

Value = TypeVar("Value")


def prompt_behind(graph: object, link: object, workflow: object = None) -> str | None:
    """The positive prompt of the pictures that come in by one link of a ComfyUI API graph.

    Other samplers of the graph do not matter. On one line; None if not certain. Never raises.

    Args:
        graph: node id -> {"class_type": ..., "inputs": {...}}.
        link: [node id, output], the value of an image or latent input.
        workflow: the same as the page draws it, which says what the outputs of nodes are called.
    """
    drawn = workflow if isinstance(workflow, Mapping) else {}
    known = Graph.of(graph, lambda: output_names_of(drawn))
    samplers = samplers_among(known, known.pictures_behind(link)) or []
    prompt, _ = _agreed(positive_text(known, one) for one in samplers)
    return None if prompt is None or len(prompt) > MAX_PROMPT_CHARS else tidy_prompt(prompt)


def metadata_of_graph(graph: Graph) -> ImageMetadata | None:
    """What a graph tells of the pictures it saved, None if it is no graph."""
    if not graph.nodes:
        return None
    nodes = graph.saved_pictures()
    samplers = samplers_among(graph, nodes)
    if not samplers:
        unclear = () if samplers is not None else ("prompt", "negative", "seed", "model")
        return ImageMetadata(tool="ComfyUI", ambiguous=unclear)
    unclear_fields = []
    texts: dict[str, str | None] = {}
    conditioned = [one for one in samplers if one.negative is not None or not one.told]
    for name, found in (
        ("prompt", [positive_text(graph, one) for one in samplers]),
        ("negative", [negative_text(graph, one) for one in conditioned]),
    ):
        texts[name], certain = _agreed(found)
        if not certain:
            unclear_fields.append(name)
    seed, seed_is_certain = _agreed(_seeds(graph, samplers))
    model, model_is_certain = _agreed(_models(graph, samplers))
    size, size_is_certain = _agreed(_sizes(graph, nodes))
    width, height = size or (None, None)
    for names, certain in (
        (("seed",), seed_is_certain),
        (("width", "height"), size_is_certain),
        (("model",), model_is_certain),
    ):
        unclear_fields += [] if certain else names
    return ImageMetadata(
        "ComfyUI", texts["prompt"], texts["negative"], seed, width, height, model,
        tuple(unclear_fields),
    )  # fmt: skip


def _agreed(values: Iterable[Value | None]) -> tuple[Value | None, bool]:
    """The one value that all are, and whether there was nothing to be unsure about."""
    found = set(values)
    if len(found) == 1:
        value = found.pop()
        return value, value is not None
    return None, not found


def _seeds(graph: Graph, samplers: list[Sampler]) -> list[int | None]:
    return [seed_of(graph, one) for one in samplers if adds_noise(graph, one)]


def _models(graph: Graph, samplers: list[Sampler]) -> list[str | None]:
    found = [model_file(graph, one.node) for one in samplers]
    return [] if found == [None] * len(found) else found


def _sizes(graph: Graph, nodes: list[Node]) -> list[tuple[Any, Any] | None]:
    """The sizes of the empty latents that the pictures started from."""
    found: list[tuple[Any, Any] | None] = []
    for node in nodes:
        kind, inputs = node["class_type"].lower(), node["inputs"]
        if "latent" in kind and {"width", "height"} <= inputs.keys() and not _has_picture(node):
            size = tuple(graph.whole_number(inputs[name]) for name in ("width", "height"))
            found.append(None if None in size else (size[0], size[1]))
    return found


def _has_picture(node: Node) -> bool:
    known = ("width", "height", "batch_size")
    inputs = {name: value for name, value in node["inputs"].items() if name not in known}
    return bool(list(picture_links({"inputs": inputs})))
