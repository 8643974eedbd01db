"""Runs the tests of the page's state modules, which need no browser, under Node."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NODE = shutil.which("node")
FILES = sorted((Path(__file__).parent / "web" / "state").glob("*.test.mjs"))


@pytest.mark.skipif(NODE is None, reason="no Node found: install Node 20 or newer")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name.split(".")[0])
def test_state_module(file: Path) -> None:
    assert NODE is not None
    done = subprocess.run(
        [NODE, "--test", str(file)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
