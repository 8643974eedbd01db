from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dpo_core.request import RequestRefused
from dpo_core.run import TrainSettings
from dpo_core.runs.in_training import RunsInTraining
from dpo_core.runs.requests import RunRequests
from dpo_core.runs.run_record import RECORD, RunRecord, SavedLora, read_record, write_record
from dpo_core.runs.run_store import RunStore
from dpo_core.saving.filmstrip import BASE, Filmstrip
from dpo_core.saving.run_folder import RunFolder
from dpo_core.saving.run_lock import run_lock
from dpo_core.training.adapter import AdapterSettings

NOBODY = "0" * 20
RECORDED = RunRecord(model="base.safetensors", pairs=12, target=40, started=1e9, ended=2e9,
                     end="finished", execution_mode="sequential")  # fmt: skip


class Shelf:
    """An output folder with runs in it, and what a page can ask of them."""

    def __init__(self, output: Path) -> None:
        self.output, self.root = output, output / "dpo" / "runs"
        self.in_training = RunsInTraining()
        self.ask = RunRequests(
            RunStore(self.root), self.in_training, output, lambda run, file: f"/{run}/{file}?x"
        )

    def add(
        self, seed: int = 0, steps: int = 4, saved: int | None = None, **content: Any
    ) -> RunFolder:
        """A run of so many steps with a checkpoint at ``saved``, the last step if left out."""
        run = RunFolder(
            self.root,
            {
                "version": 1,
                "base": {"kind": "SD15"},
                "settings": asdict(TrainSettings(seed=seed)),
                "adapter": asdict(AdapterSettings()),
                "continues": None,
                "restart": 0,
            }
            | content,
        )
        run.open()
        first = content["continues"][1] if content.get("continues") else 0
        for step in range(first + 1, first + steps + 1):
            run.append_metrics(step, {"loss/dpo": 1 / step, "dpo/accuracy": step % 2})
        if saved is None or saved > 0:
            step = first + steps if saved is None else saved
            (run.path / f"step_{step:08d}.safetensors").write_bytes(b"x" * 1000)
        return run

    def told(self, run: RunFolder) -> dict[str, Any]:
        (found,) = [one for one in self.ask.runs()["runs"] if one["id"] == run.id]
        return dict(found)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def refusal(ask: Callable[[], Any]) -> RequestRefused:
    with pytest.raises(RequestRefused) as refused:
        ask()
    return refused.value


def test_without_runs_the_list_is_empty(shelf: Shelf) -> None:
    assert shelf.ask.runs() == {"runs": [], "bytes": 0}


def test_runs_are_listed_the_last_changed_first_with_what_is_known_of_them(shelf: Shelf) -> None:
    older, newer = shelf.add(seed=1), shelf.add(seed=2)
    write_record(older.path, RECORDED)
    for file in older.path.iterdir():
        os.utime(file, (1e9, 1e9))
    os.utime(older.path, (1e9, 1e9))
    listed = shelf.ask.runs()
    assert [one["id"] for one in listed["runs"]] == [newer.id, older.id]
    told = listed["runs"][1]
    expected = {
        "title": "base.safetensors", "status": "finished", "step": 4, "target": 40, "pairs": 12,
        "noun": "pair", "loss": "sigmoid", "accuracy": 0.5, "val_accuracy": None,
        "changed": 1e9, "continues": None,
    }  # fmt: skip
    assert told | expected == told
    assert told["bytes"] == sum(file.stat().st_size for file in older.path.iterdir()) > 1000
    assert listed["bytes"] == sum(one["bytes"] for one in listed["runs"])


def test_the_last_validation_is_told_with_its_interval(shelf: Shelf) -> None:
    run = shelf.add()
    for step, value in ((5, 0.6), (6, 0.75)):
        bounds = {"dpo/val_accuracy_low": 0.5, "dpo/val_accuracy_high": 0.9}
        run.append_metrics(step, {"dpo/val_accuracy": value, **bounds})
    run.append_metrics(7, {"loss/dpo": 0.1})
    told = shelf.told(run)
    assert (told["val_accuracy"], told["val_accuracy_low"], told["val_accuracy_high"]) == (
        0.75, 0.5, 0.9,
    )  # fmt: skip


