"""ComfyUI's API graph: node id -> class and inputs, where [node id, output] is a link."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_NODES = 20_000
MAX_HOPS = 1_000
"""Nodes that one way may pass."""
MAX_DEPTH = 40
"""Forks within forks."""
MAX_VISITS = 20_000
"""Nodes that all ways through one graph may pass together."""
MAX_PICTURE_NODES = 2_000

Node = Mapping[str, Any]

# What shapes a picture without being one: what made those is another story.
_NO_PICTURE = {
    "clip", "cond", "conditioning", "control", "guider", "lora", "mask", "model", "negative",
    "noise", "positive", "sampler", "sigmas", "unet", "vae",
}  # fmt: skip
_NUMBER_FIELDS = ("value", "seed", "noise_seed", "number", "int")
_SWITCHES = {
    "ComfySwitchNode": "switch",
    "ComfySoftSwitchNode": "switch",
    "Switch any [Crystools]": "boolean",
}
"""Nodes that pass on `on_true` or `on_false`, and the input that decides."""


@dataclass
class Graph:
    """The nodes of one graph, and what is left of the work that may be spent on it."""

    nodes: Mapping[str, Node]
    name_outputs: Callable[[], Mapping[str, tuple[str, ...]]] = dict
    """Tells what the outputs of nodes are called in the page, in lower case; asked once at most."""
    as_typed: bool = False
    """Texts are as they were typed, before the page chose among {alternatives}."""
    visits: int = MAX_VISITS
    _output_names: Mapping[str, tuple[str, ...]] | None = None

    @classmethod
    def of(
        cls, graph: object, name_outputs: Callable[[], Mapping[str, tuple[str, ...]]] = dict
    ) -> Graph:
        """The nodes of a graph; none if it is no graph, or larger than any real one."""
        if not isinstance(graph, Mapping) or len(graph) > MAX_NODES:
            return cls({})
        nodes = {str(key): node for key, node in graph.items() if _is_node(node)}
        return cls(nodes, name_outputs)

    def node(self, link: Any) -> Node | None:
        """The node that a link comes from; None too when all work is spent."""
        self.visits -= 1
        return self.nodes.get(str(link[0])) if is_link(link) and self.visits > 0 else None

    def output_name(self, link: Any) -> str | None:
        """What the output that a link comes from is called, None if not known."""
        if self._output_names is None:
            self._output_names = self.name_outputs()
        names = self._output_names.get(str(link[0]), ())
        return names[link[1]] if 0 <= link[1] < len(names) else None

    def routed(self, link: Any) -> Any:
        """The link behind reroutes and decided switches; None where that cannot be told."""
        for _ in range(MAX_HOPS):
            node = self.node(link)
            if node is None:
                return None
            onward = self._passed_on(node)
            if onward is None:
                return link
            link = onward
        return None

    def _passed_on(self, node: Node) -> Any:
        """The link that a node hands on as it is; None if it is no such node or undecided."""
        kind, inputs = node["class_type"], node["inputs"]
        links = [value for value in inputs.values() if is_link(value)]
        if "reroute" in kind.lower():
            return links[0] if len(links) == 1 else None
        if kind in _SWITCHES:
            return self._chosen(node, _SWITCHES[kind])
        if kind == "ImpactSwitch":
            number = self.plain(inputs.get("select"))
            chosen = inputs.get(f"input{number}")
            return chosen if is_link(chosen) else None
        return None

    def _chosen(self, node: Node, switch: str) -> Any:
        inputs = node["inputs"]
        sides = [inputs[side] for side in ("on_true", "on_false") if is_link(inputs.get(side))]
        if node["class_type"] == "ComfySoftSwitchNode" and len(sides) == 1:
            return sides[0]
        decided = self.plain(inputs.get(switch))
        if not isinstance(decided, bool):
            return None
        side = inputs.get("on_true" if decided else "on_false")
        return side if is_link(side) else None

    def plain(self, value: Any) -> Any:
        """A number, switch or text, also from the plain node it is linked to; else None."""
        for _ in range(MAX_HOPS):
            if not is_link(value):
                break
            node = self.node(self.routed(value))
            if node is None:
                return None
            given = [node["inputs"][name] for name in _NUMBER_FIELDS if name in node["inputs"]]
            value = given[0] if given else None
        return value if isinstance(value, (str, int, float)) else None

    def whole_number(self, value: Any) -> int | None:
        value = self.plain(value)
        return value if type(value) is int and 0 <= value < 1 << 64 else None

    def pictures_behind(self, link: object) -> list[Node]:
        """The nodes that pictures pass on their way to `link`, the nearest first.

        Models, prompts and masks are not followed: what they were made with is of other pictures.
        """
        return self._pictures([link] if is_link(link) else [])

    def saved_pictures(self) -> list[Node]:
        """The nodes behind all pictures that are saved; all nodes, if no node saves any."""
        for word in ("save", "preview"):
            ends = [
                value
                for node in self.nodes.values()
                if word in node["class_type"].lower()
                for name, value in node["inputs"].items()
                if is_link(value) and name.lower() in ("image", "images", "pixels")
            ]
            if ends:
                return self._pictures(ends)
        return list(self.nodes.values())

    def _pictures(self, links: list[Any]) -> list[Node]:
        found: dict[str, Node] = {}
        ahead = 0
        while ahead < len(links) and len(found) < MAX_PICTURE_NODES:
            link = self.routed(links[ahead]) or links[ahead]
            ahead += 1
            node = self.nodes.get(str(link[0]))
            if node is None or str(link[0]) in found:
                continue
            found[str(link[0])] = node
            links += picture_links(node)
        return list(found.values())


def picture_links(node: Node) -> Iterable[Any]:
    """The links of a node that may bring pictures or latents."""
    return [
        value
        for name, value in node["inputs"].items()
        if is_link(value) and _NO_PICTURE.isdisjoint(re.split("[^a-z]+", name.lower()))
    ]


def is_link(value: Any) -> bool:
    """True for [node id, output]."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], (str, int))
        and type(value[1]) is int
    )


def _is_node(node: object) -> bool:
    return (
        isinstance(node, dict)
        and isinstance(node.get("class_type"), str)
        and isinstance(node.get("inputs"), dict)
    )
