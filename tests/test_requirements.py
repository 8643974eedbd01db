"""What installing the pack brings into an environment that somebody else looks after."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Another version of one of these can stop ComfyUI from starting.
THE_HOSTS_OWN = {"torch", "torchvision", "torchaudio", "triton", "xformers"}


def requirements(lines: list[str]) -> dict[str, str]:
    """Name -> the whole requirement, for lines as in requirements.txt."""
    stated = [line.split("#")[0].strip() for line in lines]
    return {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower(): line for line in stated if line}


def pyproject_dependencies() -> dict[str, str]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)\n\]", text, re.DOTALL | re.MULTILINE)
    assert listed is not None
    return requirements(re.findall(r'"([^"]+)"', listed[1]))


def test_neither_list_touches_the_hosts_torch() -> None:
    installed = requirements((ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines())
    assert installed.keys() & THE_HOSTS_OWN == set()
    assert pyproject_dependencies().keys() & THE_HOSTS_OWN == set()


def test_both_lists_ask_for_the_same_versions() -> None:
    installed = requirements((ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines())
    assert "peft" in installed
    assert installed.items() <= pyproject_dependencies().items()
