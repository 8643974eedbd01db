"""Choosing among images in the graph, and what was chosen before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
from comfy_api.v0_0_2 import io
from comfy_execution.utils import get_executing_context
from server import PromptServer
from torch import Tensor

from ..dpo_core.pairs.record import PairSet
from ..dpo_core.ranking.given_votes import given_votes
from ..dpo_core.ranking.pair_making import PairRules, make_preferences
from ..dpo_core.ranking.requests import MAX_PAIRS_PER_GROUP, MODES
from ..dpo_core.ranking.session import SessionState
from ..dpo_core.ranking.vote import MAX_IMAGES, CandidateSet
from .host.candidates import NO_PROMPT, incoming, ranking_value
from .host.preferences import images_best_first, or_blocked, pairs_or_blocked, votes_fingerprint
from .host.progress import say
from .host.sessions import open_session, session_at, session_paths
from .host.user import user_of_ranking
from .host.waiting import WAITING_ROOM, Waiting
from .types import CATEGORY, Pairs, Ranking

USES = ("session", "this_batch")


class RankImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DPORankImages",
            display_name="Rank Images (DPO)",
            category=CATEGORY,
            description="Choose among generated images, here in the node. Every choice is kept on "
            "disk and becomes pairs to train on. The queue does not wait for you: what you have "
            "chosen counts from the next run on.",
            search_aliases=["pick images", "preference", "choose best", "image picker", "rate"],
            is_output_node=True,
            is_input_list=True,
            not_idempotent=True,
            has_intermediate_output=True,
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip=f"2 to {MAX_IMAGES} images of one prompt: a batch, or a list, which "
                    "may hold several sizes. Pairs are only made of images of one size.",
                ),
                io.String.Input(
                    "session", default="default",
                    tooltip="Choices and images are kept under this name, in "
                    "output/dpo/sessions. Use one for each taste you train.",
                ),
                io.Combo.Input(
                    "mode", options=list(MODES), default=MODES[0],
                    tooltip="best_worst: click the best, then the worst. rank: put any number in "
                    "order. side_by_side: two at a time, a short tournament. thumbs: good or bad "
                    "for each image on its own.",
                ),
                io.Combo.Input(
                    "use", options=list(USES), default=USES[0],
                    tooltip="session: pairs of everything chosen in the session so far. "
                    "this_batch: only of these images, and until they are ranked, of those ranked "
                    "last in this node.",
                ),
                io.Int.Input(
                    "pairs_per_group", default=1, min=1, max=MAX_PAIRS_PER_GROUP,
                    tooltip="Pairs made of each batch, where your choices tell so many apart. An "
                    "image is in one pair of its batch. What you pick as best and worst is always "
                    "a pair.",
                ),
                io.Boolean.Input(
                    "wait", default=False,
                    tooltip="Hold the queue until you have chosen and continue. Without it the "
                    "queue goes on, and your choice counts in the next run.",
                ),
                Ranking.Input(
                    "ranking", optional=True,
                    tooltip="The choices made here. A script may give votes: "
                    '{"votes": [{"kind": "best_worst", "best": 2, "worst": 0}]}, images counted '
                    "from 0.",
                ),
                io.String.Input(
                    "prompt", default="", optional=True,
                    tooltip="The prompt these images were made with. Left empty, it is read from "
                    "the sampler they come from.",
                ),
                io.Latent.Input(
                    "latents", optional=True,
                    tooltip="The latents these images were decoded from, as the sampler gave them, "
                    "in the same order. Pairs are then trained on them and need not be encoded, "
                    "as long as megapixels of Encode Pairs keeps the size and its VAE is the one "
                    "these belong to: its file is compared where the graph tells it, else only "
                    "the shape. Leave this open if the images were changed after decoding.",
                ),
            ],
            outputs=[
                Pairs.Output(display_name="pairs"),
                io.Image.Output(display_name="best"),
                io.Image.Output(display_name="ranked"),
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls, session: Sequence[str | None], ranking: Sequence[Any] = (), **_: Any
    ) -> str:
        # Votes count, sets do not: storing the images of a run is no news to the next one.
        try:
            user, name = user_of_ranking(ranking_value(ranking)), session[0]
        except ValueError as error:
            return str(error)
        prefix = f"{user}/" if user else ""
        return votes_fingerprint(None if name is None else prefix + name)

    @classmethod
    def execute(
        cls,
        images: Sequence[Tensor],
        session: Sequence[str],
        mode: Sequence[str],
        use: Sequence[str],
        pairs_per_group: Sequence[int],
        wait: Sequence[bool],
        ranking: Sequence[Mapping[str, Any]] = ({},),
        prompt: Sequence[str] = ("",),
        latents: Sequence[Any] = (),
    ) -> io.NodeOutput:
        node = str(cls.hidden.unique_id)
        made = incoming(
            images, prompt, latents, cls.hidden.prompt, node, cls.hidden.extra_pnginfo
        )
        given = ranking_value(ranking)
        user = user_of_ranking(given)
        opened = open_session(session[0], user)
        batch = made.add_to(opened)
        for vote in given_votes(given, batch.id, made.ids, opened.problems):
            opened.vote(vote)
        context = get_executing_context()
        reference = {
            "v": 1,
            "session": opened.name,
            "set_id": batch.id,
            "mode": mode[0],
            "pairs_per_group": pairs_per_group[0],
            "wait": wait[0],
            "node": node,
            "prompt_id": "" if context is None else context.prompt_id,
        }
        if wait[0] and not opened.state().votes_on(batch.id):
            _wait(reference, user)
        rules = PairRules(pairs_per_group[0], soft_labels=False)
        outcome = _outcome(opened.state(), batch, given, use[0], rules)
        lines = [outcome.report] if made.prompt else [NO_PROMPT, outcome.report]
        if not made.prompt:
            say(NO_PROMPT, node)
        return io.NodeOutput(
            pairs_or_blocked(outcome.pairs, user, pairs_per_group[0]),
            or_blocked(outcome.images[:1] if outcome.images is not None else None),
            or_blocked(outcome.images),
            ui={"dpo_set": [reference], "text": ["\n".join(lines)]},
        )


class LoadPreferences(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DPOLoadPreferences",
            display_name="Load Preferences (DPO)",
            category=CATEGORY,
            description="Everything chosen in a session so far, without its images being made "
            "again.",
            inputs=[
                io.Combo.Input(
                    "session", options=session_paths(),
                    tooltip="A session of Rank Images. It is read again when choices were added.",
                ),
                io.Int.Input(
                    "pairs_per_group", default=1, min=1, max=MAX_PAIRS_PER_GROUP, optional=True,
                    tooltip="Pairs made of each batch, as in Rank Images.",
                ),
            ],
            outputs=[
                Pairs.Output(display_name="pairs"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, session: str | None, **_: Any) -> str:
        return votes_fingerprint(session)

    @classmethod
    def execute(cls, session: str, pairs_per_group: int = 1) -> io.NodeOutput:
        opened = session_at(session)
        if not opened.folder.is_dir():
            raise ValueError(
                f"There is no session {session!r} any more. Choose another one, or rank images in "
                "a session of that name."
            )
        rules = PairRules(pairs_per_group, soft_labels=False)
        made = make_preferences(opened.state(), rules)
        user = session.rpartition("/")[0]
        pairs = pairs_or_blocked(made.records, user, pairs_per_group)
        return io.NodeOutput(pairs, made.report, ui={"text": [made.report]})


@dataclass(frozen=True)
class _Outcome:
    """What the node gives: pairs, and the images of a batch, best first, if that is known."""

    pairs: PairSet
    images: Tensor | None
    report: str


def _outcome(
    state: SessionState,
    batch: CandidateSet,
    ranking: Mapping[str, Any],
    use: str,
    rules: PairRules,
) -> _Outcome:
    ranked = _ranked_set(state, batch, ranking)
    made = make_preferences(state, rules, None if use == "session" else [ranked])
    return _Outcome(made.records, images_best_first(state, ranked), made.report)


def _ranked_set(state: SessionState, batch: CandidateSet, ranking: Mapping[str, Any]) -> str:
    """The batch at hand once it has votes; until then the one ranked last in this node."""
    last = ranking.get("set_id") if ranking.get("session") == state.name else None
    if state.votes_on(batch.id) or not isinstance(last, str) or last not in state.sets:
        return batch.id
    return last


def _wait(reference: Mapping[str, Any], user: str) -> None:
    """Holds the queue until the person is done, if a page of theirs is connected."""
    server = getattr(PromptServer, "instance", None)
    if server is None or server.client_id is None or server.client_id not in server.sockets:
        return
    one = Waiting(
        reference["node"], reference["prompt_id"], reference["session"], reference["set_id"], user
    )
    server.send_sync("dpo.set", dict(reference), server.client_id)
    WAITING_ROOM.wait(
        one,
        comfy.model_management.throw_exception_if_processing_interrupted,
        lambda: bool(server.sockets),
    )
