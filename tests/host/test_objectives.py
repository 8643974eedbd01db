"""Every objective in a real host: what it learns from, and what is said where it cannot."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hostkit.checkout import load_pack
from hostkit.pair_folder import write_pairs
from hostkit.ranking import get_set, image_ids, post_vote, rank, shown_set, widget_value
from hostkit.server import ComfyServer, RunResult
from hostkit.workflows import (
    Prompt,
    encoded_folder,
    encoding,
    objective,
    text_to_image,
    train_steps,
    trainer,
)

PACK = load_pack().__name__
LOSSES: Any = importlib.import_module(f"{PACK}.dpo_core.training.objectives").LOSSES
RUN = re.compile(r"run ([0-9a-f]{20})")
MODES = ("sequential", "policy_concurrent", "full_concurrent")
WITH_RATINGS = [name for name, row in LOSSES.items() if row.ratings]


@pytest.fixture(scope="module", autouse=True)
def folder(comfy_server: ComfyServer) -> None:
    write_pairs(comfy_server.base_dir / "input" / "objectives", 3)


def trained(name: str, dataset: str, number: int, **inputs: Any) -> Prompt:
    """An objective, a trainer and two steps; ids end with `name`."""
    return {
        f"objective_{name}": objective(**inputs),
        f"trainer_{name}": trainer(
            dataset=[dataset, 0], objective=[f"objective_{name}", 0], batch_size=2,
            execution_mode=MODES[number % 3],
        ),
        f"steps_{name}": train_steps(f"trainer_{name}", 2),
    }


def rows(server: ComfyServer, result: RunResult, name: str) -> list[dict[str, float]]:
    assert result.status == "success", result.message("execution_error")
    assert result.outputs[f"steps_{name}"]["text"][0].startswith("2 steps. ")
    (said,) = result.outputs[f"trainer_{name}"]["text"]
    match = RUN.search(said)
    assert match is not None
    run = server.base_dir / "output" / "dpo" / "runs" / match[1]
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_every_loss_of_pairs_trains(comfy_server: ComfyServer, sd15_checkpoint: Path) -> None:
    prompt = encoded_folder(sd15_checkpoint.name, "objectives")
    names = [name for name in LOSSES if name not in WITH_RATINGS]
    for number, name in enumerate(names):
        mix = 0.25 if name == "rpo" else 0.0
        prompt |= trained(name, "dataset", number, loss=name, supervised_mix=mix)
    result = comfy_server.queue(prompt)
    for name in names:
        first, second = rows(comfy_server, result, name)
        assert second["grad_norm"] > 0
        if LOSSES[name].reference:
            assert first["prediction_change"] == 0 and second["prediction_change"] > 0
        else:
            assert "prediction_change" not in second and "rho" not in second


def refusal(server: ComfyServer, prompt: Prompt, node_id: str) -> str:
    """The message with which a node ends the run."""
    result = server.queue(prompt)
    failed = result.message("execution_error")
    assert failed is not None and failed["node_id"] == node_id
    return result.error


def test_pairs_without_ratings_are_refused_where_a_loss_needs_them(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = encoded_folder(sd15_checkpoint.name, "objectives")
    prompt |= trained("x", "dataset", 0, loss="rpo_bwd")
    message = refusal(comfy_server, prompt, "trainer_x")
    assert "rpo_bwd learns from ratings, and 3 of 3 pairs have none" in message


def test_contradictions_and_bad_lists_are_told_together(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = encoded_folder(sd15_checkpoint.name, "objectives") | trained(
        "x", "dataset", 0, loss="ipo", label_smoothing=0.1, beta_per_epoch="5000, two"
    )
    message = refusal(comfy_server, prompt, "objective_x")
    assert message.startswith("This objective cannot be used:\n- label_smoothing cannot be used")
    assert "beta_per_epoch holds 'two'" in message


def test_presets_combinations_and_lists_of_betas_reach_the_run(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = encoded_folder(sd15_checkpoint.name, "objectives")
    prompt["second"] = objective(loss="simpo", weight=0.5)
    prompt |= trained("preset", "dataset", 0, preset="balanced", beta=3.0, also=["second", 0])
    prompt |= trained("list", "dataset", 1, beta_per_epoch="5000; 2000 500")
    result = comfy_server.queue(prompt)
    settings = {}
    for name in ("preset", "list"):
        rows(comfy_server, result, name)
        match = RUN.search(result.outputs[f"trainer_{name}"]["text"][0])
        assert match is not None
        run = comfy_server.base_dir / "output" / "dpo" / "runs" / match[1]
        text = (run / "settings.json").read_text()
        settings[name] = json.loads(text)["settings"]["objective"]
    balanced = settings["preset"]
    of_preset = [balanced[name] for name in ("beta", "safeguard", "supervised_mix")]
    assert of_preset == [1000, 0.5, 0.25]
    assert (balanced["also"]["loss"], balanced["also"]["weight"]) == ("simpo", 0.5)
    assert settings["list"]["beta_per_epoch"] == [5000, 2000, 500]


def ranked(
    server: ComfyServer, checkpoint: str, session: str, vote: Any, mode: str, **encode: Any
) -> Prompt:
    """Four images with one vote on them, made by ``vote`` from the images' ids, as a dataset."""
    prompt = text_to_image(checkpoint, seed=7, steps=1, batch=4, size=32)
    prompt.pop("save")
    prompt["rank"] = rank(["decode", 0], session, mode=mode, ranking={})
    shown = shown_set(server.queue(prompt))
    ids = image_ids(get_set(server, session, shown["set_id"]))
    after = post_vote(server, session, {"set": shown["set_id"], **vote(ids)})
    prompt["rank"]["inputs"]["ranking"] = widget_value(after, mode)
    prompt["dataset"] = encoding(["rank", 0])
    prompt["dataset"]["inputs"] |= encode
    return prompt


