"""Judges in place of a person, and images ranked by them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..dpo_core.judging.judge import AnyJudge, JudgeError
from ..dpo_core.judging.judged_set import has_person_votes, judge_set
from ..dpo_core.judging.panel import Member, Panel
from ..dpo_core.judging.verdict import Verdict
from ..dpo_core.judging.verdict_table import best_first, brief_scores, verdict_table, why_no_pair
from ..dpo_core.ranking.pair_making import PairRules, SessionJudgement, make_preferences
from ..dpo_core.ranking.requests import MAX_PAIRS_PER_GROUP
from ..dpo_core.ranking.session import Session, SessionState
from ..dpo_core.ranking.vote import MAX_IMAGES, CandidateSet
from .host.candidates import NO_PROMPT, incoming
from .host.judges.judge_files import NONE, judge_weights, weights_fingerprint
from .host.judges.judge_kinds import KINDS, JudgeInputs
from .host.judges.registered_judges import registered_judges
from .host.preferences import images_in_order, or_blocked, pairs_or_blocked, votes_fingerprint
from .host.progress import say
from .host.sessions import open_session
from .host.user import user_and_session
from .ranking import USES
from .types import CATEGORY, Judge, Pairs


class JudgeNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DPOJudge",
            display_name="Judge (DPO)",
            category=CATEGORY,
            description="Says which of several images is better, in place of a person. Several "
            "judges in a row, by also, are one: their scores are added up by weight.",
            search_aliases=["reward model", "pickscore", "hps", "image reward", "aesthetic"],
            inputs=[
                io.Combo.Input(
                    "kind", options=list(KINDS), default=next(iter(KINDS)),
                    tooltip="sharpness, contrast, colourfulness, brightness, target_colour and "
                    "saturation_penalty are measured. clip_similarity: how well the image fits the "
                    "prompt. reward_model: PickScore, HPSv2, ImageReward and their like, from "
                    "weights. aesthetic: a head of weights on clip_vision. vision_language: a "
                    "language model that sees, asked by instruction. registered: of another node "
                    "pack.",
                ),
                io.Float.Input(
                    "weight", default=1.0, min=-1e6, max=1e6, step=0.01,
                    tooltip="The scores count so many times in the sum of all judges. Judges have "
                    "units of their own, so weigh them by what you see. Less than 0: less is "
                    "better.",
                ),
                Judge.Input(
                    "also", optional=True, tooltip="Other judges, whose scores are added to these."
                ),
                io.Boolean.Input(
                    "agree", default=False, optional=True,
                    tooltip="Two images make a pair only where this judge and all of also prefer "
                    "the same one: fewer pairs, and surer ones.",
                ),
                io.Combo.Input(
                    "weights", options=[NONE, *judge_weights()], default=NONE, optional=True,
                    tooltip="For reward_model and aesthetic: a file, or a folder that holds a "
                    "config.json, below models/judges. Nothing is downloaded.",
                ),
                io.Combo.Input(
                    "registered", options=[NONE, *registered_judges()], default=NONE,
                    optional=True,
                    tooltip="For registered: a judge that another node pack brings.",
                ),
                io.String.Input(
                    "colour", default="#c08040", optional=True,
                    tooltip="For target_colour: # and two digits of 0-9 and a-f each for red, "
                    "green and blue. The nearer all of the image is to it, the better.",
                ),
                io.Float.Input(
                    "limit", default=0.6, min=0.0, max=1.0, step=0.01, optional=True,
                    tooltip="For saturation_penalty: saturation up to here costs nothing; 0 is "
                    "grey, 1 a pure colour.",
                ),
                io.Clip.Input(
                    "clip", optional=True,
                    tooltip="For clip_similarity: a CLIP text model with its projection, such as "
                    "clip_l.safetensors. For vision_language: a language model that sees and "
                    "writes, such as Qwen3-VL, Qwen3.5 or Gemma 4.",
                ),
                io.ClipVision.Input(
                    "clip_vision", optional=True,
                    tooltip="For clip_similarity: the vision model that belongs to clip. For "
                    "aesthetic: the one its head was trained on, most often CLIP-ViT-L-14.",
                ),
                io.String.Input(
                    "instruction", default="", multiline=True, optional=True,
                    tooltip="For vision_language: what to ask, with {prompt} where the prompt "
                    "belongs. Ask for one word (first, second, tie), or for points from 0 to 10. "
                    "Empty: which follows the prompt better.",
                ),
                io.Boolean.Input(
                    "pairwise", default=True, optional=True,
                    tooltip="For vision_language: shows two images at a time, in an order drawn "
                    "for each two, and asks which is better. Off: asks for points for each image, "
                    "which is faster and tells less apart.",
                ),
            ],
            outputs=[Judge.Output(display_name="judge")],
        )

    @classmethod
    def fingerprint_inputs(cls, weights: str = NONE, **_: Any) -> str:
        return weights_fingerprint(weights)

    @classmethod
    def execute(
        cls,
        kind: str,
        weight: float,
        also: Panel | None = None,
        agree: bool = False,
        **given: Any,
    ) -> io.NodeOutput:
        problems = []
        if agree and also is None:
            problems.append("agree is on, but this is the only judge: connect others to also.")
        if weight == 0 and also is None:
            problems.append("weight is 0, so nothing would be told apart: give another number.")
        others = also or Panel(())
        member = Member(_judge(kind, JudgeInputs(**given), problems), weight)
        return io.NodeOutput(Panel((*others.members, member), agree or others.agree))


class JudgeImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DPOJudgeImages",
            display_name="Judge Images (DPO)",
            category=CATEGORY,
            description="Ranks generated images by a judge instead of a person. What it says is "
            "kept in the session beside what people chose there, and becomes pairs to train on. "
            "Images that a person has ranked already keep that order.",
            search_aliases=["reward model", "score images", "aesthetic score", "auto rank"],
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
                Judge.Input("judge", tooltip="Who judges: one Judge node, or several in a row."),
                io.String.Input(
                    "session", default="default",
                    tooltip="Verdicts and images are kept under this name, in "
                    "output/dpo/sessions, as those of Rank Images. Where ComfyUI has several "
                    "users, write whose it is before the name, as in anna/default.",
                ),
                io.Combo.Input(
                    "use", options=list(USES), default=USES[0],
                    tooltip="session: pairs of everything judged or chosen in the session so far. "
                    "this_batch: only of these images.",
                ),
                io.Int.Input(
                    "pairs_per_group", default=1, min=1, max=MAX_PAIRS_PER_GROUP,
                    tooltip="Pairs made of each batch, those that are furthest apart first. An "
                    "image is in one pair of its batch.",
                ),
                io.Float.Input(
                    "min_gap", default=0.0, min=0.0, max=1e6, step=0.001,
                    tooltip="Two images make a pair only if their scores are at least so far "
                    "apart, in the judge's own units. Run once and look at the scores to find it.",
                ),
                io.String.Input(
                    "prompt", default="", optional=True,
                    tooltip="The prompt these images were made with. Left empty, it is read from "
                    "the sampler they come from.",
                ),
                io.Latent.Input(
                    "latents", optional=True,
                    tooltip="The latents these images were decoded from, as the sampler gave them, "
                    "in the same order, as in Rank Images: pairs are then trained on them and need "
                    "not be encoded. Leave this open if the images were changed after decoding.",
                ),
            ],
            outputs=[
                Pairs.Output(display_name="pairs"),
                io.String.Output(display_name="scores"),
                io.Image.Output(display_name="ranked"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, session: Sequence[str | None], **_: Any) -> str:
        return votes_fingerprint(session[0])

    @classmethod
    def execute(
        cls,
        images: Sequence[Tensor],
        judge: Sequence[Panel],
        session: Sequence[str],
        use: Sequence[str],
        pairs_per_group: Sequence[int],
        min_gap: Sequence[float],
        prompt: Sequence[str] = ("",),
        latents: Sequence[Any] = (),
    ) -> io.NodeOutput:
        node, extra = str(cls.hidden.unique_id), cls.hidden.extra_pnginfo
        made = incoming(images, prompt, latents, cls.hidden.prompt, node, extra)
        user, name = user_and_session(session[0])
        opened = open_session(name, user)
        batch = made.add_to(opened)
        verdict = _verdict(opened, batch, judge[0], min_gap[0])
        state, rules = opened.state(), PairRules(pairs_per_group[0], soft_labels=False)
        preferences = make_preferences(state, rules, None if use[0] == "session" else [batch.id])
        numbers = [made.ids.index(image.id) + 1 for image in batch.images]
        outcome = _outcome(state, batch, verdict, numbers, rules, min_gap[0])
        scores = "\n".join([verdict_table(verdict, numbers), *outcome])
        no_prompt = [] if made.prompt else [NO_PROMPT]
        # One line, as the page may take several for Markdown.
        say(" ".join([*no_prompt, *outcome, brief_scores(verdict, numbers)]), node)
        text = "\n".join([*no_prompt, scores, preferences.report])
        order = _order(state, batch, verdict)
        return io.NodeOutput(
            pairs_or_blocked(preferences.records, user, pairs_per_group[0]),
            scores,
            or_blocked(images_in_order(state, batch.id, order)),
            ui={"images": _shown(opened, order), "text": [text]},
        )


def _judge(kind: str, inputs: JudgeInputs, problems: Sequence[str]) -> AnyJudge:
    """The judge, if nothing is wrong with it or besides.

    Raises:
        JudgeError: something is, with these problems and its own.
    """
    judge, found = None, [*inputs.problems(kind), *problems]
    try:
        judge = None if inputs.problems(kind) else inputs.judge(kind)
    except JudgeError as error:
        found.append(str(error))
    if found:
        raise JudgeError("This judge cannot be used:\n- " + "\n- ".join(found))
    return judge


def _verdict(session: Session, batch: CandidateSet, panel: Panel, min_gap: float) -> Verdict:
    """What the judges say of a batch, which is stored by now."""
    try:
        return judge_set(session, batch, panel, min_gap)
    except JudgeError as error:
        raise JudgeError(
            f"{error}\nThe images are stored in the session {session.name}, and what was said "
            "there before is kept. Run again when the judge is mended."
        ) from error


def _outcome(
    state: SessionState,
    batch: CandidateSet,
    verdict: Verdict,
    numbers: Sequence[int],
    rules: PairRules,
    min_gap: float,
) -> list[str]:
    """The pairs that the session makes of a batch, in words, or why there are none."""
    number = {image.id: n for image, n in zip(batch.images, numbers, strict=True)}
    lines = [
        f"Pair: image {number[pair.chosen]} over image {number[pair.rejected]}."
        for pair in SessionJudgement(state).chosen_pairs(batch.id, rules)
    ]
    if has_person_votes(state, batch.id):
        lines.append("A person has ranked these images: their word stands, not these scores.")
    elif reason := why_no_pair(verdict, min_gap):
        lines.append(reason)
    return lines


def _order(state: SessionState, batch: CandidateSet, verdict: Verdict) -> list[str]:
    """The images best first: as the person said who has ranked them, else as the judges did."""
    if has_person_votes(state, batch.id):
        return [one.image for one in SessionJudgement(state).standings(batch.id)]
    return [batch.images[i].id for i in best_first(verdict)]


def _shown(session: Session, image_ids: Sequence[str]) -> list[dict[str, str]]:
    """Images of a session as ComfyUI's page fetches them."""
    output = Path(folder_paths.get_output_directory())
    folder = session.images.folder.relative_to(output).as_posix()
    return [
        {"filename": f"{one}.png", "subfolder": folder, "type": "output"} for one in image_ids
    ]
