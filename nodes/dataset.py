"""Pairs as the model sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..dpo_core.pairs.record import PairSet
from ..dpo_core.training.dataset import EncodedPairs
from .host.conditioning import (
    Conditioning,
    conditioning_digest,
    conditioning_problems,
    plain_conditioning,
)
from .host.encoding import Keys, encode_pairs, encoded_pair
from .host.encoding_progress import EncodingProgress
from .types import CATEGORY, Dataset, Pairs


class EncodePairs(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DPOEncodePairs",
            display_name="Encode Pairs (DPO)",
            category=CATEGORY,
            description="Turns images into latents and prompts into conditioning, once, before "
            "training. What was encoded before, with the same VAE, text encoder and size, is "
            "taken from output/dpo/cache, also after a restart; after Stop the next Run goes on "
            "where this one was. You may delete that folder at any time.",
            hidden=[io.Hidden.unique_id],
            inputs=[
                Pairs.Input(
                    "pairs",
                    tooltip="Chosen and rejected images with their prompts, and single images that "
                    "are liked or disliked.",
                ),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Clip.Input("clip", tooltip="The text encoder that belongs to the model."),
                io.Float.Input(
                    "megapixels", default=0.0, min=0.0, max=16.0, step=0.05,
                    tooltip="Scales every image to this area, 1 being 1024 x 1024; smaller trains "
                    "faster in less memory. 0 keeps the size. Both images of a pair are always "
                    "scaled alike, and pairs of different sizes are trained in groups.",
                ),
                io.Float.Input(
                    "guidance", default=3.5, min=0.0, max=100.0, step=0.1,
                    tooltip="For models that have guidance built in, such as Flux: what you "
                    "generate with. Other models ignore it.",
                ),
                io.Boolean.Input(
                    "groups", default=False, optional=True,
                    tooltip="Also encodes every image of whole rankings, and of ties, for an "
                    "objective that learns from those (dgpo, davidson). Pairs and single liked or "
                    "disliked images are always encoded.",
                ),
            ],
            outputs=[Dataset.Output(display_name="dataset")],
        )

    @classmethod
    def execute(
        cls,
        pairs: PairSet,
        vae: Any,
        clip: Any,
        megapixels: float,
        guidance: float,
        groups: bool = False,
    ) -> io.NodeOutput:
        progress = EncodingProgress(cls.hidden.unique_id)
        # Outside inference mode, so that what is encoded can be trained with.
        with torch.inference_mode(False), torch.no_grad():
            dataset = encode_pairs(pairs, vae, clip, megapixels, guidance, groups, progress)
        # Encoded otherwise it is another collection: one must not go on where the other stood.
        encoded = f"megapixels {megapixels:g}, guidance {guidance:g}, groups {groups}"
        lineage = (*pairs.lineage, encoded) if pairs.lineage else ()
        return io.NodeOutput(replace(dataset, lineage=lineage))


class DatasetFromLatents(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DPODatasetFromLatents",
            display_name="Dataset from Latents (DPO)",
            category=CATEGORY,
            description="Pairs latents that are already there. Takes single latents, batches and "
            "the lists of ComfyUI's dataset nodes.",
            is_input_list=True,
            inputs=[
                io.Latent.Input("chosen", tooltip="The better images."),
                io.Latent.Input("rejected", tooltip="The worse ones, in the same order and size."),
                io.Conditioning.Input(
                    "positive", tooltip="One prompt for all pairs, or one for each."
                ),
            ],
            outputs=[Dataset.Output(display_name="dataset")],
        )

    @classmethod
    def execute(
        cls,
        chosen: list[dict[str, Any]],
        rejected: list[dict[str, Any]],
        positive: list[list[Conditioning]],
    ) -> io.NodeOutput:
        better, worse = _single_latents(chosen), _single_latents(rejected)
        entries = [
            one for conditioning in positive for entry in conditioning for one in _single(entry)
        ]
        if problems := _problems(better, worse, entries, chosen + rejected):
            raise ValueError("These latents cannot be paired:\n- " + "\n- ".join(problems))
        with torch.inference_mode(False), torch.no_grad():
            plain = _each_once(entries)
            prompts = plain * len(better) if len(plain) == 1 else plain
            keys = Keys()
            dataset = EncodedPairs(
                tuple(
                    encoded_pair(*one, keys) for one in zip(better, worse, prompts, strict=True)
                )
            )
        return io.NodeOutput(dataset)


def _size(latent: Tensor) -> str:
    height, width = latent.shape[-2:]
    return f"{latent.shape[0]} channels of {width} x {height}"


def _single_latents(latents: list[dict[str, Any]]) -> list[Tensor]:
    return [one for latent in latents for one in latent["samples"]]


def _single(entry: Conditioning) -> list[Conditioning]:
    """The prompts of a conditioning that holds a batch of them, one entry for each."""
    context, options = entry
    size = context.shape[0]
    if size == 1:
        return [entry]

    def row(value: Any, i: int) -> Any:
        batched = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == size
        return value[i : i + 1] if batched else value

    return [
        [row(context, i), {key: row(value, i) for key, value in options.items()}]
        for i in range(size)
    ]


def _each_once(entries: list[Conditioning]) -> list[Conditioning]:
    """Their own copies, equal prompts as one object: it may be megabytes, shared by many pairs."""
    digests = [conditioning_digest(entry) for entry in entries]
    found = {
        digest: plain_conditioning(entry)
        for digest, entry in dict(zip(digests, entries, strict=True)).items()
    }
    return [found[digest] for digest in digests]


def _problems(
    better: list[Tensor],
    worse: list[Tensor],
    entries: list[Conditioning],
    latents: list[dict[str, Any]],
) -> list[str]:
    found = []
    if len(better) != len(worse):
        found.append(
            f"{len(better)} chosen but {len(worse)} rejected latents: connect as many of one as "
            "of the other; they are paired in order."
        )
    if len(entries) not in (1, len(better)):
        found.append(
            f"{len(entries)} conditionings for {len(better)} pairs: give one for all, or one for "
            "each. A combination of several prompts cannot be trained on."
        )
    for i, (a, b) in enumerate(zip(better, worse, strict=False), 1):
        if a.shape != b.shape:
            found.append(
                f"Pair {i}: chosen is {_size(a)}, rejected {_size(b)}. Crop or scale both images "
                "to one size before they are encoded."
            )
        elif torch.equal(a, b):
            found.append(f"Pair {i}: chosen and rejected are the same.")
    for i, entry in enumerate(entries, 1):
        found += [
            f"Conditioning {i} {problem}, which cannot be trained on: connect a plain prompt."
            for problem in conditioning_problems(entry)
        ]
    if any(latent.get("noise_mask") is not None for latent in latents):
        found.append("A latent carries a mask, which cannot be trained on: remove it.")
    return found
