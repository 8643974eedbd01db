from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dpo_core.saving.event_log import EventLog


def test_every_finite_metric_becomes_a_curve(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard reads them"
    )
    with EventLog(tmp_path, 0) as log:
        for step in (1, 2, 3):
            log.add(step, {"dpo/accuracy": step / 4, "rho": float("nan")})
    with EventLog(tmp_path, 2) as log:  # went on from step 2: the third is done again
        log.add(3, {"dpo/accuracy": 1.0})
    read = accumulator.EventAccumulator(str(tmp_path))
    read.Reload()
    assert read.Tags()["scalars"] == ["dpo/accuracy"]
    points = [(point.step, point.value) for point in read.Scalars("dpo/accuracy")]
    assert points == [(1, 0.25), (2, 0.5), (3, 1.0)]


def test_a_broken_tensorboard_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard", reason="it cannot break where it is not")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # cannot be imported
    with EventLog(tmp_path, 0) as log:
        log.add(1, {"dpo/accuracy": 0.5})
    assert "not written any more" in caplog.text