def test_each_way_a_training_ends_has_its_status(shelf: Shelf) -> None:
    run = shelf.add(steps=6, saved=4)
    assert shelf.told(run)["status"] == "interrupted"  # two steps came after the checkpoint
    write_record(run.path, replace(RECORDED, end="", ended=0.0))
    assert shelf.told(run)["status"] == "interrupted"
    with shelf.in_training.entered(run.id):
        assert shelf.told(run)["status"] == "running"
    for end in ("stopped", "failed", "finished"):
        write_record(run.path, replace(RECORDED, end=end))
        assert shelf.told(run)["status"] == end
    (run.path / RECORD).unlink()
    (run.path / "step_00000006.safetensors").write_bytes(b"")
    assert shelf.told(run)["status"] == "finished"
    assert shelf.told(shelf.add(seed=9, steps=0, saved=0))["status"] == "stopped"


def test_foreign_and_damaged_folders_do_not_break_the_list(shelf: Shelf) -> None:
    run = shelf.add()
    (shelf.root / "a note.txt").write_text("mine")
    (shelf.root / "holiday").mkdir()
    (shelf.root / ("g" * 20)).mkdir()
    (shelf.root / ("ab" * 10)).mkdir()
    broken = shelf.root / ("cd" * 10)
    broken.mkdir()
    (broken / "settings.json").write_bytes(b'{"continues": [["' + b"[" * 100_000)
    huge = b'{"step": 4, "a": 1' + b"0" * 400 + b"}"
    lines = [b"\x00\xff", b'{"step": 3}', b'{"step": "x"}', huge, b"[1]", b'{"ste']
    (broken / "metrics.jsonl").write_bytes(b"\n".join(lines))
    (broken / RECORD).write_text('{"pairs": true, "end": "flew away", "loras": [3, {}]}')
    (broken / "model_card.md").mkdir()
    strange = shelf.root / ("ef" * 10)
    strange.mkdir()
    (strange / "settings.json").write_text('["no", "object"]')
    listed = {one["id"]: one["status"] for one in shelf.ask.runs()["runs"]}
    assert listed == {
        run.id: "finished", "ab" * 10: "damaged", "cd" * 10: "damaged", "ef" * 10: "damaged",
    }  # fmt: skip
    for name in listed:
        json.dumps(shelf.ask.run(name), allow_nan=False)
        json.dumps(shelf.ask.metrics(name, {}), allow_nan=False)
    assert shelf.ask.metrics("cd" * 10, {})["rows"] == [{"step": 3}]


def test_many_runs_are_listed_from_memory_unless_they_change(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [shelf.add(seed=seed, steps=1) for seed in range(60)]
    assert len(shelf.ask.runs()["runs"]) == 60
    read: list[str] = []
    real = RunFolder.at
    monkeypatch.setattr(RunFolder, "at", lambda path: read.append(path.name) or real(path))
    assert len(shelf.ask.runs()["runs"]) == 60
    assert read == []
    runs[7].append_metrics(2, {"loss/dpo": 1.0})
    assert shelf.told(runs[7])["last_step"] == 2
    assert read == [runs[7].id]


@pytest.mark.parametrize(
    "run", ["", ".", "..", "../sessions", "a" * 19, "a" * 21, "A" * 20, "/etc/passwd", "\0" * 20,
            "a" * 20 + "\n", ".deleted_" + "a" * 20]
)  # fmt: skip
def test_what_is_no_id_is_refused_by_every_request(shelf: Shelf, run: str) -> None:
    shelf.add()
    for ask in (
        lambda: shelf.ask.run(run),
        lambda: shelf.ask.metrics(run, {}),
        lambda: shelf.ask.delete(run, {"id": run}),
    ):
        assert refusal(ask).status == 400


def test_a_run_that_is_not_there_is_refused(shelf: Shelf) -> None:
    for ask in (
        lambda: shelf.ask.run(NOBODY),
        lambda: shelf.ask.metrics(NOBODY, {}),
        lambda: shelf.ask.delete(NOBODY, {"id": NOBODY}),
    ):
        assert refusal(ask).status == 404


def test_links_lead_nowhere(shelf: Shelf, tmp_path: Path) -> None:
    run = shelf.add()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "settings.json").write_text("{}")
    (outside / "secret.jsonl").write_text('{"step": 1, "secret": 7}\n')
    (outside / "secret.md").write_text("secret")
    (shelf.root / NOBODY).symlink_to(outside)
    assert NOBODY not in [one["id"] for one in shelf.ask.runs()["runs"]]
    assert refusal(lambda: shelf.ask.run(NOBODY)).status == 404
    assert refusal(lambda: shelf.ask.delete(NOBODY, {"id": NOBODY})).status == 404
    (run.path / "metrics.jsonl").unlink()
    (run.path / "metrics.jsonl").symlink_to(outside / "secret.jsonl")
    (run.path / "model_card.md").symlink_to(outside / "secret.md")
    (run.path / "events").symlink_to(outside)
    write_record(run.path, replace(RECORDED, loras=(
        SavedLora("../secret.safetensors", 1, 1.0), SavedLora("/etc/passwd", 1, 1.0),
        SavedLora("loras/gone.safetensors", 4, 1.0),
    )))  # fmt: skip
    told = shelf.ask.run(run.id)
    assert told["card"] == "" and not any("secret" in one["name"] for one in told["files"])
    assert [(one["file"], one["bytes"]) for one in told["loras"]] == [
        ("loras/gone.safetensors", None)
    ]
    assert shelf.ask.metrics(run.id, {})["rows"] == []
    shelf.ask.delete(run.id, {"id": run.id})
    assert sorted(p.name for p in outside.iterdir()) == [
        "secret.jsonl", "secret.md", "settings.json",
    ]  # fmt: skip


