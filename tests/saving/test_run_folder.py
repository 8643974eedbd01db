from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dpo_core.evaluation.validation import ValidationState
from dpo_core.run import TrainSettings, TrainState
from dpo_core.saving.run_folder import RunFolder, run_id, runs_like
from dpo_core.saving.tensor_file import DamagedFile
from dpo_core.training.plan import Epochs

CONTENT = {"base": "abc", "settings": asdict(TrainSettings()), "list": [1, 2.5, None]}


def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path, CONTENT)
    run.open()
    return run


def a_state(step: int = 7, rho: float | None = 1 / 3) -> TrainState:
    generator = torch.Generator().manual_seed(step)
    layers = ["diffusion_model.a.lora_A.weight", "diffusion_model.b/c.lora_B.weight"]
    return TrainState(
        step,
        {name: torch.randn(2, 3, generator=generator) for name in layers},
        {
            f"{name}/{key}": value
            for name in layers
            for key, value in (
                ("step", torch.tensor(float(step))),
                ("exp_avg", torch.randn(2, 3, generator=generator) * 1e-30),
            )
        },
        rho,
        loss_scale=64.0,
        epochs=Epochs("pairs", (2, 4), 3, 2),
        visits=5,
        average={name: torch.randn(2, 3, generator=generator) for name in layers},
        algorithm="adafactor",
        validation=ValidationState("pairs", 0.5, best_step=3),
        best={name: torch.randn(2, 3, generator=generator) for name in layers},
    )


def same(one: TrainState, other: TrainState) -> bool:
    def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
        return a.keys() == b.keys() and all(
            torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a
        )

    return (
        (one.step, one.rho, one.loss_scale) == (other.step, other.rho, other.loss_scale)
        and (one.epochs, one.visits) == (other.epochs, other.visits)
        and equal(one.adapter, other.adapter)
        and equal(one.optimizer, other.optimizer)
        and equal(one.average, other.average)
        and one.algorithm == other.algorithm
        and one.validation == other.validation
        and equal(one.best, other.best)
    )


def test_the_same_content_has_the_same_id_in_whatever_order() -> None:
    backwards = dict(reversed(CONTENT.items()))
    assert run_id(backwards) == run_id(CONTENT) == run_id(json.loads(json.dumps(CONTENT)))


def test_an_id_never_changes_between_versions_or_machines() -> None:
    # Computed once; if this changes, nobody's finished runs are found again.
    assert run_id({"base": "abc", "beta": 5000.0, "continues": None}) == "a47affcc8548efb9992e"


def test_other_content_has_another_id_and_all_are_safe_names() -> None:
    ids = {
        run_id(content)
        for content in (CONTENT, CONTENT | {"base": "abd"}, CONTENT | {"list": [1, 2.5]}, {})
    }
    assert len(ids) == 4
    assert all(name.isalnum() and len(name) == 20 for name in ids)


def test_opening_writes_the_settings_once(tmp_path: Path) -> None:
    run = folder(tmp_path)
    settings = run.path / "settings.json"
    assert run.path == tmp_path / run_id(CONTENT)
    assert json.loads(settings.read_text(encoding="utf-8")) == json.loads(json.dumps(CONTENT))
    settings.write_text("a note by hand", encoding="utf-8")
    folder(tmp_path)
    assert settings.read_text(encoding="utf-8") == "a note by hand"


@pytest.mark.parametrize("rho", [None, 1 / 3, 0.1 + 0.2])
def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path, rho: float | None) -> None:
    run, state = folder(tmp_path), a_state(rho=rho)
    path = run.save_checkpoint(state)
    assert path.parent == run.path
    assert same(RunFolder(tmp_path, CONTENT).load_checkpoint(7), state)


def test_a_checkpoint_before_any_optimiser_state_comes_back(tmp_path: Path) -> None:
    run, state = folder(tmp_path), TrainState(0, a_state().adapter, {})
    run.save_checkpoint(state)
    assert same(run.load_checkpoint(0), state)


def test_checkpoints_are_listed_in_order_of_steps_and_nothing_else_is(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, CONTENT)
    assert run.checkpoints() == []
    run.open()
    for step in (1000, 20, 3):
        run.save_checkpoint(a_state(step))
    for name in (".step_00000004.safetensors.ab.part", "step_5.safetensors", "notes.txt"):
        (run.path / name).touch()
    assert run.checkpoints() == [3, 20, 1000]
    assert same(run.load_checkpoint(20), a_state(20))
    with pytest.raises(FileNotFoundError):
        run.load_checkpoint(4)


