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


def test_every_so_many_steps_the_last_one_replaces_the_one_before(tmp_path: Path) -> None:
    run = opened(tmp_path)
    autosave = Autosave(run, 10, lambda: 0.0)
    taken = [step for step in range(101, 136) if autosave.offer(report(step))]
    assert taken == [110, 120, 130]  # 100 steps were done before
    assert run.checkpoints() == [130]
    autosave.clear(but=130)
    assert run.checkpoints() == [130]


def test_what_others_wrote_stays(tmp_path: Path) -> None:
    run = opened(tmp_path)
    run.save_checkpoint(TrainState(100, {}, {}))
    autosave = Autosave(run, 10, lambda: 0.0)
    for step in range(101, 121):
        autosave.offer(report(step))
    assert run.checkpoints() == [100, 120]
    run.save_checkpoint(TrainState(125, {}, {}))
    autosave.clear(but=125)
    assert run.checkpoints() == [100, 125]


def test_slow_writing_is_done_less_often(tmp_path: Path) -> None:
    seconds = 0.0

    def slow(step: int) -> StepReport:
        def state() -> TrainState:
            nonlocal seconds
            seconds += 3  # to write
            return report(step).state()

        return StepReport(step, {}, state)

    autosave = Autosave(opened(tmp_path), 10, lambda: seconds)
    taken = []
    for step in range(1, 501):
        seconds += 1
        if autosave.offer(slow(step)):
            taken.append(step)
    # 3 s of writing are 2 % of 150 s, at a step a second.
    assert taken == [10, 160, 310, 460]
