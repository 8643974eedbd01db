"""Online rounds in ComfyUI's page, as the example workflows play them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from webkit.front_end import FrontEnd, Run
from webkit.ranking import Ranking, fill_in

CHECKPOINT = "tiny.safetensors"


def opened(front_end: FrontEnd, name: str, **settings: Any) -> Ranking:
    """An example filled in for a small machine; the ranking in its rounds."""
    front_end.open_template(front_end.server.pack_dir.name, name)
    fill_in(front_end.node("CheckpointLoaderSimple"), ckpt_name=CHECKPOINT)
    fill_in(
        front_end.node("DPOTrainer"), rank=2, grad_accumulation_steps=1,
        gradient_checkpointing=False,
    )  # fmt: skip
    rounds = front_end.node("DPOOnlineRounds")
    fill_in(
        rounds, prompts="a cat\na dog", images_per_prompt=2, steps_per_round=2, steps=2, cfg=1,
        width=32, height=32, **settings,
    )  # fmt: skip
    return Ranking(front_end, rounds.id)


def run(front_end: FrontEnd, ranking: Ranking) -> tuple[Run, str]:
    """Runs the workflow; and what the node tells."""
    found = front_end.run()
    assert (found.status, found.error) == ("success", "")
    ranking.node.show()
    return found, "\n".join(found.outputs[str(ranking.node.id)]["text"])


def rank(ranking: Ranking) -> None:
    """The first picture is better than the second."""
    ranking.wait_for_pictures()
    ranking.picture(1).click()
    ranking.picture(2).click()


def wait_for_standing(ranking: Ranking, text: str) -> None:
    ranking.panel.locator(".dpo-round").get_by_text(text, exact=True).wait_for()


def saved(front_end: FrontEnd) -> Path:
    return Path(front_end.node("Saved as").value("preview_text"))


@pytest.mark.parametrize("canvas_mode", ["nodes2"], indirect=True)
def test_run_rank_run_trains_on_the_round_and_brings_the_next(front_end: FrontEnd) -> None:
    ranking = opened(front_end, "taste_loop")
    fill_in(front_end.node("EmptyLatentImage"), width=32, height=32)
    for sampler in front_end.nodes("KSampler"):
        fill_in(sampler, steps=2)
    _, told = run(front_end, ranking)
    assert "Round 1 is here: 2 sets" in told
    wait_for_standing(ranking, "0 of 2 sets of this round ranked.")
    first = ranking.shown()["set_id"]
    rank(ranking)
    # The next set comes by itself, and F5 keeps it.
    ranking.wait_for_another_set(first)
    second = ranking.shown()["set_id"]
    front_end.reload()
    ranking.node.show()
    wait_for_standing(ranking, "1 of 2 sets of this round ranked.")
    assert ranking.shown()["set_id"] == second
    rank(ranking)
    wait_for_standing(ranking, "Both sets of this round are ranked: run the workflow.")
    ranking.wait_for_saved()

    found, told = run(front_end, ranking)
    assert "Round 1: 2 pairs, at step 2," in told and "Round 2 is here: 2 sets" in told
    ranking.wait_for_another_set(second)
    wait_for_standing(ranking, "0 of 2 sets of this round ranked.")
    assert ranking.shown()["set_id"] != first
    assert saved(front_end).is_file()
    assert str(front_end.node("With the LoRA").id) in found.outputs
    front_end.screenshot("online_second_round")
    assert front_end.errors == []


@pytest.mark.parametrize("canvas_mode", ["classic"], indirect=True)
def test_judges_play_the_rounds_and_show_what_came_of_them(front_end: FrontEnd) -> None:
    ranking = opened(front_end, "online_with_a_judge", rounds=2)
    _, told = run(front_end, ranking)
    assert "Round 2: 2 pairs and 2 replayed, at step 4," in told
    ranking.wait_for_pictures()
    judged = "Ranked by a judge. What you choose here instead counts in later rounds."
    wait_for_standing(ranking, judged)
    assert len(front_end.node("Before, and after each round").pictures()) == 1
    assert len(front_end.node("The pictures of the last round").pictures()) == 4
    assert saved(front_end).is_file()
    assert front_end.errors == []
