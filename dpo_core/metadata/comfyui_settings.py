"""How a picture of a ComfyUI graph was made: seed, sampler, files, where the graph tells."""

from __future__ import annotations

from typing import Any

from .comfyui_graph import Graph, is_link
from .comfyui_sampler import (
    MAX_VALUE_CHARS,
    Sampler,
    loaded_models,
    model_file,
    samplers_among,
    vae_file,
    with_parts,
)

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


def generation_behind(graph: object, link: object) -> dict[str, Any]:
    """Settings of the last sampler that made the pictures of a link; empty if there is none.

    Any of `seed`, `steps`, `cfg`, `guidance`, `sampler`, `scheduler`, `denoise`, `checkpoint`;
    what the graph does not tell is not there. Arguments as `comfyui.prompt_behind`.
    """
    known = Graph.of(graph)
    samplers = samplers_among(known, known.pictures_behind(link))
    return _of_sampler(known, samplers[0]) if samplers else {}


def vae_behind(graph: object, link: object) -> str | None:
    """The file of the VAE that the pictures or latents of a link passed last, None if not known.

    Arguments as `comfyui.prompt_behind`.
    """
    known = Graph.of(graph)
    for node in known.pictures_behind(link):
        if is_link(node["inputs"].get("vae")):
            return vae_file(known, node)
    return None


def models_behind(graph: object, link: object) -> list[str]:
    """The model that sampled the pictures of a link, and the LoRAs on it, as a person reads them.

    Files by name, a LoRA with its strength, those nearest to the model first; empty where the graph
    does not tell of a model. Arguments as `comfyui.prompt_behind`.
    """
    known = Graph.of(graph)
    samplers = samplers_among(known, known.pictures_behind(link))
    return loaded_models(known, samplers[0].node) if samplers else []


def _of_sampler(graph: Graph, sampler: Sampler) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in with_parts(graph, sampler.node):
        for name, value in part["inputs"].items():
            value = graph.plain(value) if name in _SETTINGS else None
            if value is not None:
                short = value[:MAX_VALUE_CHARS] if isinstance(value, str) else value
                found.setdefault(_SETTINGS[name], short)
    if file := model_file(graph, sampler.node):
        found["checkpoint"] = file
    return found
