"""Images of a graph on their way into a session, to be ranked together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comfy.cli_args import args
from torch import Tensor

from ...dpo_core.metadata.comfyui import prompt_behind
from ...dpo_core.metadata.comfyui_settings import generation_behind, vae_behind
from ...dpo_core.pairs.latent_file import KnownLatent
from ...dpo_core.ranking.image_store import MAX_METADATA_CHARS, NewImage, identified_images
from ...dpo_core.ranking.session import Session
from ...dpo_core.ranking.vote import MAX_IMAGES, CandidateSet
from .latents import known_latents, latent_problems

NO_PROMPT = (
    "The prompt of these images cannot be told from the graph; their pairs are trained without "
    "one. Connect the text to the input `prompt`."
)


@dataclass(frozen=True)
class Incoming:
    """Images on their way into a session.

    Attributes:
        ids: of the images as they came, those of equal content being equal.
        prompt: what they were made with, as far as it is given or the graph tells; else empty.
    """

    ids: tuple[str, ...]
    prompt: str
    images: tuple[NewImage, ...]
    latents: tuple[KnownLatent, ...]

    def add_to(self, session: Session) -> CandidateSet:
        """The images as a set of the session, durably. Raises ValueError."""
        return add_candidates(session, self.images, self.prompt, self.latents)


def incoming(
    images: Sequence[Tensor],
    prompts: Sequence[str],
    latents: Sequence[Any],
    graph: Any,
    node: str,
    extra: Mapping[str, Any] | None,
) -> Incoming:
    """The images of a node that takes lists, with all the graph tells of them.

    Args:
        graph: the prompt that is run, node ids to nodes.
        node: the node's id; its inputs are called `images` and `latents`.
        extra: what the page sent besides, for the metadata of images.

    Raises:
        ValueError: they cannot be ranked together, with everything that is in the way.
    """
    inputs = (graph or {}).get(node, {}).get("inputs", {})
    link = inputs.get("images")
    found = candidate_images(images, prompts, latents)
    text = next((one for one in prompts if one and one.strip()), None)
    if text is None:
        text = prompt_behind(graph or {}, link, (extra or {}).get("workflow"))
    metadata = graph_metadata(graph, link, extra)
    vae = vae_behind(graph or {}, inputs.get("latents")) or vae_behind(graph or {}, link)
    return Incoming(
        tuple(one for one, _ in found),
        text or "",
        tuple(NewImage(pixels, metadata, one) for one, pixels in found),
        tuple(known_latents(latents, vae)),
    )


def ranking_value(ranking: Sequence[Any]) -> Mapping[str, Any]:
    """A `ranking` input as a node that takes lists gets it. Raises ValueError."""
    value = ranking[0] if ranking else None
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError("`ranking` must be an object, such as {}.")
    return value


def candidate_images(
    images: Sequence[Tensor], prompts: Sequence[str], latents: Sequence[Any]
) -> list[tuple[str, Any]]:
    """Ids and pixels, as they are stored, from batches, single images and lists of them.

    Raises:
        ValueError: they cannot be ranked together, with everything that is in the way.
    """
    singles = [one for image in images for one in (image if image.ndim == 4 else [image])]
    problems = latent_problems(latents, len(singles))
    found: list[tuple[str, Any]] = []
    if len(singles) > MAX_IMAGES:
        problems.append(
            f"There are {len(singles)} images; at most {MAX_IMAGES} can be ranked together. Make "
            "smaller batches."
        )
    else:
        found = identified_images([one[..., :3].cpu().float().numpy() for one in singles])
        if len({one for one, _ in found}) < 2:
            problems.append(
                "There is only one image. Set batch_size to 2 or more." if len(singles) == 1
                else f"There are {len(singles)} images, but all of them are the same."
            )
    if len({one for one in prompts if one and one.strip()}) > 1:
        problems.append(
            "The images have several prompts. Rank those of one prompt at a time: give one text."
        )
    if problems:
        raise ValueError("These images cannot be ranked:\n- " + "\n- ".join(problems))
    return found


def graph_metadata(graph: Any, link: Any, extra: Any) -> dict[str, str]:
    """What the stored PNGs say of how they were made, as ComfyUI's own do."""
    if args.disable_metadata:
        return {}
    chunks = {"prompt": graph, "dpo_generation": generation_behind(graph, link), **(extra or {})}
    written = {name: json.dumps(chunk) for name, chunk in chunks.items() if chunk}
    if sum(map(len, written.values())) > MAX_METADATA_CHARS:
        return {name: text for name, text in written.items() if name == "dpo_generation"}
    return written


def add_candidates(
    session: Session,
    images: Sequence[NewImage],
    prompt: str,
    latents: Sequence[KnownLatent] = (),
) -> CandidateSet:
    """The images as a set of the session, durably. Raises ValueError."""
    try:
        return session.add_set(images, prompt, latents)
    except OSError as error:
        raise ValueError(
            f"The images could not be stored in {session.folder} ({error.strerror or error}). "
            "Nothing half-written is left, and what was chosen before is safe. Make room on the "
            "disk and run again."
        ) from error
