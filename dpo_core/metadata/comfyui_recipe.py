"""What a ComfyUI graph tells of how the models behind pictures were put together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .comfyui_graph import Graph, Node, is_link
from .comfyui_sampler import samplers_among, with_parts

MAX_RECIPE_NODES = 2_000
_NO_PART = {"images", "preview", "ranking"}
"""Inputs that change from run to run, and the model does not with them: what is shown to be ranked,
what a widget remembers, and how a training is watched."""
_FILES = ("ckpt_name", "lora_name", "unet_name")


@dataclass(frozen=True)
class Recipe:
    """All nodes that lead to the models which sampled some pictures.

    Attributes:
        nodes: {`class_type`, `inputs`} of each, the nearest first, as plain data. A link is [place
            of the node in here, output], or None where it leads nowhere.
        files: names of checkpoints and LoRAs by the input that holds them, each once.
        makers: classes of the nodes that made a LoRA in this very graph; what came of that the
            graph does not tell.
    """

    nodes: tuple[dict[str, Any], ...]
    files: tuple[tuple[str, str], ...]
    makers: tuple[str, ...]


def model_recipe(graph: object, link: object) -> Recipe:
    """The recipe behind pictures; without nodes where the graph does not tell of a model.

    Ids and the order of nodes in the graph do not matter. Arguments as `comfyui.prompt_behind`.
    """
    known = Graph.of(graph)
    behind = _behind(known, list(_models(known, link)))
    places = {id(node): place for place, node in enumerate(behind)}
    return Recipe(
        tuple(_plain(known, node, places) for node in behind),
        tuple(dict.fromkeys(file for node in behind for file in _files(known, node))),
        tuple(dict.fromkeys(kind for node in behind for kind in _makers(known, node))),
    )


def _models(graph: Graph, link: object) -> Iterator[Any]:
    for sampler in samplers_among(graph, graph.pictures_behind(link)) or ():
        for part in with_parts(graph, sampler.node):
            yield part["inputs"].get("model")


def _behind(graph: Graph, links: list[Any]) -> list[Node]:
    found: dict[int, Node] = {}
    ahead = deque(links)
    while ahead and len(found) < MAX_RECIPE_NODES:
        node = graph.node(graph.routed(ahead.popleft()))
        if node is None or id(node) in found:
            continue
        found[id(node)] = node
        ahead += [value for _, value in _inputs(node) if is_link(value)]
    return list(found.values())


def _inputs(node: Node) -> list[tuple[str, Any]]:
    return sorted((name, one) for name, one in node["inputs"].items() if name not in _NO_PART)


def _plain(graph: Graph, node: Node, places: dict[int, int]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if not is_link(value):
            return value
        link = graph.routed(value)
        place = places.get(id(graph.node(link)))
        return None if place is None else [place, link[1]]

    inputs = {name: plain(value) for name, value in _inputs(node)}
    return {"class_type": node["class_type"], "inputs": inputs}


def _files(graph: Graph, node: Node) -> list[tuple[str, str]]:
    named = [(name, graph.plain(node["inputs"].get(name))) for name in _FILES]
    return [(name, text) for name, text in named if isinstance(text, str)]


def _makers(graph: Graph, node: Node) -> list[str]:
    holder = graph.node(graph.routed(node["inputs"].get("lora")))
    return [] if holder is None or _files(graph, holder) else [holder["class_type"]]