def test_one_run_is_told_with_settings_files_and_loras(shelf: Shelf) -> None:
    run = shelf.add(seed=5)
    file = shelf.output / "loras" / "taste_00001_.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"12345")
    saved = SavedLora("loras/taste_00001_.safetensors", 4, 3e9)
    write_record(run.path, replace(RECORDED, loras=(saved,)))
    (run.path / "model_card.md").write_text("# Taste")
    told = shelf.ask.run(run.id)
    assert told["title"] == "taste_00001" and told["card"] == "# Taste"
    assert told["path"] == str(run.path) and told["checkpoints"] == [4]
    assert told["settings"]["seed"] == 5 and told["adapter"]["rank"] == 16
    assert told["loras"] == [
        {"file": saved.file, "step": 4, "saved": 3e9, "bytes": 5}
    ]  # fmt: skip
    lines = {group["title"]: dict(map(tuple, group["lines"])) for group in told["described"]}
    assert lines["Objective"] == {
        "loss": "sigmoid", "beta": "5000", "label smoothing": "0", "supervised mix": "0",
        "safeguard": "0",
    }  # fmt: skip
    assert lines["Optimiser"]["learning rate"] == "0.00005"
    assert lines["Data"] == {"pairs trained on": "12"}
    assert "Validation" not in lines
    names = [one["name"] for one in told["files"]]
    assert names == sorted(names) and "settings.json" in names


def test_metrics_begin_with_those_of_the_runs_it_goes_on_from(shelf: Shelf) -> None:
    first = shelf.add(steps=6)
    second = shelf.add(seed=1, steps=3, continues=[first.id, 4])
    told = shelf.ask.metrics(second.id, {})
    assert [row["step"] for row in told["rows"]] == [1, 2, 3, 4, 5, 6, 7]
    assert (told["run"], told["last"]) == (second.id, 7)
    later = shelf.ask.metrics(second.id, {"after": "5"})
    assert [row["step"] for row in later["rows"]] == [6, 7] and later["last"] == 7
    assert shelf.ask.run(second.id)["lineage"] == [{"id": first.id, "step": 4}]
    assert shelf.ask.run(first.id)["continued_by"] == [second.id]
    assert shelf.ask.metrics(second.id, {"after": "7"}) == {
        "run": second.id, "rows": [], "last": 7
    }  # fmt: skip


def test_where_two_runs_meet_the_rows_of_that_step_are_one(shelf: Shelf) -> None:
    first = shelf.add(steps=2)
    second = shelf.add(seed=1, steps=0, continues=[first.id, 2])
    second.append_metrics(2, {"dpo/val_accuracy": 0.5})
    assert shelf.ask.metrics(second.id, {})["rows"][-1] == {
        "step": 2, "loss/dpo": 0.5, "dpo/accuracy": 0, "dpo/val_accuracy": 0.5
    }  # fmt: skip


