"""Whatever happens to a training, nothing is lost beyond what is said, and it goes on exactly."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import comfy.model_management
import pytest
import torch
from hostkit import faults
from hostkit.faults import (
    Heard,
    at,
    differences,
    frequent_checkpoints,
    halves,
    output,
    stop,
    train,
    trainer_of,
)
from hostkit.load_states import sample
from hostkit.tiny_models import tiny_patcher
from hostkit.training import pack_module

STEPS = 7
Interrupted = comfy.model_management.InterruptProcessingException


@pytest.fixture(scope="module")
def patcher() -> Any:
    return tiny_patcher(faults.KIND)


@pytest.fixture(scope="module")
def whole(patcher: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What comes of the training when nothing happens to it."""
    with output(tmp_path_factory.mktemp("whole")):
        result = train(trainer_of(patcher), STEPS)
        state = result.trainer.state()
        held = (state.best, state.average, state.optimizer, state.objective.mean_margin)
        assert all(map(bool, held))
        yield result


@pytest.fixture(autouse=True)
def often(tmp_path: Path) -> Iterator[None]:
    with output(tmp_path / "output"), frequent_checkpoints():
        yield


@pytest.fixture(autouse=True)
def clean(patcher: Any) -> Iterator[None]:
    """Whatever a test does, the host is as it was."""
    comfy.model_management.interrupt_current_processing(False)
    before = sample(patcher, faults.KIND)
    yield
    assert not comfy.model_management.in_training
    assert not comfy.model_management.processing_interrupted()
    assert torch.equal(sample(patcher, faults.KIND), before)


def run_path(tmp_path: Path) -> Path:
    (run,) = (tmp_path / "output" / "dpo" / "runs").iterdir()
    return run


