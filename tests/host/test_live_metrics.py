"""What the page hears while training runs: rows in batches, for the one who asked."""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from hostkit.pair_folder import write_pairs
from hostkit.server import ComfyServer
from hostkit.training import pack_module
from hostkit.workflows import node, train_steps, training

PLACE = {"node": "5", "prompt_id": "p", "workflow": "w"}


class Heard:
    """Takes events as the page's connection does, and knows when they came."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.threads: set[threading.Thread] = set()

    def __call__(self, name: str, data: dict[str, Any]) -> None:
        assert name == "dpo.metrics"
        self.events.append(data)
        self.times.append(time.monotonic())
        self.threads.add(threading.current_thread())

    @property
    def steps(self) -> list[int]:
        return [int(row["step"]) for event in self.events for row in event["rows"]]


def _report(step: int, **metrics: float) -> Any:
    run = pack_module("dpo_core.run")
    return run.StepReport(step, {"loss/dpo": 0.5, **metrics}, lambda: None)


def _live(heard: Any, step: int = 0, target: int = 10) -> Any:
    return pack_module("nodes.host.live_metrics").LiveMetrics(heard, PLACE, "r", step, target)


def test_rows_go_out_in_numbered_batches_a_few_times_a_second_and_none_is_lost() -> None:
    heard = Heard()
    with _live(heard, target=300) as live:
        for step in range(1, 301):
            live(_report(step, rho=float("nan")))
            time.sleep(0.003)
    assert heard.steps == list(range(1, 301))
    first = 0
    for event in heard.events:
        assert event["first"] == first and event["run"] == "r" and event["node"] == "5"
        first += len(event["rows"])
    # Five a second, besides the first and the last, which say that it has begun and ended. Gaps
    # between single ones shrink where the listener was late for the one before.
    assert len(heard.events) <= 5 * (heard.times[-1] - heard.times[0]) + 3
    assert [event["done"] for event in heard.events].count(True) == 1
    assert (heard.events[-1]["ended"], heard.events[-1]["step"]) == ("finished", 300)
    assert "rho" not in heard.events[1]["rows"][0]  # JSON knows no NaN


def test_a_row_does_not_wait_for_the_next_step() -> None:
    heard = Heard()
    with _live(heard) as live:
        live(_report(1))
        waited_until = time.monotonic() + 30  # a long step
        while heard.steps != [1] and time.monotonic() < waited_until:
            time.sleep(0.05)
        assert heard.steps == [1]
        assert threading.current_thread() in heard.threads and len(heard.threads) == 2


def test_before_the_first_step_the_page_knows_where_it_begins() -> None:
    heard = Heard()
    with _live(heard, step=100, target=200) as live:
        (begun,) = heard.events
        assert (begun["step"], begun["target"], begun["rows"]) == (100, 200, [])
        assert begun["seconds_left"] is None
        (now,) = pack_module("nodes.host.live_metrics").training_now()
        assert now == live.now() and now["workflow"] == "w" and "rows" not in now
    assert pack_module("nodes.host.live_metrics").training_now() == []


def test_a_page_that_cannot_be_told_costs_no_training() -> None:
    def broken(name: str, data: object) -> None:
        raise RuntimeError("closed")

    with _live(broken) as live:
        live(_report(1))
        live(_report(2))


def test_how_it_ended_is_told() -> None:
    from comfy.model_management import InterruptProcessingException

    for error, ended in ((InterruptProcessingException(), "stopped"), (OSError(), "failed")):
        heard = Heard()
        with pytest.raises(type(error)), _live(heard):
            raise error
        assert heard.events[-1]["ended"] == ended and heard.events[-1]["done"] is True


def _metrics(server: ComfyServer, prompt_id: str) -> list[dict[str, Any]]:
    return [one["data"] for one in server.events(prompt_id) if one["type"] == "dpo.metrics"]


def test_the_one_who_asked_hears_every_step_and_a_longer_training_the_new_ones(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    write_pairs(comfy_server.base_dir / "input" / "live", 6)
    workflow = str(uuid.uuid4())
    prompt = training(sd15_checkpoint.name, "live", 4, seed=51, validation=["validation", 0])
    prompt["validation"] = node(
        "DPOValidation", percent=30, split_seed=0, every=2, at_start=True, patience=0,
        patience_mode="either", save_best=False,
    )  # fmt: skip
    extra = {"extra_pnginfo": {"workflow": {"id": workflow}}}
    first = comfy_server.queue(prompt, extra_data=extra)
    assert first.error == ""
    events = _metrics(comfy_server, first.prompt_id)
    rows = [row for event in events for row in event["rows"]]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert ["dpo/val_accuracy" in row for row in rows] == [True, False, True, False, True]
    assert {event["workflow"] for event in events} == {workflow}
    assert {event["node"] for event in events} == {"steps"}
    assert events[-1]["done"] is True and events[-1]["seconds_per_step"] > 0
    (shown,) = first.outputs["steps"]["dpo_chart"]
    assert (shown["run"], shown["step"]) == (events[0]["run"], 4)
    kept = comfy_server.get(f"/dpo/runs/{shown['run']}/metrics").json()["rows"]
    assert kept == rows

    # Train Steps after Train Steps: each node hears of its own, and of what is new.
    prompt["more"] = train_steps("steps", 2)
    second = comfy_server.queue(prompt, extra_data=extra)
    events = _metrics(comfy_server, second.prompt_id)
    assert {event["node"] for event in events} == {"more"}
    assert (events[0]["step"], events[0]["target"]) == (4, 6)
    assert [row["step"] for event in events for row in event["rows"]] == [5, 6]
    # What the cache gives is shown again, without a step.
    assert second.outputs["steps"]["dpo_chart"] == [shown]

    comfy_server.free()
    found = comfy_server.queue(prompt, extra_data=extra)
    assert _metrics(comfy_server, found.prompt_id) == []
    assert found.outputs["more"]["dpo_chart"][0]["step"] == 6
    assert comfy_server.get("/dpo/training").json() == {"training": []}


def _after_three_steps(server: ComfyServer) -> dict[str, Any]:
    """What the server says of the training that runs."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for now in server.get("/dpo/training").json()["training"]:
            if now["step"] >= 3:
                return dict(now)
        time.sleep(0.02)
    raise TimeoutError("no training came to its third step")


def test_a_stopped_training_says_so_and_the_next_goes_on(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    write_pairs(comfy_server.base_dir / "input" / "live", 6)
    prompt = training(sd15_checkpoint.name, "live", 4000, seed=52)
    prompt_id = comfy_server.submit(prompt)
    now = _after_three_steps(comfy_server)
    told = comfy_server.wait_for_event("dpo.metrics", prompt_id=prompt_id)["data"]
    assert (now["run"], now["node"], now["target"]) == (told["run"], "steps", 4000)
    assert now["workflow"] == ""
    comfy_server.interrupt()
    assert comfy_server.wait(prompt_id).status == "interrupted"
    last = _metrics(comfy_server, prompt_id)[-1]
    assert (last["ended"], last["target"]) == ("stopped", 4000)

    prompt["steps"]["inputs"]["steps"] = last["step"] + 2
    again = comfy_server.queue(prompt)
    assert again.error == ""
    events = _metrics(comfy_server, again.prompt_id)
    steps = [row["step"] for event in events for row in event["rows"]]
    assert steps == [last["step"] + 1, last["step"] + 2]
