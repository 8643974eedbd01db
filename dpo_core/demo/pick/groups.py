"""Groups of pictures to rank: of each prompt some, drawn by the base model into a session."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...pairs.latent_file import KnownLatent
from ...ranking.image_store import NewImage
from ...ranking.session import Session
from ..network import FlowNetwork, to_pictures
from ..picks import draw_pictures, first_seed, prompt_pool

MAX_PICTURES = 16
"""Of one group."""
LATENT = "dpo-demo"
"""Marks what the embedded model drew, before it was clipped and rounded to an image."""


@dataclass(frozen=True)
class Group:
    """A prompt, and the seeds of its pictures."""

    prompt: str
    seeds: tuple[int, ...]


def group(number: int, pictures: int, seed: int) -> Group:
    """The group of a number, counted from 0; prompts come again once all were used.

    Its prompts and seeds are those of training: none is held out.
    """
    pool = prompt_pool(held_out=False)
    order = random.Random(f"groups {seed}").sample(pool, len(pool))
    first = first_seed(seed, held_out=False) + MAX_PICTURES * number
    return Group(order[number % len(order)], tuple(range(first, first + pictures)))


def draw_groups(
    network: FlowNetwork,
    session: Session,
    wanted: int,
    pictures: int,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> None:
    """Draws what the session lacks of so many groups, one after the other.

    Raises:
        OSError: no room, no permission.
    """
    for number in range(len(session.state().sets), wanted):
        progress("drawing pictures", number, wanted)
        one = group(number, pictures, seed)
        drawn = draw_pictures(network, [one.prompt] * pictures, one.seeds)
        latents = [KnownLatent(picture.numpy(), LATENT) for picture in drawn]
        session.add_set(new_images(drawn, one.seeds), one.prompt, latents)


def new_images(pictures: Tensor, seeds: tuple[int, ...]) -> list[NewImage]:
    """Pictures (B, 3, 64, 64) for a session."""
    return [
        NewImage(pixels, {"seed": str(seed)})
        for pixels, seed in zip(to_pictures(pictures), seeds, strict=True)
    ]
