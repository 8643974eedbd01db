"""What a session gives back to the graph: pairs, and images best first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ...dpo_core.pairs.problem import PairError
from ...dpo_core.pairs.record import PairSet
from ...dpo_core.ranking.pair_making import SessionJudgement
from ...dpo_core.ranking.session import SessionState
from ...dpo_core.ranking.session_name import SessionNameError
from .sessions import session_at, session_paths


def votes_fingerprint(session: str | None) -> str:
    """Changes when votes do; `session` is None where it is not known before the node runs."""
    try:
        paths = session_paths() if session is None else [session]
        return " ".join(session_at(path).fingerprint() for path in paths)
    except (SessionNameError, OSError) as error:
        return str(error)


def votes_of_people(session: str | None) -> str:
    """As :func:`votes_fingerprint`, of the votes that no judge has cast."""
    if session is None:
        return votes_fingerprint(None)
    try:
        return session_at(session).fingerprint(people=True)
    except (SessionNameError, OSError) as error:
        return str(error)


def or_blocked(value: Any) -> Any:
    """The value, or what quietly keeps the nodes after it from running."""
    return ExecutionBlocker(None) if value is None else value


def pairs_or_blocked(pairs: PairSet, user: str, pairs_per_group: int) -> Any:
    """The pairs of a session, under the name their training goes on by; blocked if none."""
    if pairs.is_empty:
        return or_blocked(None)
    # Sessions of one name are one taste only where they are one person's, and paired alike.
    names = [f"{user}/{name}" if user else name for name in pairs.lineage]
    lineage = tuple(f"{name}, {pairs_per_group} pairs per group" for name in names)
    return replace(pairs, lineage=lineage)


def images_best_first(state: SessionState, set_id: str) -> Tensor | None:
    """As :func:`images_in_order`; None while no image is better than another."""
    standings = SessionJudgement(state).standings(set_id)
    if standings[0].rating == standings[-1].rating:
        return None
    return images_in_order(state, set_id, [one.image for one in standings])


def images_in_order(state: SessionState, set_id: str, image_ids: Sequence[str]) -> Tensor | None:
    """Images of a set, shape (n, height, width, 3); None if all of them are gone.

    Images of several sizes lie in the middle of black ones of the largest height and width.
    """
    images = []
    for image_id in image_ids:
        try:
            images.append(torch.from_numpy(state.picture(set_id, image_id).pixels()))
        except PairError:
            continue  # the report says that it is gone
    if not images:
        return None
    height, width = (max(image.shape[i] for image in images) for i in (0, 1))
    frames = torch.zeros(len(images), height, width, 3)
    for frame, image in zip(frames, images, strict=True):
        top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
        frame[top : top + image.shape[0], left : left + image.shape[1]] = image
    return frames