def test_thumbs_alone_train_with_kto_and_wait_for_pairs_with_the_default(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    def thumbs(ids: list[str]) -> dict[str, Any]:
        return {"kind": "thumbs", "labels": {ids[0]: "good", ids[1]: "good", ids[2]: "good"}}

    prompt = ranked(comfy_server, sd15_checkpoint.name, "liked only", thumbs, "thumbs")
    plain = prompt | {"trainer": trainer(), "steps": train_steps("trainer", 2)}
    waiting = comfy_server.queue(plain)
    assert waiting.error == ""  # a bad one may be marked yet, which makes a pair
    (message,) = waiting.outputs["trainer"]["text"]
    assert "no pairs here, only 3 liked or disliked images" in message
    assert "loss kto" in message
    assert waiting.outputs["steps"]["text"] == ["0 of 1 pair so far: not training yet."]

    result = comfy_server.queue(prompt | trained("kto", "dataset", 0, loss="kto"))
    first, second = rows(comfy_server, result, "kto")
    assert result.outputs["trainer_kto"]["text"][0].startswith("3 single images, run ")
    assert first["dpo/raw_loss"] == pytest.approx(0.5, abs=1e-6)  # 1 - s(0)
    assert "dpo/rejected_reward" not in second and second["prediction_change"] > 0


def test_rankings_train_with_their_ratings_and_as_whole_groups(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    def order(ids: list[str]) -> dict[str, Any]:
        return {"kind": "ranking", "order": [[ids[2]], [ids[0], ids[1]], [ids[3]]]}  # and a tie

    prompt = ranked(
        comfy_server, sd15_checkpoint.name, "ordered", order, "rank", groups=True
    )
    for number, name in enumerate([*WITH_RATINGS, "dgpo", "sigmoid", "davidson"]):
        prompt |= trained(name, "dataset", number, loss=name)
    result = comfy_server.queue(prompt)
    for name in (*WITH_RATINGS, "dgpo", "sigmoid"):
        assert rows(comfy_server, result, name)[1]["grad_norm"] > 0
    assert result.outputs["trainer_dgpo"]["text"][0].startswith("1 ranked group, run ")
    assert result.outputs["trainer_sigmoid"]["text"][0].startswith("1 pair, run ")
    # The tie is one more to a loss that learns from it.
    assert result.outputs["trainer_davidson"]["text"][0].startswith("2 pairs, run ")


def test_contradicting_kinds_of_data_are_refused_by_name(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = encoded_folder(sd15_checkpoint.name, "objectives")
    prompt["second"] = objective(loss="kto")
    prompt |= trained("x", "dataset", 0, also=["second", 0])
    message = refusal(comfy_server, prompt, "objective_x")
    assert "sigmoid learns from pairs, kto from single images" in message
