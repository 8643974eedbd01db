"""The demo on a person's picks: drawn, ranked, trained, compared, stopped and gone on with."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dpo_core import __main__ as command
from dpo_core.comparison.comparison import BlindComparison
from dpo_core.demo.network import load_base
from dpo_core.demo.pick.blind_comparison import SIDES, compare_blind, in_words
from dpo_core.demo.pick.command import _open_browser
from dpo_core.demo.pick.groups import group
from dpo_core.demo.pick.studio import PickSettings, Studio, encoded_pairs
from dpo_core.demo.pick.worker import Worker
from dpo_core.demo.picks import draw_pictures, questions
from dpo_core.evaluation.interval import wilson
from dpo_core.ranking.session import Session, SessionStore
from dpo_core.request import RequestRefused
from dpo_core.saving.lora_file import read_lora

ROOT = Path(__file__).resolve().parents[2]
SMALL = PickSettings(groups=5, pictures=3, steps=3, shown=2, compared=2)


def wait(until: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, "it did not come to an end"
        time.sleep(0.02)


def finish(studio: Studio) -> dict[str, Any]:
    wait(lambda: studio.state()["job"] is None)
    state = studio.state()
    assert state["problem"] == ""
    return state


def pick(studio: Studio, numbers: range) -> None:
    """The first image of each group is the best, the last the worst."""
    sets = list(studio.session.state().sets.values())
    for number in numbers:
        images = [image.id for image in sets[number].images]
        studio.session.vote(
            {"kind": "best_worst", "set": sets[number].id, "best": images[0], "worst": images[-1]}
        )


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which five groups were drawn, four were ranked, and a LoRA was trained."""
    folder = tmp_path_factory.mktemp("pick")
    studio = Studio(folder, SMALL)
    studio.start()
    finish(studio)
    pick(studio, range(4))
    studio.train()
    finish(studio)
    studio.close()
    return folder


@pytest.fixture
def studio(out: Path, tmp_path: Path) -> Studio:
    """All of that begun again, in a copy."""
    shutil.copytree(out, tmp_path / "copy")
    return Studio(tmp_path / "copy", SMALL)


def test_groups_are_of_training_prompts_and_the_comparison_of_held_out_ones(
    studio: Studio,
) -> None:
    state = studio.state()
    sets = studio.session.state().sets.values()
    assert [len(one.images) for one in sets] == [3] * 5
    assert [one.prompt for one in sets] == [group(i, 3, 0).prompt for i in range(5)]
    held_out = {q.prompt for q in questions(400, 0, held_out=True)}
    assert not held_out & {one.prompt for one in sets}
    assert {one["prompt"] for one in state["result"]["pictures"]} <= held_out
    seeds = [seed for i in range(200) for seed in group(i, 16, 0).seeds]
    assert len(set(seeds)) == len(seeds)
    assert not {s for q in questions(2000, 0, held_out=True) for s in q.seeds} & set(seeds)


def test_picked_images_reach_training_as_they_were_drawn(studio: Studio) -> None:
    (first, *others) = encoded_pairs(studio._pairs())
    assert len(others) == 3
    one = group(0, 3, 0)
    drawn = draw_pictures(load_base(), [one.prompt] * 3, one.seeds)
    torch.testing.assert_close(first.chosen, drawn[0])
    torch.testing.assert_close(first.rejected, drawn[2])
    assert first.prompt == one.prompt and first.chosen_probability == 1.0
    shutil.rmtree(studio.session.latents.folder)
    # A PNG has 256 levels of what runs from -1 to 1, and no more than that is lost.
    (first, *_) = encoded_pairs(studio._pairs())
    torch.testing.assert_close(first.chosen, drawn[0].clamp(-1, 1), atol=1.01 / 255, rtol=0)


