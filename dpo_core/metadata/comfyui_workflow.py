"""ComfyUI's workflow, as the page draws it, turned into the graph that would run.

Subgraphs are unfolded, reroutes and primitives resolved, muted nodes dropped and bypassed ones
passed, as the page does when a workflow is queued.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .comfyui_graph import MAX_HOPS, MAX_NODES, Graph

MAX_SUBGRAPH_DEPTH = 8
_MUTED, _BYPASSED = 2, 4
_OUTSIDE, _RESULT = -10, -20
"""Ids that a subgraph's links have for what comes in and what goes out."""
_NOT_RUN = ("PrimitiveNode", "Note", "MarkdownNote", "GetNode", "SetNode")
_INSIDE = object()
_AFTER_SEED = ("fixed", "increment", "decrement", "randomize")

# Older pages did not name the values they saved.
_WIDGETS: dict[str, tuple[str, ...]] = {
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeSDXL": (
        "width", "height", "crop_w", "crop_h", "target_width", "target_height", "text_g", "text_l",
    ),
    "CLIPTextEncodeSDXLRefiner": ("ascore", "width", "height", "text"),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl", "guidance"),
    "CLIPTextEncodeSD3": ("clip_l", "clip_g", "t5xxl", "empty_padding"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name", "weight_dtype"),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "EmptySD3LatentImage": ("width", "height", "batch_size"),
    "KSampler": ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": (
        "add_noise", "noise_seed", "steps", "cfg", "sampler_name", "scheduler", "start_at_step",
        "end_at_step", "return_with_leftover_noise",
    ),
    "SamplerCustom": ("add_noise", "noise_seed", "cfg"),
    "RandomNoise": ("noise_seed",),
    "PrimitiveString": ("value",),
    "PrimitiveStringMultiline": ("value",),
    "CLIPTextEncodeLumina2": ("system_prompt", "user_prompt"),
    "TextEncodeQwenImageEdit": ("prompt",),
    "TextEncodeQwenImageEditPlus": ("prompt",),
    "StringConcatenate": ("string_a", "string_b", "delimiter"),
    "StringReplace": ("string", "find", "replace"),
    "StringTrim": ("string", "mode"),
    "ComfySwitchNode": ("switch",),
}  # fmt: skip

_Fields = Mapping[str, Any]


def api_graph_of(workflow: _Fields) -> Graph:
    """The graph a workflow runs as; without nodes if it is none."""
    page = _Page(_definitions(workflow))
    nodes: dict[str, Any] = {}
    for scope in page.scopes(_scope(workflow)):
        for node in scope.nodes.values():
            if node.get("mode", 0) in (_MUTED, _BYPASSED) or page.is_drawn_only(node):
                continue
            inputs = page.inputs_of(scope, node)
            nodes[scope.full_id(node)] = {"class_type": node["type"], "inputs": inputs}
    graph = Graph.of(nodes)
    graph.as_typed = True
    return graph


def output_names_of(workflow: _Fields) -> dict[str, tuple[str, ...]]:
    """What the outputs of each node are called, in lower case, by the id it runs under."""
    page = _Page(_definitions(workflow))
    return {
        scope.full_id(node): tuple(
            str(one.get("name", ""))[:100].lower() for one in _objects(node.get("outputs"))
        )
        for scope in page.scopes(_scope(workflow))
        for node in scope.nodes.values()
    }


@dataclass
class _Scope:
    """A workflow or one use of a subgraph: its nodes by id, its links, and where it is used."""

    nodes: dict[str, dict[str, Any]]
    links: dict[str, tuple[str, int]]
    """Link id -> node and output it comes from."""
    results: dict[int, str] = field(default_factory=dict)
    """A subgraph's output -> the link that fills it."""
    definition: _Fields = field(default_factory=dict)
    outside: _Scope | None = None
    used_as: dict[str, Any] = field(default_factory=dict)
    prefix: str = ""

    def full_id(self, node: _Fields) -> str:
        return f"{self.prefix}{node['id']}"