@pytest.mark.skipif(sys.platform == "win32", reason="sets a POSIX limit on file size")
def test_no_room_is_an_os_error_and_leaves_no_half_checkpoint(tmp_path: Path) -> None:
    import resource

    run = folder(tmp_path)
    run.save_checkpoint(a_state(1))
    before = sorted(entry.name for entry in run.path.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError):
            run.save_checkpoint(a_state(2))
        with pytest.raises(OSError):
            run.save_reference(dict(a_state().adapter))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(entry.name for entry in run.path.iterdir()) == before
    assert run.checkpoints() == [1]


def test_metrics_come_back_as_one_row_per_step(tmp_path: Path) -> None:
    run = folder(tmp_path)
    assert run.metrics(100) == []
    for step in (1, 2, 3):
        run.append_metrics(step, {"loss/dpo": step / 3, "rho": 1.0})
    assert run.metrics(2) == [
        {"step": 1, "loss/dpo": 1 / 3, "rho": 1.0}, {"step": 2, "loss/dpo": 2 / 3, "rho": 1.0},
    ]
    assert len(RunFolder(tmp_path, CONTENT).metrics(100)) == 3


def test_steps_done_again_count_once_with_their_last_numbers(tmp_path: Path) -> None:
    run = folder(tmp_path)
    for step, loss in ((1, 0.6), (2, 0.5), (3, 0.4), (2, 0.55), (3, 0.45)):
        run.append_metrics(step, {"loss/dpo": loss})
    assert [(row["step"], row["loss/dpo"]) for row in run.metrics(9)] == [
        (1, 0.6), (2, 0.55), (3, 0.45),
    ]


def test_metrics_that_are_no_numbers_are_left_out_and_the_log_stays_standard_json(
    tmp_path: Path,
) -> None:
    run = folder(tmp_path)
    run.append_metrics(1, {"rho": math.nan, "loss/dpo": math.inf, "grad_norm": 0.5})
    text = (run.path / "metrics.jsonl").read_text(encoding="utf-8")
    assert json.loads(text) == {"step": 1, "grad_norm": 0.5}


@pytest.mark.parametrize(
    "torn",
    [
        b'{"step": 3, "loss/d', b'{"loss/dpo": 0.1}\n', b"\0\0\0", b"7\n", b"[]\n", b"\n", b"\xff",
        b'{"step": 1e999}\n', b'{"step": "3"}\n', b'{"step": null}', b'{"step": true}\n',
        b'{"step": 1, "loss/dpo": "x"}\n', b'{"step": 2, "loss/dpo": NaN}\n', b"[" * 100_000,
        b'{"step": 2, "loss/dpo": 1' + b"0" * 400 + b"}\n",
    ],
)  # fmt: skip
def test_a_torn_line_is_passed_over_and_costs_no_other(tmp_path: Path, torn: bytes) -> None:
    run = folder(tmp_path)
    run.append_metrics(1, {"loss/dpo": 0.6})
    run.append_metrics(2, {"loss/dpo": 0.5})
    with open(run.path / "metrics.jsonl", "ab") as file:  # the power went
        file.write(torn)
    resumed = folder(tmp_path)
    resumed.append_metrics(3, {"loss/dpo": 0.4})
    resumed.append_metrics(4, {"loss/dpo": 0.3})
    assert [row["loss/dpo"] for row in resumed.metrics(9)] == [0.6, 0.5, 0.4, 0.3]


def test_the_reference_is_kept_as_it_was_first(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run = folder(tmp_path)
    first = dict(a_state(1).adapter)
    run.save_reference(first)
    run.save_reference(dict(a_state(2).adapter))
    kept = load_file(run.path / "reference.safetensors")
    assert kept.keys() == first.keys()
    assert all(torch.equal(kept[name], first[name]) for name in first)


def opened(root: Path, **content: object) -> RunFolder:
    run = RunFolder(root, {"base": "abc", "size": (1, 2.5), "pairs": "p", **content})
    run.open()
    return run


def test_runs_that_differ_in_nothing_else_are_found(tmp_path: Path) -> None:
    assert runs_like(tmp_path / "none", {}, ()) == []
    one, other = opened(tmp_path), opened(tmp_path, pairs="q", continues=["x", 3])
    opened(tmp_path, base="def")
    opened(tmp_path, more=1)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "settings.json").write_text('{"base": "ab')
    (tmp_path / "copied").mkdir()
    (tmp_path / "copied" / "settings.json").write_bytes(
        (one.path / "settings.json").read_bytes()
    )  # whose checkpoints would not be found
    found = runs_like(tmp_path, one.content, ("pairs", "continues"))
    assert {run.path for run in found} == {one.path, other.path}
    assert [run.path for run in runs_like(tmp_path, one.content, ())] == [one.path]


