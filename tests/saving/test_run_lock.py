from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dpo_core.saving.run_lock import RunBusy, holder, run_lock

HOLD = """
import sys
from pathlib import Path
from dpo_core.saving.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_training_is_told_who_has_the_folder(tmp_path: Path) -> None:
    assert holder(tmp_path) == ""
    with run_lock(tmp_path):
        told = f"process {os.getpid()} on .*, since 20"
        with pytest.raises(RunBusy, match=told), run_lock(tmp_path):
            raise AssertionError
        assert str(os.getpid()) in holder(tmp_path)
    assert holder(tmp_path) == ""
    with run_lock(tmp_path):
        pass


def test_a_lock_ends_with_what_is_inside(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), run_lock(tmp_path):
        raise KeyboardInterrupt
    assert holder(tmp_path) == ""


def test_a_killed_program_holds_nothing(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert other.stdout is not None and other.stdout.readline() == b"held\n"
    with pytest.raises(RunBusy, match=f"process {other.pid} on"), run_lock(tmp_path):
        raise AssertionError
    other.kill()
    other.wait()
    with run_lock(tmp_path):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError), run_lock(tmp_path / "none"):
        raise AssertionError
    assert holder(tmp_path / "none") == ""
