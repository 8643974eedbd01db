"""The page that goes with a run's LoRA: what it was made of and how, and only what was measured."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..saving.atomic import write_atomically
from ..training.objectives import LOSSES
from .description import base_name, described, losses
from .metric_rows import Row, rows_of
from .run_record import RunRecord, read_record
from .run_store import RECENT, RunStore, content_of

CARD = "model_card.md"
MOST_ROWS = 20_000
LICENCE = """No licence is set. Choose one before you share this file; it has to fit the base
model's licence and the pictures that were learned from."""
_LEARNED = {
    "pairs": "It learned from pairs of pictures of one prompt, one preferred to the other",
    "images": "It learned from single pictures, each liked or disliked",
    "groups": "It learned from groups of pictures of one prompt, ranked from best to worst",
}
_MEASURES = (
    ("loss/dpo", "loss", "{:.4f}"),
    ("dpo/accuracy", "accuracy on what it was training on", "{:.0%}"),
    ("dpo/reward_margin", "reward margin", "{:.3g}"),
    ("rho", "error on chosen pictures, by the base model's", "{:.3f}"),
)


def write_card(store: RunStore, run: Path, step: int) -> None:
    """Writes a run's model card into its folder, atomically.

    Args:
        store: all runs.
        run: the folder.
        step: that the LoRA holds.

    Raises:
        OSError: no room, no permission, or the metrics cannot be read.
    """
    content, record = content_of(run), read_record(run)
    rows, _ = rows_of([*store.lineage(run), (run, step)], step - MOST_ROWS, MOST_ROWS)
    text = model_card(content, record, rows, _comparable(store, run, content, step), step)
    write_atomically(run / CARD, lambda part: _write(part, text))


def model_card(
    content: Mapping[str, Any],
    record: RunRecord,
    rows: Sequence[Row],
    validations: Sequence[Row],
    step: int,
) -> str:
    """The card in Markdown.

    Args:
        content: of the run's settings file.
        record: what was noted down of it.
        rows: metrics up to the step.
        validations: rows of validations on the same held-out records, up to the step.
        step: that the LoRA holds.
    """
    files = [one for one in record.loras if one.step == step]
    title = PurePosixPath(files[-1].file).stem.rstrip("_") if files else "Preference LoRA"
    parts = [
        f"# {_plain(title)}",
        _introduction(content, record, step),
        "## Measured\n\n" + "\n".join([*_final(rows), *_validated(content, record, validations)]),
        "## How to load it\n\n" + _loading(content, record, [one.file for one in files]),
        "## Settings\n\n" + _settings(content, record),
        f"## Licence\n\n{LICENCE}",
    ]
    return "\n\n".join(parts) + "\n"


def _introduction(content: Mapping[str, Any], record: RunRecord, step: int) -> str:
    model = _plain(base_name(content, record))
    names = losses(content)
    reads = LOSSES[names[0]].reads if names and names[0] in LOSSES else "pairs"
    amount = f" ({record.pairs} in all)" if record.pairs else ""
    lines = [
        f"A LoRA for {model}, trained for {step} steps by preference optimisation "
        f"(loss: {_plain(' + '.join(names) or 'unknown')}).",
        f"{_LEARNED[reads]}{amount}.",
    ]
    if any(name in LOSSES and LOSSES[name].reference for name in names):
        refined = "rank" not in (content.get("adapter") or {"rank": 0})
        reference = "the LoRA it refines" if refined else "the base model"
        lines.append(f"While training it was compared with {reference}, which was not changed.")
    if record.held_out:
        lines.append(f"{record.held_out} more were kept for validation and not trained on.")
    return "\n".join(lines)


def _final(rows: Sequence[Row]) -> list[str]:
    done = [row for row in rows if "loss/dpo" in row][-RECENT:]
    found = []
    for name, words, form in _MEASURES:
        known = [row[name] for row in done if name in row]
        if known:
            found.append(f"- {words}: {form.format(sum(known) / len(known))}")
    if not found:
        return ["Nothing has been measured."]
    which = "the last step" if len(done) == 1 else f"the mean of the last {len(done)} steps logged"
    return [f"In training, {which}:\n", *found]


def _validated(
    content: Mapping[str, Any], record: RunRecord, validations: Sequence[Row]
) -> list[str]:
    known = [row for row in validations if "dpo/val_accuracy" in row]
    if not known:
        return ["\nThere was no validation: how it does on other prompts was not measured."]
    settings = (content.get("settings") or {}).get("validation") or {}
    row, which = known[-1], "The last validation"
    if settings.get("save_best"):
        # Of equal ones the first, as in training.
        row = max(known, key=lambda one: (one["dpo/val_accuracy"], -one.get("dpo/val_loss", 0.0)))
        which = "The best validation, whose LoRA this is"
    line = f"\n{which}, at step {row['step']:.0f}: it preferred the picture that was chosen in "
    line += f"{row['dpo/val_accuracy']:.0%}"
    line += f" of {record.held_out} held out" if record.held_out else " of those held out"
    low, high = row.get("dpo/val_accuracy_low"), row.get("dpo/val_accuracy_high")
    if low is not None and high is not None:
        line += f" (95% interval {low:.0%} to {high:.0%})"
    line += "."
    if low is not None and low <= 0.5:
        line += " The interval includes one half, so this may be chance."
    return [line]


def _loading(content: Mapping[str, Any], record: RunRecord, files: Sequence[str]) -> str:
    model = _plain(base_name(content, record))
    told = ["Load it with a LoRA loader on top of " + model + ", at strength 1. It has no trigger"]
    told = [told[0] + " word. Other base models of the same kind were not tried."]
    return "\n".join(told + [f"\n- `{file.replace('`', '')}`" for file in files])


def _settings(content: Mapping[str, Any], record: RunRecord) -> str:
    return "\n\n".join(
        f"**{title}**\n\n" + "\n".join(f"- {name}: {_plain(value)}" for name, value in lines)
        for title, lines in described(content, record)
    )


def _comparable(
    store: RunStore, run: Path, content: Mapping[str, Any], step: int
) -> list[Row]:
    """Validations on the records that this run keeps out, those of the runs before among them."""
    folders: list[tuple[Path, int | None]] = [(run, step)]
    for before, until in reversed(store.lineage(run)):
        if content_of(before).get("held_out") != content.get("held_out"):
            break
        folders.insert(0, (before, until))
    return rows_of(folders, -1, MOST_ROWS)[0]


def _plain(text: str) -> str:
    """A name as text, whatever is in it: no markup, one line."""
    shown = "".join(one if one.isprintable() else " " for one in text)
    return "".join(f"\\{one}" if one in "\\`*_[]<>#|!" else one for one in shown)


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
