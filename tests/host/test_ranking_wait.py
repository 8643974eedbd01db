"""A ranking node that holds the queue: until a choice, until Stop, and never without a page."""

from __future__ import annotations

import threading
import time

import pytest
from hostkit.checkout import load_pack
from hostkit.ranking import noise, pick, rank, ranking
from hostkit.server import ComfyServer
from hostkit.workflows import Prompt


def waiting_nodes(server: ComfyServer) -> list[dict[str, str]]:
    return server.get("/dpo/waiting").json()["waiting"]


def paused(server: ComfyServer, prompt: Prompt) -> dict[str, str]:
    """Queues a prompt, and the event with which its ranking node begins to wait."""
    prompt_id = server.submit(prompt)
    return server.wait_for_event("dpo.set", prompt_id=prompt_id)["data"]


def test_the_queue_goes_on_with_the_choice_made_meanwhile(comfy_server: ComfyServer) -> None:
    shown = paused(comfy_server, ranking("wait", seed=100, wait=True))
    (waiting,) = waiting_nodes(comfy_server)
    assert waiting == {name: shown[name] for name in ("node", "prompt_id", "session", "set_id")}
    value = pick(comfy_server, shown)
    assert waiting_nodes(comfy_server) == [waiting]  # a vote is not the end: there may be more
    done = comfy_server.post(f"/dpo/waiting/{shown['prompt_id']}/rank/done", {})
    assert (done.status, done.json()) == (200, {"ok": True})
    result = comfy_server.wait(shown["prompt_id"], timeout=30)
    assert result.status == "success" and "best" in result.outputs
    assert result.outputs["rank"]["dpo_set"] == [shown]
    assert waiting_nodes(comfy_server) == []
    # What has been ranked is not waited for again.
    again = comfy_server.queue(ranking("wait", seed=100, wait=True, ranking=value), timeout=30)
    assert again.status == "success" and "rank" in again.executed


def test_stop_ends_the_waiting_within_a_second(comfy_server: ComfyServer) -> None:
    shown = paused(comfy_server, ranking("stopped", seed=101, wait=True))
    started = time.monotonic()
    comfy_server.interrupt()
    result = comfy_server.wait(shown["prompt_id"], timeout=30)
    assert time.monotonic() - started < 1
    assert result.status == "interrupted"
    assert waiting_nodes(comfy_server) == []
    # The images are kept: they can be ranked all the same.
    assert pick(comfy_server, shown)["set_id"] == shown["set_id"]


@pytest.mark.parametrize("client", [{}, {"client_id": "nobody"}, {"client_id": None}])
def test_without_a_page_nothing_is_waited_for(
    comfy_server: ComfyServer, client: dict[str, str | None]
) -> None:
    prompt = {"images": noise(102 + len(str(client))), "rank": rank(["images", 0], "api")}
    prompt["rank"]["inputs"]["wait"] = True
    reply = comfy_server.post("/prompt", {"prompt": prompt, **client})
    assert comfy_server.wait(reply.json()["prompt_id"], 20, heard=False).status == "success"


def test_two_prompts_wait_one_after_the_other_and_each_is_released_by_its_own_name(
    comfy_server: ComfyServer,
) -> None:
    first = paused(comfy_server, ranking("queue", seed=103, wait=True))
    second_id = comfy_server.submit(ranking("queue", seed=104, wait=True))
    early = comfy_server.post(f"/dpo/waiting/{second_id}/rank/done", {})
    assert early.status == 404 and "does not wait" in early.json()["error"]
    comfy_server.post(f"/dpo/waiting/{first['prompt_id']}/rank/done", {})
    second = comfy_server.wait_for_event("dpo.set", prompt_id=second_id)["data"]
    assert second["set_id"] != first["set_id"]
    comfy_server.post(f"/dpo/waiting/{second_id}/rank/done", {})
    assert comfy_server.wait(second_id, timeout=30).status == "success"


class Room:
    """A waiting room with a clock of its own and one node in it."""

    def __init__(self) -> None:
        import importlib

        module = importlib.import_module(load_pack().__name__ + ".nodes.host.waiting")
        self.time = 0.0
        self.room = module.WaitingRoom(lambda: self.time)
        self.limit = module.NOBODY_SECONDS
        self.node = module.Waiting("4", "p", "s", "x", "anna")
        self.open = True
        self.released: list[bool] = []
        self.ticks = 0
        self.thread = threading.Thread(target=self._wait, daemon=True)
        self.thread.start()

    def _wait(self) -> None:
        self.released.append(self.room.wait(self.node, self._tick, lambda: self.open))

    def _tick(self) -> None:
        self.ticks += 1

    def pass_ticks(self, count: int = 2) -> None:
        wanted, deadline = self.ticks + count, time.monotonic() + 10
        while self.ticks < wanted and time.monotonic() < deadline:
            time.sleep(0.01)


def test_a_closed_page_has_time_to_come_back_and_an_open_one_all_the_time() -> None:
    waits = Room()
    waits.time += 100 * waits.limit
    waits.pass_ticks()
    waits.open = False  # a reload
    waits.time += waits.limit - 1
    waits.pass_ticks()
    waits.room.seen()  # it asks for the pending list
    waits.time += waits.limit - 1
    waits.pass_ticks()
    assert waits.released == []
    assert not waits.room.release("p", "4", "ben") and waits.room.waiting("ben") == []
    assert waits.room.release("p", "4", "anna") and not waits.room.release("p", "5", "anna")
    waits.thread.join(5)
    assert waits.released == [True] and waits.room.waiting("anna") == []


def test_when_everybody_has_left_the_node_goes_on() -> None:
    waits = Room()
    waits.pass_ticks()
    waits.open = False
    waits.pass_ticks()
    waits.time += waits.limit + 1
    waits.thread.join(5)
    assert waits.released == [False] and waits.room.waiting("anna") == []
