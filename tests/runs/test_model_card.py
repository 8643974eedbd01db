from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from dpo_core.evaluation.validation import ValidationSettings
from dpo_core.run import TrainSettings
from dpo_core.runs.model_card import model_card, write_card
from dpo_core.runs.run_record import RunRecord, SavedLora, write_record
from dpo_core.runs.run_store import RunStore
from dpo_core.saving.run_folder import RunFolder
from dpo_core.training.adapter import AdapterSettings
from dpo_core.training.objectives import Objective

RECORD = RunRecord(
    model="base.safetensors", pairs=12, held_out=8, started=1.0,
    loras=(SavedLora("loras/taste_00001_.safetensors", 40, 2.0),),
)  # fmt: skip
ROWS = [
    {"step": step, "loss/dpo": 0.5, "dpo/accuracy": float(step % 2), "rho": 0.9}
    for step in range(1, 41)
]


def validation(step: int, accuracy: float, loss: float, low: float) -> dict[str, float]:
    return {
        "step": step, "dpo/val_accuracy": accuracy, "dpo/val_loss": loss,
        "dpo/val_accuracy_low": low, "dpo/val_accuracy_high": 0.9,
    }  # fmt: skip


VALIDATIONS = [
    validation(10, 0.75, 0.6, 0.6), validation(20, 0.75, 0.5, 0.55), validation(40, 0.5, 0.7, 0.4),
]  # fmt: skip


def content(settings: TrainSettings | None = None, **more: Any) -> dict[str, Any]:
    return {
        "base": {"kind": "SD15"}, "settings": asdict(settings or TrainSettings()),
        "adapter": asdict(AdapterSettings()), "held_out": "x", "continues": None, **more,
    }  # fmt: skip


def card(**changes: Any) -> str:
    given = {
        "content": content(), "record": RECORD, "rows": ROWS, "validations": VALIDATIONS, "step": 40
    }  # fmt: skip
    return model_card(**(given | changes))


def test_it_says_what_was_trained_on_what_and_how() -> None:
    text = card()
    assert text.startswith("# taste\\_00001\n")
    assert "A LoRA for base.safetensors, trained for 40 steps" in text
    assert "(12 in all)" in text and "8 more were kept for validation" in text
    assert "compared with the base model" in text
    assert "- beta: 5000\n" in text and "- rank: 16\n" in text
    assert "`loras/taste_00001_.safetensors`" in text
    assert "No licence is set." in text


def test_it_states_means_of_the_last_steps_and_the_last_validation_with_its_interval() -> None:
    text = card()
    assert "the mean of the last 10 steps logged" in text
    assert "- accuracy on what it was training on: 50%" in text
    assert "- error on chosen pictures, by the base model's: 0.900" in text
    assert (
        "The last validation, at step 40: it preferred the picture that was chosen in 50% of 8 "
        "held out (95% interval 40% to 90%). The interval includes one half" in text
    )


def test_where_the_best_is_saved_its_validation_is_stated() -> None:
    settings = TrainSettings(validation=ValidationSettings(save_best=True))
    text = card(content=content(settings))
    assert "The best validation, whose LoRA this is, at step 20: " in text
    assert "75% of 8 held out (95% interval 55% to 90%)." in text and "chance" not in text


def test_nothing_is_claimed_that_was_not_measured() -> None:
    text = card(rows=[], validations=[], record=RunRecord())
    assert "Nothing has been measured." in text and "There was no validation" in text
    assert "SD15" in text and "in all" not in text and "%" not in text


@pytest.mark.parametrize(
    ("loss", "says", "says_not"),
    [
        ("kto", "single pictures, each liked or disliked", "pairs of pictures"),
        ("dgpo", "groups of pictures", "pairs of pictures"),
        ("simpo", "pairs of pictures", "compared with"),
    ],
)
def test_the_method_is_told_by_what_it_learns_from(loss: str, says: str, says_not: str) -> None:
    text = card(content=content(TrainSettings(objective=Objective(loss=loss))))
    assert says in text and says_not not in text


def test_a_refined_lora_is_the_reference() -> None:
    assert "compared with the LoRA it refines" in card(content=content(adapter={"dropout": 0.0}))


def test_names_are_text_and_never_markup() -> None:
    text = card(record=replace(RECORD, model="<img src=x>\n# [a](javascript:b)", loras=()))
    assert "<img" not in text.replace("\\<", "") and "\n# [a]" not in text
    assert text.startswith("# Preference LoRA\n")


def test_it_is_written_from_what_is_on_the_disk_up_to_the_step(tmp_path: Path) -> None:
    first = RunFolder(tmp_path, content())
    second = RunFolder(tmp_path, content(held_out="other", continues=[first.id, 2]))
    for run, steps in ((first, range(1, 4)), (second, range(3, 9))):
        run.open()
        for step in steps:
            run.append_metrics(step, {"loss/dpo": float(step), "dpo/accuracy": 1.0})
    first.append_metrics(2, validation(2, 0.9, 0.5, 0.8))
    write_record(second.path, RECORD)
    write_card(RunStore(tmp_path), second.path, 4)
    text = (second.path / "model_card.md").read_text()
    assert "the mean of the last 3 steps logged" in text  # 1, 3 and 4
    assert "- loss: 2.6667" in text
    # What the run before kept out were other pairs.
    assert "There was no validation" in text
    assert [path.name for path in second.path.iterdir() if path.name.startswith(".")] == []


def test_damaged_runs_have_a_card_as_well(tmp_path: Path) -> None:
    run = tmp_path / ("ab" * 10)
    run.mkdir()
    (run / "settings.json").write_text('{"settings": 3, "adapter": [], "continues": 7}')
    write_card(RunStore(tmp_path), run, 3)
    assert "unknown model" in (run / "model_card.md").read_text()
