from __future__ import annotations

from pathlib import Path

import torch

from dpo_core.run import StepReport, TrainState
from dpo_core.saving.autosave import Autosave
from dpo_core.saving.run_folder import RunFolder


def report(step: int) -> StepReport:
    return StepReport(step, {}, lambda: TrainState(step, {"a": torch.zeros(1)}, {}))


def opened(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path, {"base": "abc"})
    run.open()
    return run


def still() -> float:
    return 0.0


def test_every_so_many_steps_one_is_taken_and_the_last_two_are_kept(tmp_path: Path) -> None:
    run = opened(tmp_path)
    autosave = Autosave(run, 10, now=still)
    taken = [step for step in range(101, 136) if autosave.offer(report(step))]
    assert taken == [110, 120, 130]  # 100 steps were done before
    assert run.checkpoints() == run.autosaves() == [120, 130]
    run.remove_autosaves(129)
    assert run.checkpoints() == [130]
    run.remove_autosaves(135)
    assert run.checkpoints() == []


def test_what_others_wrote_stays(tmp_path: Path) -> None:
    run = opened(tmp_path)
    run.save_checkpoint(TrainState(100, {}, {}))
    autosave = Autosave(run, 10, now=still)
    for step in range(101, 121):
        autosave.offer(report(step))
    assert run.checkpoints() == [100, 110, 120]
    run.save_checkpoint(TrainState(125, {}, {}))
    run.remove_autosaves(125)
    assert run.checkpoints() == [100, 125]


def test_those_of_a_killed_program_go_when_two_newer_ones_are_there(tmp_path: Path) -> None:
    run = opened(tmp_path)
    for step in (40, 50, 300):
        run.save_checkpoint(TrainState(step, {}, {}), autosave=True)
    autosave = Autosave(run, 10, now=still)
    seen = []
    for step in range(51, 71):
        if autosave.offer(report(step)):
            seen.append(run.checkpoints())
    assert seen == [[50, 60, 300], [60, 70, 300]]  # what lies ahead is not ours to remove
    run.remove_autosaves(69)
    assert run.checkpoints() == [70, 300]


def test_where_steps_are_slow_time_decides(tmp_path: Path) -> None:
    seconds = 0.0
    autosave = Autosave(opened(tmp_path), 50, now=lambda: seconds)
    taken = []
    for step in range(1, 21):
        seconds += 45
        if autosave.offer(report(step)):
            taken.append(step)
    assert taken == [7, 14]  # 315 s each


def test_no_room_is_tried_again_when_the_next_is_due(tmp_path: Path) -> None:
    run = opened(tmp_path)
    full = True

    def poll() -> None:
        if full:
            raise OSError(28, "No space left on device")

    autosave, failed = Autosave(run, 10, poll, now=still), []
    for step in range(1, 31):
        full = step < 25
        try:
            autosave.offer(report(step))
        except OSError:
            failed.append(step)
    assert failed == [10, 20] and run.checkpoints() == [30]
    assert not list(run.path.glob(".*"))


def test_slow_writing_is_done_less_often(tmp_path: Path) -> None:
    seconds = 0.0

    def slow(step: int) -> StepReport:
        def state() -> TrainState:
            nonlocal seconds
            seconds += 3  # to write
            return report(step).state()

        return StepReport(step, {}, state)

    autosave = Autosave(opened(tmp_path), 10, expected=1.5, now=lambda: seconds)
    taken = []
    for step in range(1, 601):
        seconds += 1
        if autosave.offer(slow(step)):
            taken.append(step)
    # 1.5 s are 1.5 % of 100 s, and 3 s of 200 s, at a step a second.
    assert taken == [100, 300, 500]
