"""How a picture of a ComfyUI graph was made: seed, sampler, files, where the graph tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .prompt_metadata import MAX_LINKS, Node, graph_nodes, is_link, picture_nodes

_SETTINGS = {
    "seed": "seed",
    "noise_seed": "seed",
    "steps": "steps",
    "cfg": "cfg",
    "guidance": "guidance",
    "sampler_name": "sampler",
    "scheduler": "scheduler",
    "denoise": "denoise",
}
_MODEL_FILES = ("ckpt_name", "unet_name", "model_name", "gguf_name")
_VAE_FILES = ("vae_name", "ckpt_name")
_PARTS = ("noise", "guider", "sampler", "sigmas")
"""Inputs of a sampler that nodes of their own hold the settings of."""
MAX_VALUE_CHARS = 400


def generation_behind(graph: object, link: object) -> dict[str, Any]:
    """Settings of the last sampler that made the pictures of a link; empty if there is none.

    Any of `seed`, `steps`, `cfg`, `guidance`, `sampler`, `scheduler`, `denoise`, `checkpoint`;
    what the graph does not tell is not there. Arguments as `prompt_metadata.prompt_behind`.
    """
    nodes = graph_nodes(graph)
    for node in picture_nodes(nodes, link):
        if "sampler" in node["class_type"].lower():
            return _of_sampler(nodes, node)
    return {}


def vae_behind(graph: object, link: object) -> str | None:
    """The file of the VAE that the pictures or latents of a link passed last, None if not known.

    Arguments as `prompt_metadata.prompt_behind`.
    """
    nodes = graph_nodes(graph)
    for node in picture_nodes(nodes, link):
        if is_link(node["inputs"].get("vae")):
            return _file(nodes, node, "vae", _VAE_FILES)
    return None


def _of_sampler(nodes: Mapping[str, Node], sampler: Node) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in _with_parts(nodes, sampler):
        for name, value in part["inputs"].items():
            value = _plain(nodes, value)
            if name in _SETTINGS and value is not None:
                found.setdefault(_SETTINGS[name], value)
        if "checkpoint" not in found and (file := _file(nodes, part, "model", _MODEL_FILES)):
            found["checkpoint"] = file
    return found


def _with_parts(nodes: Mapping[str, Node], sampler: Node) -> Iterator[Node]:
    yield sampler
    for name in _PARTS:
        link = sampler["inputs"].get(name)
        if is_link(link) and str(link[0]) in nodes:
            yield nodes[str(link[0])]


def _file(nodes: Mapping[str, Node], node: Node, name: str, files: tuple[str, ...]) -> str | None:
    """The file behind a node's input of this name, past LoRAs and patches that have one, too."""
    for _ in range(MAX_LINKS):
        link = node["inputs"].get(name)
        if not is_link(link) or str(link[0]) not in nodes:
            return None
        node = nodes[str(link[0])]
        for one in files:
            file = _plain(nodes, node["inputs"].get(one))
            if isinstance(file, str):
                return file
    return None


def _plain(nodes: Mapping[str, Node], value: Any) -> Any:
    """A number or text, also from the plain node it is linked to; None for anything else."""
    for _ in range(MAX_LINKS):
        if not is_link(value):
            break
        node = nodes.get(str(value[0]))
        value = None if node is None else node["inputs"].get("value")
    if isinstance(value, str):
        return value[:MAX_VALUE_CHARS]
    return value if isinstance(value, (int, float)) else None