def test_the_training_leaves_a_lora_pictures_and_a_comparison(studio: Studio) -> None:
    state = studio.state()
    result = state["result"]
    assert (result["steps"], result["pairs"]) == (3, 4)
    assert [row["step"] for row in state["metrics"]] == [1, 2, 3]
    assert state["metrics"][0]["loss"] == pytest.approx(0.6931, abs=1e-4)
    tensors, metadata = read_lora(Path(result["lora"]))
    assert metadata["ss_steps"] == "3"
    assert any(bool(t.any()) for name, t in tensors.items() if "lora_B" in name)
    names = {path.name for path in Path(result["folder"]).iterdir()}
    assert {"before_and_after.png", "curves.png", "metrics.jsonl", "settings.json"} <= names
    for one in result["pictures"]:
        for side in ("before", "after"):
            assert (studio.pictures.folder / one[side].rsplit("/", 1)[1]).is_file()
        assert one["before"] != one["after"]
    assert len(result["blind"]["sets"]) == 2 and result["blind"]["share"] is None


def test_begun_again_it_is_where_it_was(studio: Studio) -> None:
    before = studio.state()
    studio.start()
    state = finish(studio)
    assert state["groups"] == before["groups"] and state["result"] == before["result"]
    assert [one["ranked"] for one in state["groups"]] == [True] * 4 + [False]
    assert state["steps"] == {"each": 3, "done": 3, "aim": 3}


def test_the_comparison_hides_which_is_which_and_counts_the_loras_wins(
    studio: Studio,
) -> None:
    session = studio.store.session(studio.state()["result"]["blind"]["session"])
    sets = session.state().sets
    for candidates in sets.values():
        ids = [image.id for image in candidates.images]
        assert ids == sorted(ids)  # the place follows from the pixels
        for image in ids:
            text = session.images.path(image).read_bytes()
            assert b"lora" not in text.lower() and b"base" not in text.lower()
    for one in BlindComparison(session, SIDES).state().asked:
        answer(session, one.set_id, left=one.b, right=one.a, result="left")
    state = studio.state()["result"]["blind"]
    assert state["answered"] == [True, True]
    low, high = wilson(2, 2)[1:3]
    assert state["share"]["value"] == 1.0
    assert (state["share"]["low"], state["share"]["high"]) == (low, high)


def answer(session: Session, set_id: str, left: str, right: str, result: str) -> None:
    session.vote(
        {"kind": "comparison", "set": set_id, "left": left, "right": right, "result": result}
    )


def test_what_came_out_the_same_is_not_asked(tmp_path: Path) -> None:
    session = SessionStore(tmp_path).session("blind")
    before = torch.zeros(3, 3, 64, 64)
    after = torch.stack([torch.full((3, 64, 64), i / 3) for i in range(3)])
    blind = compare_blind(session, questions(3, 0, held_out=True), before, after)
    state = blind.state()
    assert (state.identical, len(state.asked), len(session.state().sets)) == (1, 2, 2)


def test_words_say_no_more_than_the_interval() -> None:
    assert in_words(wilson(12, 12)) == "You prefer what it learned from you."
    assert in_words(wilson(0, 12)) == "You prefer the model as it was."
    assert "chance" in in_words(wilson(8, 12))


