"""What a page asks of the runs, in plain data: the same over any web server.

Every answer is a JSON object. A refusal has an HTTP status and says in one sentence what is wrong.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..request import Answer, RequestRefused, query_number, within
from ..saving.run_folder import CHECKPOINT
from ..saving.run_lock import holder
from .description import base_name, described, losses
from .in_training import RunsInTraining
from .metric_rows import rows_of
from .model_card import CARD
from .run_record import SavedLora
from .run_store import RUN_ID, RunStore, RunSummary, files_of

MOST_ROWS, USUAL_ROWS, FEWEST_ROWS = 20_000, 2_000, 2
MOST_FILES = 500
MAX_CARD_BYTES = 256 * 1024


class RunRequests:
    """Answers to what the page asks of runs.

    Args:
        store: the runs.
        in_training: those that this process trains.
        output: ComfyUI's output folder, below which LoRA files lie.
        picture_url: where the page gets a preview picture from, by run and file.

    Every method raises RequestRefused.
    """

    def __init__(
        self,
        store: RunStore,
        in_training: RunsInTraining,
        output: Path,
        picture_url: Callable[[str, str], str],
    ) -> None:
        self._store, self._in_training, self._output = store, in_training, output
        self._picture_url = picture_url

    def runs(self) -> Answer:
        """All runs, the one last changed first."""
        summaries = self._store.summaries()
        now = self._trained_now(summaries)
        return {
            "runs": [self._told(one, now) for one in summaries],
            "bytes": sum(one.size for one in summaries),
        }

    def run(self, run: str) -> Answer:
        """One run, with all that is known of it."""
        folder = self._folder(run)
        summary = self._summary(folder)
        files = sorted(files_of(folder))
        content, record = summary.content, summary.record
        settings, adapter = content.get("settings"), content.get("adapter")
        return self._told(summary, self._trained_now([summary])) | {
            "path": str(folder),
            "reason": record.reason,
            "ended": record.ended,
            "settings": settings if isinstance(settings, dict) else {},
            "adapter": adapter if isinstance(adapter, dict) else {},
            "execution_mode": record.execution_mode,
            "gradient_checkpointing": record.gradient_checkpointing if record.started else None,
            "described": [
                {"title": title, "lines": [list(line) for line in lines]}
                for title, lines in described(content, record)
            ],
            "files": [
                {"name": name, "bytes": facts.st_size} for name, facts in files[:MOST_FILES]
            ],
            "checkpoints": sorted(
                {int(match[1]) for name, _ in files if (match := CHECKPOINT.fullmatch(name))}
            ),
            "lineage": [
                {"id": path.name, "step": step} for path, step in self._store.lineage(folder)
            ],
            "continued_by": self._continued_by(run),
            "loras": [told for one in record.loras if (told := self._lora(one)) is not None],
            "card": _card(folder),
            "previews": {
                "prompts": list(summary.pictures.prompts),
                "columns": [
                    {"step": step, "urls": [self._picture(summary, name) for name in names]}
                    for step, names in summary.pictures.columns
                ],
            },
        }

    def metrics(self, run: str, query: Mapping[str, str]) -> Answer:
        """Rows of metrics, those of the runs it goes on from before its own.

        Args:
            query: `after`, rows of later steps only; `most`, how many of them.
        """
        after = query_number(query, "after", -1, -1, 10**9)
        most = query_number(query, "most", USUAL_ROWS, FEWEST_ROWS, MOST_ROWS)
        folder = self._folder(run)
        try:
            rows, last = rows_of([*self._store.lineage(folder), (folder, None)], after, most)
        except OSError as error:
            raise _gone(run) from error
        return {"run": run, "rows": rows, "last": last}

    def delete(self, run: str, body: Mapping[str, Any]) -> Answer:
        """Removes a run's folder; LoRA files made of it stay.

        Args:
            body: `id`, the run once more; `continued_by`, the runs that go on from it, as the
                person was told: there may be no others.
        """
        if body.get("id") != run:
            raise RequestRefused(400, "To delete a run, its id must be confirmed in `id`.")
        told = body.get("continued_by", [])
        if not isinstance(told, list):
            raise RequestRefused(400, "`continued_by` must be a list of ids.")
        folder = self._folder(run)
        size = self._summary(folder).size
        with self._in_training.held() as now:
            after = self._continued_by(run)
            self._refuse_in_training(run, now)
            if who := holder(folder):
                raise RequestRefused(409, f"This run is being trained by {who}. Stop that first.")
            if unknown := [one for one in after if one not in told]:
                raise RequestRefused(
                    409,
                    "Other runs go on from this one. They keep their LoRAs, but lose the "
                    "beginning of their curves, and those without a checkpoint of their own "
                    "cannot go on.",
                    unknown,
                )
            try:
                aside = self._store.put_aside(folder)
            except OSError as error:
                raise RequestRefused(
                    409,
                    f"The run could not be deleted ({error.strerror or error}). Nothing was "
                    "removed. Close what has its files open, then try again.",
                ) from error
        shutil.rmtree(aside, ignore_errors=True)
        self._store.sweep()
        return {"deleted": run, "bytes": size, "left": str(aside) if aside.exists() else ""}

    def _trained_now(self, summaries: list[RunSummary]) -> frozenset[str]:
        """The runs in training, those of other programs among them."""
        here = self._in_training.ids()
        elsewhere = (
            one.id
            for one in summaries
            if one.record.is_open and one.id not in here and holder(self._store.root / one.id)
        )
        return here.union(elsewhere)

    def _refuse_in_training(self, run: str, now: frozenset[str]) -> None:
        if run in now:
            raise RequestRefused(
                409, "This run is being trained. Stop the training first, then delete it."
            )
        for other in now:
            folder = self._store.folder(other)
            if folder is not None and run in {p.name for p, _ in self._store.lineage(folder)}:
                raise RequestRefused(
                    409,
                    "A run that goes on from this one is being trained. Stop the training first, "
                    "then delete it.",
                    [other],
                )

    def _continued_by(self, run: str) -> list[str]:
        return [
            one.id
            for one in self._store.summaries()
            if one.continues is not None and one.continues[0] == run
        ]

    def _told(self, one: RunSummary, now: frozenset[str]) -> Answer:
        content, record = one.content, one.record
        before = one.continues
        return {
            "id": one.id,
            "title": _title(one),
            "status": one.status(one.id in now),
            "step": one.step,
            "last_step": one.last_step,
            "target": record.target,
            "started": record.started,
            "changed": one.changed,
            "bytes": one.size,
            "model": base_name(content, record) if one.is_readable else "",
            "loss": " + ".join(losses(content)),
            "pairs": record.pairs,
            "noun": record.noun,
            "held_out": record.held_out,
            "accuracy": one.accuracy,
            "val_accuracy": one.validation.get("dpo/val_accuracy"),
            "val_accuracy_low": one.validation.get("dpo/val_accuracy_low"),
            "val_accuracy_high": one.validation.get("dpo/val_accuracy_high"),
            "thumbnail": None if (last := one.pictures.last) is None else self._picture(one, last),
            "continues": None if before is None else {"id": before[0], "step": before[1]},
        }

    def _picture(self, run: RunSummary, file: str) -> str:
        return f"{self._picture_url(run.id, file)}&v={run.pictures.version}"

    def _lora(self, lora: SavedLora) -> Answer | None:
        """A LoRA file as the person finds it; None of a name that leads elsewhere."""
        name = PurePosixPath(lora.file)
        if name.is_absolute() or ".." in name.parts:
            return None
        path = self._output / name
        there = within(self._output, path)
        return {
            "file": lora.file,
            "step": lora.step,
            "saved": lora.saved,
            "bytes": path.stat().st_size if there else None,
        }

    def _folder(self, run: str) -> Path:
        if not RUN_ID.fullmatch(run):
            raise RequestRefused(400, "This is no run's id: it has 20 digits and letters a to f.")
        folder = self._store.folder(run)
        if folder is None:
            raise _gone(run)
        return folder

    def _summary(self, folder: Path) -> RunSummary:
        try:
            return self._store.summary(folder)
        except OSError as error:
            raise _gone(folder.name) from error


def _title(run: RunSummary) -> str:
    """The name of its last LoRA, else of its base model."""
    if run.record.loras:
        return PurePosixPath(run.record.loras[-1].file).stem.rstrip("_")
    if not run.is_readable:
        return "Settings cannot be read"
    return base_name(run.content, run.record)


def _card(folder: Path) -> str:
    path = folder / CARD
    if not within(folder, path):
        return ""
    with open(path, "rb") as file:
        return file.read(MAX_CARD_BYTES).decode("utf-8", errors="replace")


def _gone(run: str) -> RequestRefused:
    return RequestRefused(404, f"There is no run {run}. It may have been deleted.")