def parts(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*.part")]


def raiser(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


# Stop

PHASES = [
    # place, call at which Stop is pressed, steps kept
    ("loading", 1, 0),
    ("validation", 1, 0),  # the one at the start
    ("reference", 6, 3),
    ("policy", 9, 0),  # the start-up check
    ("backward", 5, 2),  # two a step
    ("optimizer", 4, 4),
    ("validation", 2, 3),
    ("metrics", 4, 3),  # one is of the start
    ("writing", 3, 2),  # the first checkpoint
    ("renaming", 3, 2),  # likewise
    ("end", 1, STEPS),
    ("reference errors", 1, STEPS),
]


@pytest.mark.parametrize(("place", "number", "steps"), PHASES)
def test_stop_is_obeyed_in_every_phase_and_the_next_run_ends_the_same(
    place: str, number: int, steps: int, patcher: Any, whole: Any, tmp_path: Path
) -> None:
    progress = Heard(STEPS)
    with at(place, number, stop), pytest.raises(Interrupted):
        train(trainer_of(patcher), STEPS, progress)
    run = run_path(tmp_path)
    assert not parts(tmp_path) and not halves(tmp_path)
    said = progress.lines[-1]
    assert progress.toasts[-1] == said, "the line may be overlooked"
    ends = sorted(run.glob("step_*"))
    if not ends:
        assert steps == 0 and said == "Stopped before another step was done."
    else:
        kept = int(ends[-1].stem.removeprefix("step_"))
        assert kept == steps
        assert f"What was learned in {kept} step" in said
        assert f"output/dpo/runs/{run.name})" in said
        lora = re.search(r"LoRA (\S+\.safetensors);", said)
        assert lora is not None and (tmp_path / lora[1]).is_file()
        assert not list(run.glob("autosave_*"))
        # Everything up to the last step done can be looked at.
        rows = (run / "metrics.jsonl").read_text().splitlines()
        assert len(rows) >= kept  # one is of the validation at the start
    resumed = train(trainer_of(patcher), STEPS, again := Heard(STEPS))
    assert differences(resumed, whole) == []
    assert resumed.found is (steps == STEPS)
    went_on = any("going on from step" in line for line in again.lines)
    assert went_on is (0 < steps < STEPS)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_stop_is_obeyed_within_a_backward_pass(
    checkpointing: bool, patcher: Any, tmp_path: Path
) -> None:
    """Backward is the longer part of a step: it must not be waited for."""
    trainer = trainer_of(patcher, checkpointing, validation=None)
    real, seen = torch.autograd.backward, []

    def backward(*args: Any, **options: Any) -> None:
        seen.append("begun")
        if seen.count("begun") == 4:
            stop()
        real(*args, **options)
        seen.append("ended")

    torch.autograd.backward = backward  # type: ignore[assignment]
    try:
        with pytest.raises(Interrupted):
            train(trainer, STEPS)
    finally:
        torch.autograd.backward = real
    assert seen[-1] == "begun"


SECOND = [
    ("writing", "Stopped at once. 1 step could not be kept; run again to go on from step 2, "),
    ("lora", "Stopped at once. The checkpoint of step 3 is kept, but no LoRA was written; "),
]


@pytest.mark.parametrize(("place", "said"), SECOND)
def test_a_second_press_of_stop_stops_the_saving_too(
    place: str, said: str, patcher: Any, whole: Any, tmp_path: Path
) -> None:
    progress = Heard(STEPS)
    trainer = trainer_of(patcher)

    class Keeping(ExitStack):
        """From when the first press is obeyed, the second comes at the first of `place`."""

    with Keeping() as late:
        pressed: list[int] = []

        def first() -> None:
            stop()
            pressed.append(1)

        real = pack_module("nodes.host.training").keep

        def keep(*args: Any) -> str:
            with at(place, 1, stop):
                return str(real(*args))

        training = pack_module("nodes.host.training")
        training.keep = keep
        late.callback(setattr, training, "keep", real)
        late.enter_context(at("backward", 7, first))  # two a step: in the fourth
        with pytest.raises(Interrupted):
            train(trainer, STEPS, progress)
    assert pressed and progress.lines[-1].startswith(said), progress.lines[-1]
    assert progress.toasts[-1] == progress.lines[-1]
    assert not parts(tmp_path) and not halves(tmp_path)
    resumed = train(trainer_of(patcher), STEPS)
    assert differences(resumed, whole) == []


# Memory

HUNGRY = {"loading": 1, "policy": 40, "backward": 5, "reserve": 3, "optimizer": 4, "validation": 2,
          "snapshot": 2, "writing": 5}  # fmt: skip


@pytest.mark.parametrize("place", HUNGRY)
def test_out_of_memory_anywhere_is_said_and_the_next_run_ends_the_same(
    place: str, patcher: Any, whole: Any, tmp_path: Path
) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    with at(place, HUNGRY[place], raiser(error)), pytest.raises(RuntimeError) as raised:
        train(trainer_of(patcher), STEPS)
    said = str(raised.value)
    assert said.startswith("The computer ran out of memory. Beside the model this training needs")
    assert "switch gradient_checkpointing on (about" in said and "less)" in said
    assert raised.value.__context__ is None, "it would keep the step's tensors"
    if place == "optimizer":
        assert "The last 1 step could not be kept. What was learned in 2 steps is kept" in said
    elif place != "loading":
        assert "could not be kept" not in said and "What was learned in" in said
    assert not halves(tmp_path) and not parts(tmp_path)
    assert differences(train(trainer_of(patcher), STEPS), whole) == []


def test_stepping_down_does_no_step_twice_and_says_what_it_did(
    patcher: Any, tmp_path: Path
) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory.")
    progress = Heard(STEPS)
    trainer = trainer_of(patcher, policy="step_down", execution_mode="full_concurrent")
    with at("backward", 3, raiser(error), last=5), at("metrics", 99, stop) as rows:
        result = train(trainer, STEPS, progress)
    ways = ["execution_mode policy_concurrent", "execution_mode sequential",
            "gradient_checkpointing"]  # fmt: skip
    expected = [f"memory ran out: going on after step 2 with {way}" for way in ways]
    assert list(result.said) == expected
    assert [one.rstrip(".").lower() for one in progress.toasts] == expected
    assert rows == [STEPS + 1] and [row["step"] for row in result.rows] == list(range(STEPS + 1))
    assert result.trainer.settings.execution_mode == "sequential"
    assert result.trainer.gradient_checkpointing and result.trainer.run.id == trainer.run.id

    # The same, chosen by hand.
    with output(tmp_path / "by hand"):
        two = train(trainer_of(patcher, execution_mode="full_concurrent"), 2)
        by_hand = train(trainer_of(patcher, True), STEPS)
    assert two.trainer.run.path == by_hand.trainer.run.path
    assert differences(result, by_hand) == []


def test_where_there_is_no_way_down_left_it_is_said(patcher: Any, tmp_path: Path) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory.")
    trainer = trainer_of(patcher, policy="step_down", execution_mode="policy_concurrent")
    with at("backward", 1, raiser(error), last=999), pytest.raises(RuntimeError) as raised:
        train(trainer, STEPS)
    said = str(raised.value)
    assert "ran out of memory" in said and "half the megapixels" in said
    assert "execution_mode" not in said and "gradient_checkpointing on" not in said


# Disk


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("place", "number"),
    [("metrics", 1), ("metrics", 6), ("writing", 1), ("writing", 200), ("renaming", 1),
     ("renaming", 7)],
)  # fmt: skip
def test_a_full_disk_costs_nothing_once_there_is_room(
    place: str, number: int, patcher: Any, whole: Any, tmp_path: Path
) -> None:
    """From some write on the disk takes nothing; then there is room, and ComfyUI still runs."""
    progress, said = Heard(STEPS), ""
    trainer = trainer_of(patcher)
    with at(place, number, full, last=10**6) as calls:
        try:
            train(trainer, STEPS, progress)
        except RuntimeError as error:
            said = str(error)
    assert not parts(tmp_path) and not halves(tmp_path)
    if place == "writing" and number <= calls[0]:
        assert "It is kept in memory as long as ComfyUI runs" in said
    progress = Heard(STEPS)
    with at("policy", 10**6, stop) as passes:
        result = train(trainer_of(patcher), STEPS, progress)
    if place == "writing":
        assert passes == [0], "the steps were done again"
    lost = {row["step"] for row in whole.rows} - {row["step"] for row in result.rows}
    if lost and place == "metrics":  # only rows are missing, and that was said
        return
    assert differences(result, whole) == []


def test_a_full_disk_that_stays_full_is_said_again(patcher: Any, tmp_path: Path) -> None:
    with at("writing", 1, full, last=10**6):
        with pytest.raises(RuntimeError, match="kept in memory as long as ComfyUI runs"):
            train(trainer_of(patcher), STEPS)
        with pytest.raises(RuntimeError, match="still no room for what was learned in 7 steps"):
            train(trainer_of(patcher), STEPS)
    assert train(trainer_of(patcher), STEPS).found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB, where this system lets us make one."""
    folder = tmp_path / "output"
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount a small file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Nothing fits any more."""
    path = folder / "filler"
    with suppress(OSError), open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return path


def test_a_disk_that_is_really_full_costs_nothing_either(
    patcher: Any, whole: Any, small_disk: Path, tmp_path: Path
) -> None:
    filler = fill(small_disk)
    with pytest.raises(RuntimeError, match="cannot be written: .*No space left"):
        train(trainer_of(patcher), STEPS)
    filler.unlink()
    progress = Heard(STEPS)
    with at("backward", 9, lambda: fill(small_disk)), pytest.raises(RuntimeError) as raised:
        train(trainer_of(patcher), STEPS, progress)
    assert "No space left on device" in str(raised.value)
    assert "It is kept in memory as long as ComfyUI runs" in str(raised.value)
    assert any(text.startswith("The checkpoint of step 6") for text in progress.toasts)
    assert any(text.startswith("The metrics cannot be written") for text in progress.toasts)
    assert not parts(tmp_path) and not halves(tmp_path)
    filler.unlink()
    again = train(trainer_of(patcher), STEPS)
    assert again.found and not differences_of_states(again, whole)


# Damage


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 16
    path.write_bytes(content)


def test_a_damaged_checkpoint_costs_the_way_from_the_one_before(
    patcher: Any, whole: Any, tmp_path: Path
) -> None:
    for steps in (3, 5):
        train(trainer_of(patcher), steps)
    run = run_path(tmp_path)
    flip(run / "step_00000005.safetensors", -9)
    progress = Heard(STEPS)
    assert differences(train(trainer_of(patcher), STEPS, progress), whole) == []
    assert "the checkpoint of step 5 is damaged and was passed over" in progress.lines[0]
    assert "going on from step 3" in progress.lines[0]
    flip(run / "step_00000003.safetensors", -9)
    flip(run / "step_00000005.safetensors", -5)
    flip(run / "step_00000007.safetensors", -9)
    progress = Heard(STEPS)
    assert differences(train(trainer_of(patcher), STEPS, progress), whole) == []
    assert progress.lines[0].count("is damaged") == 3


def test_more_picks_go_on_from_the_last_checkpoint_that_can_be_read(
    patcher: Any, tmp_path: Path
) -> None:
    for steps in (1, 2):
        train(trainer_of(patcher, lineage=("session",), validation=None), steps)
    run = run_path(tmp_path)
    flip(run / "step_00000002.safetensors", -9)
    grown = trainer_of(patcher, lineage=("session",), validation=None, count=4)
    assert (grown.step, grown.origin.run.path) == (1, run)
    flip(run / "step_00000001.safetensors", -9)
    fresh = trainer_of(patcher, lineage=("session",), validation=None, count=5)
    assert (fresh.step, fresh.origin.run) == (0, None)


def test_damaged_reference_errors_and_metrics_are_as_if_they_were_not_there(
    patcher: Any, whole: Any, tmp_path: Path
) -> None:
    train(trainer_of(patcher), 5)
    run = run_path(tmp_path)
    flip(run / "reference_errors.safetensors", -3)
    lines = (run / "metrics.jsonl").read_bytes().splitlines()
    lines[2] = lines[2][:20]
    (run / "metrics.jsonl").write_bytes(b"\n".join([*lines, b'{"step": 9e999}', b"\0\0\0"]))
    result = train(trainer_of(patcher), STEPS)
    rows = [row["step"] for row in result.rows]
    assert rows == [0, 1, 3, 4, 5, 6, 7]  # the torn one is of step 2
    assert not differences_of_states(result, whole)


def differences_of_states(one: Any, other: Any) -> list[str]:
    from dataclasses import replace

    return differences(replace(one, rows=[]), replace(other, rows=[]))


# Other programs


@pytest.fixture(scope="module")
def programs() -> Iterator[Any]:
    """Where others are made from: it has loaded everything once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hostkit.child"])
    tests = str(Path(__file__).parents[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # threads would not survive being copied
        patch.setenv("PYTHONPATH", os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")]))
        yield context


@contextmanager
def training_up_to(
    place: str, number: int, programs: Any, tmp_path: Path, stopped_at: int = 0
) -> Iterator[Any]:
    """Another program that trains here, when it has come to a place. It ends with the block."""
    from hostkit.child import train_in_child

    folder = tmp_path / "output"
    folder.mkdir(exist_ok=True)
    process = programs.Process(
        target=train_in_child, args=(str(folder), STEPS, place, number, stopped_at), daemon=True
    )
    process.start()
    try:
        deadline = time.monotonic() + 120
        while not (folder / "waiting").exists():
            assert not halves(tmp_path), "seen by somebody who looked on"
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(0.01)
        (folder / "waiting").unlink()
        yield process
    finally:
        process.kill()
        process.join()


KILLS = [
    # place, call, steps that are safe, call of the metrics at which Stop was pressed
    ("optimizer", 4, 2, 0),
    ("writing", 20, 0, 0),  # the first checkpoint
    ("removing", 1, 6, 0),
    ("end", 1, 6, 0),
    ("lora", 1, 5, 6),  # saving after Stop
]


@pytest.mark.parametrize(("place", "number", "safe", "stopped_at"), KILLS)
def test_a_killed_program_costs_the_steps_since_its_last_checkpoint_and_the_next_says_so(
    place: str, number: int, safe: int, stopped_at: int, programs: Any, patcher: Any, whole: Any,
    tmp_path: Path,
) -> None:
    with training_up_to(place, number, programs, tmp_path, stopped_at) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not halves(tmp_path)
    run = run_path(tmp_path)
    steps = [
        int(path.stem.rpartition("_")[2])
        for kind in ("autosave", "step")
        for path in run.glob(f"{kind}_*.safetensors")
    ]
    assert max(steps, default=0) == safe
    done = max(map(int, re.findall(r'"step": (\d+)', (run / "metrics.jsonl").read_text())))
    progress = Heard(STEPS)
    assert differences(train(trainer_of(patcher), STEPS, progress), whole) == []
    assert run_path(tmp_path) == run and not parts(run)
    if safe:
        assert f"going on from step {safe}, which is on disk" in progress.lines[0]
    if lost := done - safe:
        assert "the training before was broken off" in progress.lines[0]
        assert re.search(rf"\b{lost} steps? .*done again", progress.lines[0])


def test_two_programs_do_not_train_in_one_folder(
    programs: Any, patcher: Any, whole: Any, tmp_path: Path
) -> None:
    train(trainer_of(patcher), 1)
    with training_up_to("optimizer", 5, programs, tmp_path) as process:
        told = rf"running already \(process {process.pid} on .*since"
        with pytest.raises(RuntimeError, match=told):
            train(trainer_of(patcher), STEPS)
        assert train(trainer_of(patcher), 1).found, "what is there can be had all the same"
    assert differences(train(trainer_of(patcher), STEPS), whole) == []


# Time and room


def test_a_clock_that_is_set_back_changes_nothing(
    patcher: Any, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    with at("backward", 7, stop), pytest.raises(Interrupted):
        train(trainer_of(patcher), STEPS)
    monkeypatch.setattr(time, "time", lambda: real() - 10**8)
    for path in tmp_path.rglob("*"):
        os.utime(path, (10**9, 10**9))
    assert differences(train(trainer_of(patcher), STEPS), whole) == []


def test_old_ends_go_but_for_those_somebody_stands_at(patcher: Any, tmp_path: Path) -> None:
    first = train(trainer_of(patcher, validation=None), 1)
    for steps in range(2, 8):
        train(trainer_of(patcher, validation=None), steps)
    run = first.trainer.run
    assert run.checkpoints() == [1, 3, 4, 5, 6, 7]
    assert not run.autosaves()
    assert train(first.trainer, 2).found
    del first
    train(trainer_of(patcher, validation=None), 8)
    assert run.checkpoints() == [4, 5, 6, 7, 8]
