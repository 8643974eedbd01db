"""Every model of the host is trained or refused, and the document says which."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_base
import comfy.supported_models
import pytest
from hostkit.families import FAMILIES
from hostkit.training import pack_module

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
TRAINED = {family.host for family in FAMILIES.values()}
OTHERS = [c for c in comfy.supported_models.models if c.__name__ not in TRAINED]
# The host builds these from a file's weights only.
FROM_WEIGHTS = {
    "Stable_Zero123": "Stable_Zero123", "StableAudio": "StableAudio1",
    "StableAudio3": "StableAudio3",
}


def without_network(host: Any) -> Any:
    """The host's model of this class, without its network."""
    if host.__name__ in FROM_WEIGHTS:
        return object.__new__(getattr(comfy.model_base, FROM_WEIGHTS[host.__name__]))
    config = host(host.unet_config | {
        "disable_unet_model_creation": True, "in_channels": 4, "dim": 64, "model_channels": 64,
    })
    config.custom_operations = None
    return config.get_model({}, "")


def problems(model: Any) -> list[str]:
    patcher = SimpleNamespace(model=model, injections={}, hook_patches={})
    found: list[str] = pack_module("nodes.host.trainable").model_problems(patcher)
    return found


def test_the_families_are_the_hosts() -> None:
    assert TRAINED <= {c.__name__ for c in comfy.supported_models.models}


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_that_is_trained_is_not_refused(kind: str) -> None:
    config = FAMILIES[kind].host_config()
    config.unet_config["disable_unet_model_creation"] = True
    config.custom_operations = None
    assert problems(config.get_model(dict(FAMILIES[kind].marks), "")) == []


@pytest.mark.parametrize("host", OTHERS, ids=lambda c: c.__name__)
def test_every_other_model_is_refused_in_one_sentence(host: Any) -> None:
    (problem,) = problems(without_network(host))
    name, kind = re.fullmatch(
        r"(\w+) is a model for ([\w -]+); preferences train image models only\.", problem
    ).groups()
    assert hasattr(comfy.model_base, name) and kind in rows("Not trained")


def rows(heading: str) -> list[str]:
    """The first column of the table under a heading of the document."""
    _, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(f"## {heading}\n")
    section = rest.partition("\n## ")[0]
    cells = re.findall(r"^\| ([^|]+?) +\|", section, flags=re.MULTILINE)
    return cells[2:]  # below the head and its rule


def test_the_document_lists_the_families_tested() -> None:
    assert rows("Trained") == [family.title for family in FAMILIES.values()]


def test_the_document_lists_what_is_refused() -> None:
    kinds = set()
    for host in OTHERS:
        (problem,) = problems(without_network(host))
        kinds.add(problem.partition(" is a model for ")[2].partition(";")[0])
    assert sorted(rows("Not trained")) == sorted(kinds)