class _Page:
    """Follows links through what only the page knows."""

    def __init__(self, definitions: dict[str, _Fields]) -> None:
        self._definitions = definitions
        self._inside: dict[str, _Scope] = {}
        self._hops = MAX_NODES

    def scopes(self, top: _Scope) -> Iterator[_Scope]:
        """A workflow and all uses of subgraphs in it, as far as they run."""
        count = 0
        ahead = [(top, 0)]
        while ahead:
            scope, depth = ahead.pop()
            count += len(scope.nodes)
            if count > MAX_NODES:
                return
            yield scope
            for node in scope.nodes.values():
                runs = node.get("mode", 0) not in (_MUTED, _BYPASSED)
                if runs and node["type"] in self._definitions and depth < MAX_SUBGRAPH_DEPTH:
                    ahead.append((self._scope_inside(scope, node), depth + 1))

    def _scope_inside(self, scope: _Scope, node: dict[str, Any]) -> _Scope:
        full_id = scope.full_id(node)
        if full_id not in self._inside:
            inside = _scope(self._definitions[node["type"]])
            inside.outside, inside.used_as = scope, node
            inside.prefix = f"{full_id}:"
            self._inside[full_id] = inside
        return self._inside[full_id]

    def is_drawn_only(self, node: _Fields) -> bool:
        kind = node["type"]
        return kind in _NOT_RUN or kind in self._definitions or _is_reroute(kind)

    def inputs_of(self, scope: _Scope, node: dict[str, Any]) -> dict[str, Any]:
        """Values and links of a node that runs."""
        inputs = _widget_values(node)
        for name in _promoted_apart(scope, node, inputs):
            del inputs[name]
        for one in _objects(node.get("inputs")):
            name, link = str(one.get("name")), one.get("link")
            if link is None:
                continue
            value = self._source(scope, str(link))
            if value is not _INSIDE:
                inputs.pop(name, None)
            if value is not None and value is not _INSIDE:
                inputs[name] = value
        return inputs

    def _source(self, scope: _Scope, link: str) -> Any:
        """What a link brings: [node id, output] of a node that runs, a value, or None.

        `_INSIDE` if it brings what was typed where it ends: the value is shown outside a subgraph,
        but saved inside.
        """
        below: Any = _INSIDE
        for _ in range(MAX_HOPS):
            self._hops -= 1
            if link not in scope.links or self._hops < 0:
                return None
            origin, output = scope.links[link]
            if origin == str(_OUTSIDE):
                name = _name_outside(scope, output)
                if scope.outside is None or name is None:
                    return None
                typed = _typed_outside(scope, name)
                linked = _link_of(_input_called(scope.used_as, name))
                if not linked:
                    return below if typed is _INSIDE else typed
                below = below if typed is _INSIDE else typed
                scope, link = scope.outside, linked
                continue
            node = scope.nodes.get(origin)
            if node is None or node.get("mode", 0) == _MUTED:
                return None
            kind = node["type"]
            if node.get("mode", 0) == _BYPASSED:
                link = _link_of(_same_kind_of_input(node, output))
            elif kind == "PrimitiveNode":
                return _first_value(node)
            elif kind == "GetNode":
                link = _link_of(_first_input(_set_node(scope, _first_value(node))))
            elif kind == "SetNode" or _is_reroute(kind):
                link = _link_of(_first_input(node))
            elif kind in self._definitions:
                scope = self._scope_inside(scope, node)
                link = scope.results.get(output, "")
            else:
                return [scope.full_id(node), output]
        return None


def _definitions(workflow: _Fields) -> dict[str, _Fields]:
    definitions = workflow.get("definitions")
    subgraphs = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    return {str(one["id"]): one for one in _objects(subgraphs) if "id" in one}


def _scope(graph: _Fields) -> _Scope:
    nodes = {
        str(node["id"]): node
        for node in _objects(graph.get("nodes"))
        if isinstance(node.get("type"), str) and "id" in node
    }
    links: dict[str, tuple[str, int]] = {}
    results: dict[int, str] = {}
    given = graph.get("links")
    for link in given if isinstance(given, list) else []:
        if isinstance(link, dict):
            names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
            link = [link.get(name) for name in names]
        if not isinstance(link, list) or len(link) < 5 or type(link[2]) is not int:
            continue
        links[str(link[0])] = (str(link[1]), link[2])
        if str(link[3]) == str(_RESULT) and type(link[4]) is int:
            results[link[4]] = str(link[0])
    return _Scope(nodes, links, results, graph)


def _objects(value: Any) -> list[dict[str, Any]]:
    found = value if isinstance(value, list) else []
    return [one for one in found[:MAX_NODES] if isinstance(one, dict)]


def _name_outside(scope: _Scope, number: int) -> str | None:
    """What a subgraph's input of this number is called on the subgraph's node."""
    declared = _objects(scope.definition.get("inputs"))
    name = declared[number].get("name") if 0 <= number < len(declared) else None
    return name if isinstance(name, str) else None


def _input_called(node: _Fields, name: str) -> dict[str, Any] | None:
    fitting = [one for one in _objects(node.get("inputs")) if one.get("name") == name]
    return fitting[0] if len(fitting) == 1 else None