def test_a_step_done_twice_counts_as_it_was_done_last(shelf: Shelf) -> None:
    run = shelf.add(steps=3)
    for step in (2, 3, 4):
        run.append_metrics(step, {"loss/dpo": 9.0})
    rows = shelf.ask.metrics(run.id, {})["rows"]
    assert [(row["step"], row["loss/dpo"]) for row in rows] == [(1, 1), (2, 9), (3, 9), (4, 9)]


def test_many_rows_are_thinned_to_those_asked_for_and_keep_validations_and_the_last(
    shelf: Shelf,
) -> None:
    run = shelf.add(steps=0)
    with open(run.path / "metrics.jsonl", "w") as file:
        for step in range(1, 5001):
            row = {"step": step, "loss/dpo": 1.0}
            if step % 1000 == 0:
                row["dpo/val_accuracy"] = 0.5
            file.write(json.dumps(row) + "\n")
    told = shelf.ask.metrics(run.id, {"most": "100"})
    steps = [row["step"] for row in told["rows"]]
    assert 90 <= len(steps) <= 100 and steps == sorted(set(steps))
    assert {1000, 2000, 3000, 4000, 5000} <= set(steps) and told["last"] == 5000
    gaps = [b - a for a, b in zip([0, *steps], steps, strict=False)]
    assert max(gaps) <= 2 * 5000 / 95
    assert 1990 <= len(shelf.ask.metrics(run.id, {})["rows"]) <= 2000


def test_runs_that_say_they_go_on_from_each_other_end_somewhere(shelf: Shelf) -> None:
    run = shelf.add()
    settings = run.path / "settings.json"
    for before in ([run.id, 3], ["../../x", 1], [NOBODY, 2], [run.id], "x", [run.id, "3"]):
        settings.write_text(json.dumps({"continues": before}))
        assert shelf.ask.run(run.id)["lineage"] == []
        assert shelf.ask.metrics(run.id, {})["last"] == 4


@pytest.mark.parametrize(
    "query", [{"most": "0"}, {"most": "1"}, {"most": "99999999"}, {"after": "x"}, {"after": "-9"},
              {"after": "1" * 5000}, {"most": "\u0663"}, {"most": "1e3"}]
)  # fmt: skip
def test_numbers_that_are_none_are_refused(shelf: Shelf, query: dict[str, str]) -> None:
    run = shelf.add()
    assert refusal(lambda: shelf.ask.metrics(run.id, query)).status == 400


def test_preview_pictures_are_told_by_step_and_the_last_stands_for_the_run(shelf: Shelf) -> None:
    run = shelf.add()
    assert shelf.told(run)["thumbnail"] is None
    strip = Filmstrip(run.path / "previews", ["a hill", "the <sea>"], {})
    for step in (BASE, 0, 4):
        strip.add(step, [Image.new("RGB", (8, 8))] * 2)
    told = shelf.ask.run(run.id)
    previews = told["previews"]
    assert previews["prompts"] == ["a hill", "the <sea>"]
    assert [column["step"] for column in previews["columns"]] == [None, 0, 4]
    assert told["thumbnail"] == previews["columns"][-1]["urls"][0]
    assert told["thumbnail"].startswith(f"/{run.id}/step_00000004_0.png?x&v=")
    index = run.path / "previews" / "index.json"
    for damage in (
        '{"prompts": 3}',
        "[]",
        '{"prompts": [], "columns": [{"step": 1, "files": ["../x"]}]}',
        '{"prompts": [], "columns": [{"step": "1", "files": []}, 7]}',
    ):
        index.write_text(damage)
        os.utime(index.parent, ns=(1, time.time_ns()))
        assert shelf.told(run)["thumbnail"] is None


def test_a_training_of_another_program_is_seen_and_protects_its_run(shelf: Shelf) -> None:
    run = shelf.add()
    write_record(run.path, replace(RECORDED, end="", ended=0.0))
    with run_lock(run.path):
        assert shelf.told(run)["status"] == "running"
        refused = refusal(lambda: shelf.ask.delete(run.id, {"id": run.id}))
        assert refused.status == 409 and "being trained by" in str(refused)
    assert shelf.told(run)["status"] == "interrupted"
    shelf.ask.delete(run.id, {"id": run.id})


# Deleting


