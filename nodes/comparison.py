"""Two ways to draw, compared blindly in the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comfy_api.v0_0_2 import io
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ..dpo_core.comparison.answer_key import AnswerKey
from ..dpo_core.comparison.comparison import BlindComparison, ComparisonState
from ..dpo_core.comparison.couple import (
    Couple,
    NewCouple,
    Side,
    named_sides,
    new_couples,
    side_problems,
)
from ..dpo_core.comparison.report import report
from ..dpo_core.judging.judge import JudgeError
from ..dpo_core.judging.judged_set import judge_set
from ..dpo_core.judging.panel import Panel
from ..dpo_core.metadata.comfyui import prompt_behind
from ..dpo_core.metadata.comfyui_recipe import Recipe, model_recipe
from ..dpo_core.metadata.comfyui_settings import generation_behind, models_behind
from ..dpo_core.ranking.given_votes import given_votes
from ..dpo_core.ranking.image_store import identified_images
from .host.candidates import graph_metadata, ranking_value
from .host.preferences import votes_fingerprint
from .host.progress import say
from .host.sessions import open_session
from .host.side_identity import side_identity
from .host.user import user_of_ranking
from .types import CATEGORY, Judge, Lora, Ranking

MODE = "side_by_side"
NO_PROMPT = (
    "The prompts of these pictures cannot be told from the graph, so they are compared without. "
    "Write them into `prompts`, one line for each couple or one for all."
)
NO_WEIGHTS = (
    "It cannot be told whether the LoRA of {made_by} on `images_{side}` changes between runs, and "
    "couples of all of them would add up: connect it to `lora_{side}`, or give every new one a "
    "name of its own in `name_{side}`."
)


class BlindCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DPOBlindCompare",
            display_name="Blind Compare (DPO)",
            category=CATEGORY,
            description="Is your LoRA better? Choose the better of two pictures of one prompt and "
            "seed, again and again, without being told which is whose. Then reveal how often you "
            "preferred which, and how sure that is. Every Run with another seed brings more.",
            search_aliases=["A/B test", "blind test", "compare LoRA", "win rate", "evaluate LoRA"],
            is_output_node=True,
            is_input_list=True,
            not_idempotent=True,
            has_intermediate_output=True,
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                io.Image.Input(
                    "images_a",
                    tooltip="Pictures drawn in one way, such as by the model as it was. Show them "
                    "nowhere else in the workflow: you would know them again.",
                ),
                io.Image.Input(
                    "images_b",
                    tooltip="As many pictures drawn in the other way, such as with the LoRA: of "
                    "the same prompts, seeds and sizes, in the same order.",
                ),
                io.String.Input(
                    "prompts", default="", multiline=True,
                    tooltip="What they were drawn with: one line for each couple, or one for all. "
                    "As many lines as couples are taken as one prompt each, so write a prompt of "
                    "several lines on one. Left empty, it is read from the sampler they come from.",
                ),
                io.String.Input(
                    "session", default="blind",
                    tooltip="Choices and images are kept under this name, in "
                    "output/dpo/sessions. They are votes like all others: in a session that you "
                    "train on they would become pairs, so use one for comparisons alone.",
                ),
                Ranking.Input(
                    "ranking", optional=True, blind=True,
                    tooltip="Where you choose, and reveal. A script may give votes with `set` "
                    "and images by their ids, as docs/ranking_api.md says.",
                ),
                Judge.Input(
                    "judge", optional=True,
                    tooltip="Judges every couple at once. As long as you choose none yourself, "
                    "what it says is revealed and final: choices made later do not count. Where "
                    "you have chosen, you reveal, and your choice counts instead of the judge's.",
                ),
                io.String.Input(
                    "name_a", default="A", optional=True,
                    tooltip="What to call the first pictures once it is revealed. Under other "
                    "names, or with other LoRAs, a comparison of the session begins anew.",
                ),
                io.String.Input(
                    "name_b", default="B", optional=True,
                    tooltip="What to call the second pictures.",
                ),
                Lora.Input(
                    "lora_a", optional=True,
                    tooltip="The LoRA of the first pictures, if it is trained in this very graph: "
                    "when it has changed, the comparison begins anew.",
                ),
                Lora.Input(
                    "lora_b", optional=True,
                    tooltip="That of the second pictures, as with `lora_a`.",
                ),
            ],
            outputs=[io.String.Output(display_name="report")],
        )

    @classmethod
    def fingerprint_inputs(
        cls, session: Sequence[str | None], ranking: Sequence[Any] = (), **_: Any
    ) -> str:
        try:
            user, name = user_of_ranking(ranking_value(ranking)), session[0]
            if name is None:
                return votes_fingerprint(None)
            revealed = AnswerKey(open_session(name, user).folder).fingerprint()
        except (ValueError, OSError) as error:
            return str(error)
        return f"{votes_fingerprint(f'{user}/{name}' if user else name)} {revealed}"

    @classmethod
    def execute(
        cls,
        images_a: Sequence[Tensor],
        images_b: Sequence[Tensor],
        prompts: Sequence[str],
        session: Sequence[str],
        ranking: Sequence[Mapping[str, Any]] = ({},),
        judge: Sequence[Panel] = (),
        name_a: Sequence[str] = ("A",),
        name_b: Sequence[str] = ("B",),
        lora_a: Sequence[Mapping[str, Any] | None] = (None,),
        lora_b: Sequence[Mapping[str, Any] | None] = (None,),
    ) -> io.NodeOutput:
        graph, node = cls.hidden.prompt or {}, str(cls.hidden.unique_id)
        extra, inputs = cls.hidden.extra_pnginfo, graph.get(node, {}).get("inputs", {})
        links = [inputs.get("images_a"), inputs.get("images_b")]
        recipes, loras = [model_recipe(graph, link) for link in links], [lora_a[0], lora_b[0]]
        made = [" + ".join(models_behind(graph, link)) for link in links]
        known = [side_identity(*one) for one in zip(recipes, loras, strict=True)]
        sides = named_sides(Side(name_a[0], made[0], known[0]), Side(name_b[0], made[1], known[1]))
        texts, problems = _texts(prompts, images_a), side_problems(sides)
        if not texts:
            texts, differing = _traced(graph, links, extra)
            problems += differing
        couples = new_couples(_pictures(images_a), _pictures(images_b), texts, problems)
        given = ranking_value(ranking)
        opened = open_session(session[0], user_of_ranking(given))
        blind = BlindComparison(opened, sides)
        # Of the graph alone: settings of the one side or the other would tell them apart.
        added = [_added(blind, one, graph_metadata(graph, None, extra)) for one in couples]
        for vote in given_votes(given, "", (), opened.problems):
            opened.vote(vote)
        if judge:
            _judge(blind, added, judge[0], node)
        state = blind.state()
        unsure = [*([] if any(texts) else [NO_PROMPT]), *_weight_lines(recipes, loras)]
        lines = [*unsure, *_seed_lines(graph, links), report(state)]
        if len(lines) > 1:
            say("\n".join(lines[:-1]), node)
        shown = [_reference(state, added, node)]
        return io.NodeOutput(lines[-1], ui={"dpo_set": shown, "text": ["\n".join(lines)]})


def _pictures(images: Sequence[Tensor]) -> list[tuple[str, Any]]:
    """Ids and pixels, as they are stored, from batches, single images and lists of them."""
    singles = [one for image in images for one in (image if image.ndim == 4 else [image])]
    return identified_images([one[..., :3].cpu().float().numpy() for one in singles])


def _texts(prompts: Sequence[str], images: Sequence[Tensor]) -> list[str]:
    """One text for each couple, or one for all: lines of one text, or a list as the graph gives it.

    A list that has one text for each batch holds for all pictures of the batch.
    """
    if len(prompts) == 1:
        return [line for line in prompts[0].splitlines() if line.strip()]
    if len(prompts) != len(images):
        return list(prompts)
    counts = [len(image) if image.ndim == 4 else 1 for image in images]
    return [text for text, count in zip(prompts, counts, strict=True) for _ in range(count)]


def _traced(
    graph: Any, links: Sequence[Any], extra: Mapping[str, Any] | None
) -> tuple[list[str], list[str]]:
    """The prompt that the graph tells of both sides, none if it is not certain; and problems."""
    drawn = (extra or {}).get("workflow")
    a, b = (prompt_behind(graph, link, drawn) for link in links)
    if a is None or b is None or a == b:
        return ([a] if a and a == b else []), []
    return [], [
        f"`images_a` were drawn with the prompt {a[:200]!r} and `images_b` with {b[:200]!r}: use "
        "one prompt for both. If that is as it should be, write what to call it into `prompts`."
    ]


def _seed_lines(graph: Any, links: Sequence[Any]) -> list[str]:
    """A line where the graph says that the two sides come from different seeds."""
    a, b = (generation_behind(graph, link).get("seed") for link in links)
    if a is None or b is None or a == b:
        return []
    return [
        f"`images_a` come from seed {a} and `images_b` from seed {b}. Use one seed for both: what "
        "differs by chance hides what differs by the LoRA."
    ]


def _weight_lines(recipes: Sequence[Recipe], loras: Sequence[Any]) -> list[str]:
    """A line for each side whose LoRA is made in the graph and not connected."""
    return [
        NO_WEIGHTS.format(made_by=" and ".join(recipe.makers), side=side)
        for side, recipe, lora in zip("ab", recipes, loras, strict=True)
        if recipe.makers and lora is None
    ]


def _added(blind: BlindComparison, couple: NewCouple, metadata: Mapping[str, str]) -> Couple:
    try:
        return blind.add(couple, metadata)
    except OSError as error:
        raise _unstored("pictures", blind, error) from error


def _unstored(what: str, blind: BlindComparison, error: OSError) -> ValueError:
    return ValueError(
        f"The {what} could not be stored in {blind.session.folder} ({error.strerror or error}). "
        "Nothing half-written is left, and what was chosen before is safe. Make room on the disk "
        "and run again."
    )


def _judge(blind: BlindComparison, couples: Sequence[Couple], panel: Panel, node: str) -> None:
    """Has a panel judge what is not revealed yet; each verdict is stored at once.

    What it said is then revealed, unless a person takes part.
    """
    revealed, sets = blind.state().revealed, blind.session.state().sets
    asked = {one.set_id: None for one in couples if one.set_id and one.set_id not in revealed}
    for number, set_id in enumerate(asked, 1):
        say(f"Judging couple {number} of {len(asked)}", node)
        try:
            judge_set(blind.session, sets[set_id], panel, 0.0)
        except JudgeError as error:
            raise JudgeError(
                f"{error}\nThe pictures are stored in the session {blind.session.name}, and what "
                "was judged before is kept. Run again when the judge is mended."
            ) from error
    try:
        blind.reveal_judged()
    except OSError as error:
        raise _unstored("reveal", blind, error) from error


def _reference(state: ComparisonState, added: Sequence[Couple], node: str) -> dict[str, Any]:
    """What the page is to show: the first couple that nobody has answered, those of now first."""
    mine = {one.set_id for one in added}
    asked = sorted((one.set_id for one in state.asked), key=lambda one: one not in mine)
    open_ones = [one for one in asked if one not in state.answered]
    context = get_executing_context()
    return {
        "v": 1,
        "session": state.session.name,
        "comparison": state.sides.comparison,
        "set_id": next(iter([*open_ones, *asked]), ""),
        "mode": MODE,
        "node": node,
        "prompt_id": "" if context is None else context.prompt_id,
    }
