"""The samplers that made a picture of a ComfyUI graph, and what they were given."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .comfyui_conditioning import conditioning_text
from .comfyui_graph import MAX_HOPS, Graph, Node, is_link, picture_links

MAX_SAMPLERS = 64
MAX_VALUE_CHARS = 400

_SETTINGS = ("seed", "noise_seed", "steps", "sampler_name", "sampler", "sigmas", "add_noise")
"""Inputs that tell a sampler from a node that only prepares conditioning and latents."""
_GROUPS = ("workflow>", "workflow/")
"""What the page calls a group of nodes that an older one drew as a single node."""
_SAMPLER = re.compile(r"(?<!up)(?<!down)(?<!re)sampler")
_WITHOUT_TEXT = ("LotusConditioning", "SeedVR2Conditioning")
"""What a sampler is given that draws depth maps or enlarges: it knows no text."""
_PARTS = ("noise", "guider", "sampler", "sigmas")
"""Inputs of a sampler that nodes of their own hold the settings of."""
_MODEL_FILES = ("ckpt_name", "unet_name", "model_name", "gguf_name")
_VAE_FILES = ("vae_name", "ckpt_name")


@dataclass(frozen=True)
class Sampler:
    """A node that samples, and its conditionings: links, or None where there is none.

    Not `told`: it is conditioned on something, but the graph does not say where that comes from.
    """

    node: Node
    positive: tuple[Any, ...] = ()
    negative: Any = None
    told: bool = True


def samplers_among(graph: Graph, nodes: Iterable[Node]) -> list[Sampler] | None:
    """The samplers of some nodes; None if they are more than any real graph has."""
    found = [
        sampler
        for node in nodes
        for sampler in _sampler(graph, node)
        if not sampler.positive or not _is_without_text(graph, sampler)
    ]
    return found if len(found) <= MAX_SAMPLERS else None


def _is_without_text(graph: Graph, sampler: Sampler) -> bool:
    behind = [graph.node(graph.routed(link)) for link in sampler.positive]
    return all(node is not None and node["class_type"] in _WITHOUT_TEXT for node in behind)


def _sampler(graph: Graph, node: Node) -> Iterator[Sampler]:
    kind, inputs = node["class_type"].lower(), node["inputs"]
    # A face detailer works on a part of a picture that is there already.
    if "detailer" in kind:
        return
    if kind.startswith(_GROUPS):
        yield Sampler(node, told=False)
    elif is_link(inputs.get("guider")):
        yield _guided(node, graph.node(graph.routed(inputs["guider"])))
    elif is_link(inputs.get("positive")):
        if _SAMPLER.search(kind) or any(name in inputs for name in _SETTINGS):
            yield Sampler(node, (inputs["positive"],), _link(inputs.get("negative")))
    elif _samples_unseen(node):
        yield Sampler(node, told=False)


def _samples_unseen(node: Node) -> bool:
    """True for samplers of other packs that get all they need in one bundle."""
    inputs, kind = node["inputs"], node["class_type"].lower()
    seeded = "seed" in inputs or "noise_seed" in inputs
    stepped = "steps" in inputs or "sampler_name" in inputs or "denoise" in inputs
    samples = (seeded and stepped) or _SAMPLER.search(kind) is not None
    return samples and bool(picture_links(node))


def _guided(node: Node, guider: Node | None) -> Sampler:
    given = {} if guider is None else guider["inputs"]
    names = ("positive", "conditioning", "cond1", "cond2")
    positive = tuple(given[name] for name in names if is_link(given.get(name)))
    return Sampler(node, positive, _link(given.get("negative")), bool(positive))


def _link(value: Any) -> Any:
    return value if is_link(value) else None


def positive_text(graph: Graph, sampler: Sampler) -> str | None:
    """The one positive prompt of a sampler, None if unsure."""
    if not sampler.told:
        return None
    first, *others = (conditioning_text(graph, link) for link in sampler.positive)
    # A second conditioning with the negative text stands between the two sides: it guides towards
    # a picture to be changed, without the text of the change.
    between = {first, _negative(graph, sampler)} if others else {first}
    return first if between.issuperset(others) else None


def negative_text(graph: Graph, sampler: Sampler) -> str | None:
    """The one negative prompt of a sampler, None if unsure; "" if it was set to zero."""
    text = _negative(graph, sampler)
    if len(sampler.positive) < 2:
        return text
    # Of three conditionings one may be linked to the wrong input.
    return None if text in (conditioning_text(graph, sampler.positive[0]), None) else text


def _negative(graph: Graph, sampler: Sampler) -> str | None:
    return conditioning_text(graph, sampler.negative, emptied="")


def seed_of(graph: Graph, sampler: Sampler) -> int | None:
    """The seed of a sampler's noise, None if not known."""
    for part in with_parts(graph, sampler.node):
        for name in ("seed", "noise_seed"):
            if name in part["inputs"]:
                return graph.whole_number(part["inputs"][name])
    return None


