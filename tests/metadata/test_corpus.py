"""Pictures of six programs, with what is known of each: ambiguous cases must say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from metadatakit.corpus import FOLDER, Case, comfyui_texts, corpus, png, told, without_nothing

from dpo_core.metadata.reading import read_metadata

CASES = corpus()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_tells_what_is_known(case: Case, tmp_path: Path) -> None:
    path = tmp_path / f"picture{case.suffix}"
    path.write_bytes(case.data)
    assert told(read_metadata(path)) == without_nothing(case.expected), case.why


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_never_takes_a_negative_prompt_for_the_prompt(case: Case, tmp_path: Path) -> None:
    path = tmp_path / f"picture{case.suffix}"
    path.write_bytes(case.data)
    negative = case.expected.get("negative")
    assert not negative or read_metadata(path).prompt != negative, case.why


@pytest.mark.parametrize("file", sorted((FOLDER / "comfyui").glob("*.json")), ids=lambda f: f.stem)
def test_a_workflow_as_older_pages_saved_it(file: Path, tmp_path: Path) -> None:
    """The values of widgets stand in a row without names."""
    texts = comfyui_texts(f"comfyui/{file.name}")
    newer, older = tmp_path / "newer.png", tmp_path / "older.png"
    newer.write_bytes(png(workflow=texts["workflow"]))
    older.write_bytes(png(workflow=json.dumps(_without_names(json.loads(texts["workflow"])))))
    assert told(read_metadata(older)) == told(read_metadata(newer))


def _without_names(value: object) -> object:
    if isinstance(value, dict):
        kept = {key: one for key, one in value.items() if key != "widgets_values_named"}
        return {key: _without_names(one) for key, one in kept.items()}
    return [_without_names(one) for one in value] if isinstance(value, list) else value


def test_every_file_of_the_corpus_has_an_answer() -> None:
    answers = json.loads((FOLDER / "answers.json").read_text(encoding="utf-8"))
    files = {f"comfyui/{file.name}" for file in (FOLDER / "comfyui").iterdir()}
    assert files == {one["file"] for one in answers}