def _typed_outside(scope: _Scope, name: str) -> Any:
    """The value that the node of a subgraph was given for one of its inputs.

    `_INSIDE` if values are saved in the subgraph; None if it cannot be told which value it is.
    """
    named, values = (scope.used_as.get(key) for key in ("widgets_values_named", "widgets_values"))
    if isinstance(named, dict):
        return named.get(name, _INSIDE)
    if not isinstance(values, list) or not values:
        return _INSIDE
    names = _names_shown(scope.used_as) or _names_of_widgets(scope.definition)
    found, whole = _named_values(names, values)
    return found.get(name) if whole and names.count(name) == 1 else None


def _names_shown(node: _Fields) -> list[str]:
    """What a subgraph's node calls the values of the nodes inside that it shows."""
    properties = node.get("properties")
    shown = properties.get("proxyWidgets") if isinstance(properties, dict) else None
    pairs = shown if isinstance(shown, list) else []
    return [str(one[1]) for one in pairs if isinstance(one, list) and len(one) > 1]


def _names_of_widgets(definition: _Fields) -> list[str]:
    """The inputs of a subgraph that feed values, not sockets, inside it."""
    fed = {
        str(one.get("link"))
        for node in _objects(definition.get("nodes"))
        for one in _objects(node.get("inputs"))
        if one.get("widget")
    }
    return [
        str(one.get("name"))
        for one in _objects(definition.get("inputs"))
        if isinstance(one.get("linkIds"), list) and not fed.isdisjoint(map(str, one["linkIds"]))
    ]


def _widget_values(node: _Fields) -> dict[str, Any]:
    """The values typed into a node, by name, as far as their names are known."""
    values = node.get("widgets_values")
    for given in (node.get("widgets_values_named"), values):
        if isinstance(given, dict):
            return dict(given)
    if not isinstance(values, list):
        return {}
    known = _WIDGETS.get(str(node.get("type")))
    if known:
        return _named_values(known, values)[0]
    named = [one["widget"] for one in _objects(node.get("inputs")) if _has_name(one.get("widget"))]
    found, whole = _named_values([one["name"] for one in named], values)
    return found if whole else {}


def _named_values(names: Sequence[str], values: list[Any]) -> tuple[dict[str, Any], bool]:
    """Values by name, and whether there were as many of both."""
    found: dict[str, Any] = {}
    at = 0
    for name in names:
        if at >= len(values):
            return found, False
        found[name] = values[at]
        at += 1
        # What is to become of a number after each run is saved behind it, mostly without a name.
        after_seed = at < len(values) and type(found[name]) is int and values[at] in _AFTER_SEED
        if after_seed and "control_after_generate" not in names:
            at += 1
    return found, at == len(values)


def _has_name(widget: Any) -> bool:
    return isinstance(widget, dict) and isinstance(widget.get("name"), str)


def _promoted_apart(scope: _Scope, node: _Fields, inputs: _Fields) -> list[str]:
    """Inputs of a node in a subgraph that are shown outside with another value than inside."""
    properties = scope.used_as.get("properties")
    shown = properties.get("proxyWidgets") if isinstance(properties, dict) else None
    values = scope.used_as.get("widgets_values")
    if not isinstance(shown, list) or not isinstance(values, list) or not values:
        return []
    pairs = [tuple(map(str, one[:2])) if isinstance(one, list) else () for one in shown]
    apart = []
    for i, pair in enumerate(pairs[:MAX_NODES]):
        if len(pair) == 2 and pair[0] == str(node["id"]) and pair[1] in inputs:
            same = len(pairs) == len(values) and values[i] == inputs[pair[1]]
            apart += [] if same else [pair[1]]
    return apart


def _is_reroute(kind: str) -> bool:
    return kind.lower().startswith("reroute")


def _first_value(node: _Fields) -> Any:
    values = node.get("widgets_values")
    return values[0] if isinstance(values, list) and values else None


def _first_input(node: _Fields | None) -> dict[str, Any] | None:
    entries = [] if node is None else _objects(node.get("inputs"))
    return entries[0] if entries else None


def _set_node(scope: _Scope, name: Any) -> _Fields | None:
    fitting = [
        node
        for node in scope.nodes.values()
        if node["type"] == "SetNode" and _first_value(node) == name
    ]
    return fitting[0] if len(fitting) == 1 else None


def _same_kind_of_input(node: _Fields, output: int) -> dict[str, Any] | None:
    """The input that a bypassed node hands on by an output: the first of the same type."""
    inputs, outputs = _objects(node.get("inputs")), _objects(node.get("outputs"))
    if not 0 <= output < len(outputs):
        return None
    kind = outputs[output].get("type")
    beside = inputs[output : output + 1]
    return next((one for one in [*beside, *inputs] if one.get("type") == kind), None)


def _link_of(entry: _Fields | None) -> str:
    link = None if entry is None else entry.get("link")
    return "" if link is None else str(link)