def adds_noise(graph: Graph, sampler: Sampler) -> bool:
    """False for the second half of a sampling, whose seed does not matter."""
    noise = graph.node(graph.routed(sampler.node["inputs"].get("noise")))
    if noise is not None and noise["class_type"] == "DisableNoise":
        return False
    return graph.plain(sampler.node["inputs"].get("add_noise")) not in ("disable", False)


def model_file(graph: Graph, node: Node) -> str | None:
    """The file of the model a sampler used, past LoRAs and patches."""
    for part in with_parts(graph, node):
        if file := file_behind(graph, part, "model", _MODEL_FILES):
            return file
    return None


def loaded_models(graph: Graph, sampler: Node) -> list[str]:
    """The file of a sampler's model and the LoRAs on it, in the order they were applied."""
    for part in with_parts(graph, sampler):
        found = []
        for node in _behind(graph, part, "model"):
            found += _lora_on(graph, node)
            if file := _first_text(graph, node, _MODEL_FILES):
                return [file, *reversed(found)]
    return []


def _lora_on(graph: Graph, node: Node) -> list[str]:
    """What a node that applies a LoRA applies, where it tells."""
    inputs = node["inputs"]
    strength = graph.plain(inputs.get("strength_model"))
    holder = graph.node(graph.routed(inputs.get("lora"))) or node
    name = _first_text(graph, holder, ("lora_name",))
    if name is None and holder is not node:
        name = f"a LoRA of {holder['class_type']}"[:MAX_VALUE_CHARS]
    if name is None:
        return []
    told = isinstance(strength, (int, float)) and strength != 1
    return [f"{name} x {strength:g}" if told else name]


def vae_file(graph: Graph, node: Node) -> str | None:
    """The file of the VAE a node was given."""
    return file_behind(graph, node, "vae", _VAE_FILES)


def with_parts(graph: Graph, sampler: Node) -> Iterator[Node]:
    """A sampler and the nodes that hold settings for it."""
    yield sampler
    for name in _PARTS:
        part = graph.node(graph.routed(sampler["inputs"].get(name)))
        if part is not None:
            yield part


def file_behind(graph: Graph, node: Node, name: str, files: tuple[str, ...]) -> str | None:
    """The file behind a node's input of this name, past nodes that have such an input, too."""
    found = (_first_text(graph, one, files) for one in _behind(graph, node, name))
    return next((file for file in found if file is not None), None)


def _behind(graph: Graph, node: Node, name: str) -> Iterator[Node]:
    """The nodes that lead to a node's input of this name, the nearest first."""
    for _ in range(MAX_HOPS):
        before = graph.node(graph.routed(node["inputs"].get(name)))
        if before is None:
            return
        yield before
        node = before


def _first_text(graph: Graph, node: Node, names: tuple[str, ...]) -> str | None:
    for one in names:
        text = graph.plain(node["inputs"].get(one))
        if isinstance(text, str):
            return text[:MAX_VALUE_CHARS]
    return None
