"""Online training: the model in training draws the pictures it learns from, round by round."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import comfy.samplers
import numpy as np
import torch
from comfy_api.v0_0_2 import io
from comfy_execution.utils import get_executing_context
from PIL import Image
from torch import Tensor

from ..dpo_core.judging.panel import Panel
from ..dpo_core.online.record import OnlineRecord, OnlineRound
from ..dpo_core.ranking.given_votes import given_votes
from ..dpo_core.ranking.requests import MAX_PAIRS_PER_GROUP, MODES
from ..dpo_core.ranking.session import Session
from ..dpo_core.ranking.vote import MAX_IMAGES
from ..dpo_core.saving.run_lock import RunBusy, run_lock
from .host.candidates import ranking_value
from .host.encoding import PromptEncoder, encoding_store
from .host.folders import online_folder, shown
from .host.online.held_out_pictures import HeldOutPictures
from .host.online.online_rounds import OnlineRounds, Played, record_content, told
from .host.online.online_settings import REFERENCES, OnlineSettings
from .host.online.round_pairs import RoundPairs
from .host.online.round_pictures import RoundPictures
from .host.preferences import or_blocked, votes_of_people
from .host.progress import Progress, say
from .host.sessions import open_session
from .host.trainer import Trainer as TrainerValue
from .host.user import user_of_ranking
from .tooltip import field_docs
from .trainer import loss_map
from .types import CATEGORY, Judge, Lora, LossMap, Ranking, Trainer

TOLD_ROUNDS = 5
"""On the node; all of them are in the folder."""


class OnlineRoundsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        docs, usual = field_docs(OnlineSettings), OnlineSettings()
        samplers, schedulers = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS

        def whole(name: str, low: int, high: int, **options: Any) -> io.Input:
            return io.Int.Input(
                name, default=getattr(usual, name), min=low, max=high, tooltip=docs[name], **options
            )

        def real(name: str, high: float, step: float, **options: Any) -> io.Input:
            return io.Float.Input(
                name, default=getattr(usual, name), min=0.0, max=high, step=step,
                tooltip=docs[name], **options,
            )

        return io.Schema(
            node_id="DPOOnlineRounds",
            display_name="Online Rounds (DPO)",
            category=CATEGORY,
            description="The LoRA in training draws the pictures it learns from. With a judge it "
            "plays all rounds by itself. Without one you rank here in the node: run, rank, run; "
            "each Run learns from what you have ranked and draws the next round. Stop, a reload "
            "and a restart lose nothing.",
            search_aliases=["online dpo", "reward model", "taste loop"],
            is_output_node=True,
            not_idempotent=True,
            has_intermediate_output=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                Trainer.Input(
                    "trainer",
                    tooltip="From Trainer, which needs no dataset here, or from Train Steps to go "
                    "on from. Pairs of its own are replayed beside the new ones.",
                ),
                io.Clip.Input("clip", tooltip="The text encoder that belongs to the model."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.String.Input(
                    "prompts", default=usual.prompts, multiline=True, tooltip=docs["prompts"]
                ),
                io.String.Input(
                    "negative", default=usual.negative, multiline=True, tooltip=docs["negative"]
                ),
                io.String.Input(
                    "session", default="online",
                    tooltip="Pictures and choices are kept under this name, in "
                    "output/dpo/sessions. Another name begins new rounds.",
                ),
                io.Combo.Input(
                    "mode", options=list(MODES), default=MODES[0],
                    tooltip="How you rank, as in Rank Images. A judge does not need it.",
                ),
                whole("rounds", 1, 100_000),
                whole("images_per_prompt", 2, MAX_IMAGES),
                whole("steps_per_round", 1, 100_000),
                whole("pairs_per_group", 1, MAX_PAIRS_PER_GROUP),
                whole("seed", 0, 2**53 - 1, control_after_generate=io.ControlAfterGenerate.fixed),
                whole("steps", 1, 10_000),
                real("cfg", 100.0, 0.1),
                io.Combo.Input(
                    "sampler", options=list(samplers), default=usual.sampler,
                    tooltip=docs["sampler"],
                ),
                io.Combo.Input(
                    "scheduler", options=list(schedulers), default=usual.scheduler,
                    tooltip=docs["scheduler"],
                ),
                whole("width", 16, 16384, step=8),
                whole("height", 16, 16384, step=8),
                Ranking.Input(
                    "ranking", optional=True,
                    tooltip="The choices made here. A script may give votes, each with its `set` "
                    "and images by their ids.",
                ),
                Judge.Input(
                    "judge", optional=True,
                    tooltip="Who says which picture is better. Left open, that is you.",
                ),
                real("replay", 0.95, 0.05, optional=True),
                real("min_gap", 1e6, 0.001, optional=True),
                io.Combo.Input(
                    "reference", options=list(REFERENCES), default=usual.reference, optional=True,
                    tooltip=docs["reference"],
                ),
                real("guidance", 100.0, 0.1, optional=True),
                whole("prompts_per_round", 0, 100_000, optional=True),
                io.String.Input(
                    "held_out_prompts", default="", multiline=True, optional=True,
                    tooltip=docs["held_out_prompts"],
                ),
                whole("held_out_seeds", 0, 64, optional=True),
                whole("patience", 0, 100_000, optional=True),
            ],
            outputs=[
                Trainer.Output(display_name="trainer"),
                Lora.Output(display_name="lora"),
                LossMap.Output(display_name="loss_map"),
                io.Image.Output(display_name="samples"),
                io.Image.Output(display_name="held_out"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, session: str | None, ranking: Any = None, **_: Any) -> str:
        # What people choose counts; a judge's own votes are no news to it.
        try:
            user = user_of_ranking(ranking or {})
        except ValueError as error:
            return str(error)
        return votes_of_people(f"{user}/{session}" if user and session else session)

    @classmethod
    def execute(
        cls,
        trainer: TrainerValue,
        clip: Any,
        vae: Any,
        session: str,
        mode: str,
        ranking: Mapping[str, Any] | None = None,
        judge: Panel | None = None,
        **values: Any,
    ) -> io.NodeOutput:
        settings = OnlineSettings(**values)
        if problems := settings.problems():
            raise ValueError("These rounds cannot be played:\n- " + "\n- ".join(problems))
        node = cls.hidden.unique_id
        given = ranking_value([ranking])
        user = user_of_ranking(given)
        opened = open_session(session, user)
        for vote in given_votes(given, "", (), opened.problems):
            opened.vote(vote)
        name = f"{user}/{opened.name}" if user else opened.name
        record = OnlineRecord(online_folder(), record_content(trainer, name))
        encoder = PromptEncoder(clip, settings.guidance, encoding_store())
        held_out = HeldOutPictures(record.path, settings, encoder, vae, trainer)
        rounds = OnlineRounds(
            trainer, settings, judge, opened, record,
            RoundPictures(settings, encoder, vae, opened, record),
            RoundPairs(trainer, settings, opened, vae, clip), held_out,
            partial(Progress, node_id=node),
        )
        played = _played(record, rounds)
        shown_set = _set_to_show(played.rounds, opened, judge)
        lines = _lines(played, record)
        say("\n".join(lines), node, log=True)
        context = get_executing_context()
        reference = {
            "v": 1,
            "session": opened.name,
            "set_id": shown_set,
            "mode": mode,
            "pairs_per_group": settings.pairs_per_group,
            "wait": False,
            "node": str(node),
            "prompt_id": "" if context is None else context.prompt_id,
        }
        nothing = played.lora is None and not trainer.dataset.records
        return io.NodeOutput(
            or_blocked(None if nothing else played.trainer),
            or_blocked(played.lora),
            or_blocked(_curves(played) if played.rows else None),
            or_blocked(_samples(played.rounds, opened)),
            or_blocked(_picture(held_out.strip.strip)),
            ui={"text": ["\n".join(lines)], "dpo_set": [reference] if shown_set else []},
        )


def _played(record: OnlineRecord, rounds: OnlineRounds) -> Played:
    """The rounds played, by nobody else at the same time. Raises ValueError."""
    try:
        record.open()
        with run_lock(record.path):
            record.read()  # another may have played on since
            return rounds.play()
    except RunBusy as busy:
        raise ValueError(
            f"These very rounds are being played already ({busy}). Let them end or stop them "
            "there, then run again."
        ) from busy
    except OSError as error:
        raise ValueError(
            f"The rounds cannot be written down in {shown(record.path)} ({error}). Make room and "
            "run again: what was done so far is kept."
        ) from error


def _set_to_show(rounds: tuple[OnlineRound, ...], session: Session, judge: Panel | None) -> str:
    """The first of the last round that waits to be ranked, else its first; empty if none."""
    sets = next((one.sets for one in reversed(rounds) if one.sets), ())
    state = session.state()
    waiting = [] if judge is not None else [one for one in sets if not state.votes_on(one)]
    return next(iter([*waiting, *sets]), "")


def _lines(played: Played, record: OnlineRecord) -> list[str]:
    """What is next, then the last rounds, the newest first: a node shows few lines."""
    rounds = [told(one) for one in reversed(played.rounds) if one.closed]
    news = [line for line in played.said if line not in rounds]
    kept = f"The rounds are kept in {shown(record.path)}."
    return [*news, *rounds[:TOLD_ROUNDS], kept]


def _curves(played: Played) -> dict[str, list[float]]:
    """The metrics of all steps, and those of all rounds by their own names."""
    closed = [one.metrics for one in played.rounds if one.closed]
    names = sorted({name for row in closed for name in row} - {"step"})
    return loss_map(played.rows) | {
        name: [row[name] for row in closed if name in row] for name in names
    }


def _samples(rounds: tuple[OnlineRound, ...], session: Session) -> Tensor | None:
    """The pictures of the last round, shape (n, height, width, 3); those of its last size."""
    sets = next((one.sets for one in reversed(rounds) if one.sets), ())
    pictures = [
        torch.from_numpy(pixels).float() / 255
        for group in session.state().pixels(sets)
        for pixels in group
    ]
    alike = [one for one in pictures if one.shape == pictures[-1].shape]
    return torch.stack(alike) if alike else None


def _picture(path: Path | None) -> Tensor | None:
    if path is None:
        return None
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).unsqueeze(0)