def test_more_picks_go_on_from_the_last_step_with_the_base_as_reference(studio: Studio) -> None:
    lora = Path(studio.state()["result"]["lora"])
    old, _ = read_lora(lora)
    shown = studio.state()["result"]["pictures"]
    asked = set(studio.state()["result"]["blind"]["sets"])
    studio.more()
    state = finish(studio)
    assert len(state["groups"]) == state["wanted"] == 10
    pick(studio, range(4, 8))
    studio.train()
    state = finish(studio)
    assert state["steps"] == {"each": 3, "done": 6, "aim": 6}
    assert (state["result"]["steps"], state["result"]["pairs"]) == (6, 8)
    rows = state["metrics"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    # Had the LoRA or its reference begun anew, the loss would be ln 2 again.
    assert abs(rows[3]["loss"] - 0.6931) > 1e-4
    new, metadata = read_lora(lora)
    assert metadata["ss_steps"] == "6"
    assert any(not torch.equal(new[name], old[name]) for name in old)
    result = state["result"]
    assert [one["prompt"] for one in result["pictures"]] == [one["prompt"] for one in shown]
    assert [one["before"] for one in result["pictures"]] == [one["before"] for one in shown]
    assert not asked & set(result["blind"]["sets"])


def test_a_training_that_was_ended_goes_on_by_itself_and_ends_the_same(tmp_path: Path) -> None:
    settings = PickSettings(groups=4, pictures=2, steps=8, shown=1, compared=1)
    once, twice = Studio(tmp_path / "once", settings), Studio(tmp_path / "twice", settings)
    for one in (once, twice):
        one.start()
        finish(one)
        pick(one, range(4))
        one.train()
    wait(lambda: len(twice.run.metrics(8)) >= 1)
    twice.close()
    made = twice.run.checkpoints()
    assert made and made[-1] < 8 and twice.state()["result"] is None
    with pytest.raises(RequestRefused, match="Wait a moment"):
        twice.train()

    again = Studio(tmp_path / "twice", settings)
    assert again.state()["steps"]["aim"] == 8 and again.state()["pairs"] == 4
    again.start()
    state = finish(again)
    assert state["steps"] == {"each": 8, "done": 8, "aim": 8}
    finish(once)
    ours, theirs = (read_lora(Path(one.state()["result"]["lora"]))[0] for one in (once, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_one_thing_at_a_time_and_what_fails_is_said() -> None:
    worker = Worker()

    def full() -> None:
        raise OSError(28, "No space left on device")

    def wrong() -> None:
        raise RuntimeError("The loss was not a number.")

    def long() -> None:
        while True:
            worker.progress("long", 1, 2)
            time.sleep(0.01)

    for work, said in ((full, "No space left on device"), (wrong, "The loss was not a number.")):
        assert worker.start(work, "x")
        wait(lambda: not worker.busy)
        assert said in worker.problem
    assert worker.start(long, "long") and not worker.start(full, "x")
    wait(lambda: worker.state() == {"stage": "long", "done": 1, "total": 2})
    worker.stop(10)
    assert not worker.busy and not worker.start(full, "x")


def test_without_a_screen_no_browser_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("webbrowser.open", lambda url: pytest.fail("it looked for a browser"))
    assert not _open_browser("http://127.0.0.1/")


def test_options_that_do_not_go_together_are_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--pick", "--taste", "warm", "--pictures", "1", "--port", "70000"]
    assert command.main(["demo", *options, "--out", str(tmp_path / "x")]) == 1
    said = capsys.readouterr().err
    assert all(name in said for name in ("--taste", "--pictures", "--port"))
    assert not (tmp_path / "x").exists()


def test_a_folder_that_cannot_be_written_is_one_clear_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert command.main(["demo", "--pick", "--out", str(tmp_path / "file" / "below")]) == 1
    said = capsys.readouterr().err
    assert "cannot be written" in said and said.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as a signal")
def test_a_machine_without_a_screen_is_told_how_to_reach_the_page_until_ctrl_c(
    tmp_path: Path,
) -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    }
    options = ["--pick", "--groups", "1", "--out", str(tmp_path)]
    running = subprocess.Popen(
        [sys.executable, "-m", "dpo_core", "demo", *options],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell that runs the tests in the background would have it ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert running.stdout is not None
        lines = []
        while not lines or "Ctrl-C" not in lines[-1]:
            lines.append(running.stdout.readline())
            assert lines[-1], running.communicate()
        said = "".join(lines)
        port = re.search(r"http://127\.0\.0\.1:(\d+)/[\w-]{20,}/pick", said)
        assert port and f"ssh -L {port[1]}:127.0.0.1:{port[1]}" in said
        running.send_signal(signal.SIGINT)
        _, problem = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130
    assert "Run the same command again" in problem and "Traceback" not in problem