def test_a_deleted_run_is_gone_and_its_lora_files_stay(shelf: Shelf) -> None:
    run, other = shelf.add(seed=1), shelf.add(seed=2)
    lora = shelf.output / "loras" / "x.safetensors"
    lora.parent.mkdir()
    lora.write_bytes(b"weights")
    write_record(run.path, replace(RECORDED, loras=(SavedLora("loras/x.safetensors", 4, 1.0),)))
    size = shelf.told(run)["bytes"]
    assert shelf.ask.delete(run.id, {"id": run.id}) == {
        "deleted": run.id, "bytes": size, "left": ""
    }  # fmt: skip
    assert [path.name for path in shelf.root.iterdir()] == [other.id]
    assert lora.read_bytes() == b"weights"
    assert [one["id"] for one in shelf.ask.runs()["runs"]] == [other.id]


@pytest.mark.parametrize("body", [{}, {"id": NOBODY}, {"id": None}, {"id": ["x"]}])
def test_an_id_that_is_not_confirmed_deletes_nothing(shelf: Shelf, body: dict[str, Any]) -> None:
    run = shelf.add()
    assert refusal(lambda: shelf.ask.delete(run.id, body)).status == 400
    assert (run.path / "metrics.jsonl").exists()


def test_what_is_trained_and_what_it_goes_on_from_cannot_be_deleted(shelf: Shelf) -> None:
    first = shelf.add()
    second = shelf.add(seed=1, continues=[first.id, 4])
    confirmed = {"id": first.id, "continued_by": [second.id]}
    with shelf.in_training.entered(second.id):
        refused = refusal(lambda: shelf.ask.delete(second.id, {"id": second.id}))
        assert refused.status == 409 and "Stop the training" in str(refused)
        refused = refusal(lambda: shelf.ask.delete(first.id, confirmed))
        assert (refused.status, refused.problems) == (409, (second.id,))
    assert first.path.exists() and second.path.exists()
    shelf.ask.delete(first.id, confirmed)
    assert not first.path.exists()
    assert shelf.ask.metrics(second.id, {})["rows"][0]["step"] == 5


def test_who_was_not_told_of_runs_that_go_on_from_it_deletes_nothing(shelf: Shelf) -> None:
    first = shelf.add()
    second = shelf.add(seed=1, continues=[first.id, 4])
    for told in ([], [NOBODY]):
        body = {"id": first.id, "continued_by": told}
        refused = refusal(lambda body=body: shelf.ask.delete(first.id, body))
        assert (refused.status, refused.problems) == (409, (second.id,))
    assert refusal(
        lambda: shelf.ask.delete(first.id, {"id": first.id, "continued_by": "x"})
    ).status == 400
    assert first.path.exists()


def test_what_was_half_removed_is_not_shown_and_goes_with_the_next(shelf: Shelf) -> None:
    run, other = shelf.add(seed=1), shelf.add(seed=2)
    left = RunStore(shelf.root).put_aside(other.path)
    assert left.exists()
    assert [one["id"] for one in shelf.ask.runs()["runs"]] == [run.id]
    mine = shelf.root / ".deleted_by_me"
    mine.mkdir()
    shelf.ask.delete(run.id, {"id": run.id})
    assert [path.name for path in shelf.root.iterdir()] == [mine.name]


def test_a_folder_that_cannot_be_moved_stays_whole(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shelf.add()

    def in_use(*_: object) -> None:
        raise PermissionError(13, "in use")

    monkeypatch.setattr(os, "rename", in_use)
    refused = refusal(lambda: shelf.ask.delete(run.id, {"id": run.id}))
    assert refused.status == 409 and "Nothing was removed" in str(refused)
    assert shelf.told(run)["status"] == "finished"


def test_no_training_begins_while_a_run_is_taken_away() -> None:
    in_training, entered = RunsInTraining(), threading.Event()

    def train() -> None:
        with in_training.entered("a"):
            entered.set()

    thread = threading.Thread(target=train)
    with in_training.held() as now:
        assert now == frozenset()
        thread.start()
        time.sleep(0.05)
        assert not entered.is_set()
    thread.join(10)
    assert entered.is_set() and in_training.ids() == frozenset()


def test_a_record_comes_back_as_it_was_and_damage_as_nothing(tmp_path: Path) -> None:
    record = replace(RECORDED, loras=(SavedLora("loras/a.safetensors", 3, 1.5),), reason="Täter")
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    for damage in (b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"started": NaN, "step": 1}'):
        (tmp_path / RECORD).write_bytes(damage)
        assert read_record(tmp_path) == RunRecord()
