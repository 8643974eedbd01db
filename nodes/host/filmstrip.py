"""The pictures of a trainer's run."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import folder_paths

from ...dpo_core.saving.filmstrip import BASE, Filmstrip
from ...dpo_core.saving.run_folder import RunFolder
from .denoiser import HostDenoiser
from .injection import TrainedModel
from .preview import Preview, Previews
from .progress import Progress
from .trainer import Trainer

FOLDER = "previews"


def filmstrip_of(trainer: Trainer) -> Filmstrip | None:
    """What the run has of the pictures that are asked for; None if none are."""
    return None if trainer.preview is None else _strip(trainer.run, trainer.preview)


def strip_on_node(trainer: Trainer) -> list[dict[str, str]]:
    """The filmstrip as the host's pages show it on a node; empty if there is none."""
    strip = filmstrip_of(trainer)
    output = Path(folder_paths.get_output_directory())
    if strip is None or strip.strip is None or not strip.strip.is_relative_to(output):
        return []
    place = strip.strip.relative_to(output)
    return [{"filename": place.name, "subfolder": place.parent.as_posix(), "type": "output"}]


def begun_previews(
    trainer: Trainer,
    target: int,
    trained: TrainedModel,
    denoiser: HostDenoiser,
    progress: Progress,
) -> Previews | None:
    """An observer that makes the pictures asked for, those of the start made; None if none are."""
    strip = filmstrip_of(trainer)
    if strip is None or trainer.preview is None:
        return None
    before = trainer.origin.run
    if before is not None and before.content.get("base") == trainer.run.content["base"]:
        with suppress(OSError, SyntaxError):  # what cannot be taken over is sampled again
            strip.adopt(_strip(before, trainer.preview), (BASE, trainer.origin.step))
    averaged = trainer.settings.optimizer.ema > 0
    previews = Previews(trainer.preview, trained, denoiser, strip, progress, averaged, target)
    previews.begin(trainer.step, as_base=trainer.step == 0 and trainer.origin.existing is None)
    return previews


def _strip(run: RunFolder, preview: Preview) -> Filmstrip:
    return Filmstrip(run.path / FOLDER, preview.settings.lines, preview.deciding())