def test_the_history_of_a_run_begins_with_the_runs_it_goes_on_from(tmp_path: Path) -> None:
    first = opened(tmp_path)
    second = opened(tmp_path, pairs="q", continues=[first.id, 2])
    third = opened(tmp_path, pairs="r", continues=[second.id, 3])
    for run, steps in ((first, (1, 2, 3)), (second, (3, 4)), (third, (4, 5))):
        for step in steps:
            run.append_metrics(step, {"run": float(ord(str(run.content["pairs"])))})
    rows = [(row["step"], chr(int(row["run"]))) for row in third.history(4)]
    assert rows == [(1, "p"), (2, "p"), (3, "q"), (4, "r")]
    gone = opened(tmp_path, continues=["0" * 20, 7])
    gone.append_metrics(8, {})
    assert gone.history(8) == [{"step": 8}]


def test_reference_errors_are_those_of_their_key_and_found_in_the_run_before(
    tmp_path: Path,
) -> None:
    first = opened(tmp_path)
    second = opened(tmp_path, pairs="q", continues=[first.id, 2])
    errors = {"a:0": torch.tensor([0.1, 0.2]), "b:1": torch.tensor([0.3, 0.4])}
    assert second.reference_errors("k") == {}
    first.save_reference_errors(errors, "k")
    for run in (first, second):
        found = run.reference_errors("k")
        assert found.keys() == errors.keys()
        assert all(torch.equal(found[name], errors[name]) for name in errors)
        assert run.reference_errors("other") == {}
    (first.path / "reference_errors.safetensors").write_bytes(b"torn")
    assert second.reference_errors("k") == {}


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    run = opened(tmp_path)
    for step in (1, 2, 3):
        run.save_checkpoint(a_state(step))
    path = run.path / "step_00000003.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    (run.path / "step_00000004.safetensors").write_bytes(b"")
    assert run.checkpoints() == [1, 2]


def test_a_run_whose_settings_were_noted_in_is_still_where_it_was(tmp_path: Path) -> None:
    run = opened(tmp_path)
    run.append_metrics(1, {"loss/dpo": 0.5})
    (run.path / "settings.json").write_text("{}")
    again = RunFolder.at(run.path)
    assert (again.path, again.id) == (run.path, run.id)
    assert len(again.history(1)) == 1
    assert runs_like(tmp_path, {}, ()) == []


def test_a_checkpoint_that_is_not_what_was_written_is_an_error(tmp_path: Path) -> None:
    run = opened(tmp_path)
    path = run.save_checkpoint(a_state(3))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert run.checkpoints() == [3]  # its length is right
    with pytest.raises(DamagedFile):
        run.load_checkpoint(3)


def test_a_step_whose_validation_was_broken_off_comes_back(tmp_path: Path) -> None:
    run = opened(tmp_path)
    state = replace(a_state(3), unvalidated={"loss/dpo": 0.5, "rho": 1 / 3})
    run.save_checkpoint(state)
    assert run.load_checkpoint(3).unvalidated == state.unvalidated


def test_an_autosave_is_one_until_it_is_kept(tmp_path: Path) -> None:
    run = opened(tmp_path)
    for step in (10, 20):
        run.save_checkpoint(a_state(step), autosave=True)
    assert (run.checkpoints(), run.autosaves()) == ([10, 20], [10, 20])
    run.keep_checkpoint(10)
    run.save_checkpoint(a_state(20))
    assert (run.checkpoints(), run.autosaves()) == ([10, 20], [])
    assert same(run.load_checkpoint(10), a_state(10))
    run.keep_checkpoint(20)  # is one already
    run.remove_checkpoint(10)
    assert run.checkpoints() == [20]


def test_the_latest_ends_stay_and_those_somebody_goes_on_from(tmp_path: Path) -> None:
    run = opened(tmp_path)
    opened(tmp_path, pairs="q", continues=[run.id, 2])
    for step in range(1, 9):
        run.save_checkpoint(a_state(step))
    run.save_checkpoint(a_state(9), autosave=True)
    assert run.continued_at() == {2}
    assert run.prune(but={*run.continued_at(), 1}, most=3) == [3, 4, 5]
    assert run.checkpoints() == [1, 2, 6, 7, 8, 9]
    assert run.prune(most=3) == [1, 2]


def test_metrics_of_steps_that_are_done_again_can_be_dropped(tmp_path: Path) -> None:
    run = opened(tmp_path)
    assert run.forget_after(0) == 0
    for step in (1, 2, 3, 4):
        run.append_metrics(step, {"loss/dpo": step / 4})
    assert run.forget_after(4) == 0
    assert run.forget_after(2) == 2
    run.append_metrics(3, {"loss/dpo": 0.1})
    assert [row["loss/dpo"] for row in run.metrics(9)] == [0.25, 0.5, 0.1]


def test_disk_use_counts_everything(tmp_path: Path) -> None:
    run = opened(tmp_path)
    before = run.disk_use()
    (run.path / "events").mkdir()
    (run.path / "events" / "a").write_bytes(b"x" * 100)
    assert run.disk_use() == before + 100 > 100
