"""A trainer as a value, and the steps that turn one into the next."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from safetensors import SafetensorError
from torch import Tensor

from ...dpo_core.evaluation.diagnostics import Watch, watched
from ...dpo_core.evaluation.validation import ValidationState, carried
from ...dpo_core.pairs.record import counted
from ...dpo_core.run import StepReport, TrainingError, TrainSettings, TrainState, train
from ...dpo_core.saving.autosave import Autosave
from ...dpo_core.saving.event_log import EventLog
from ...dpo_core.saving.lora_file import lora_metadata, lora_ranks, lora_tensors, save_lora
from ...dpo_core.saving.run_folder import RunFolder, run_id
from ...dpo_core.training.adapter import AdapterSettings, LoraWeights
from ...dpo_core.training.dataset import EncodedPairs, Record, tensor_digest
from ...dpo_core.training.reference_cache import ReferenceCache
from .denoiser import HostDenoiser
from .folders import runs_folder
from .identity import model_identity
from .injection import TrainedModel
from .lineage import Origin, in_lineage, started_over
from .progress import Progress
from .session import training_session

AUTOSAVE_EVERY = 50
"""Steps from one checkpoint to the next while training runs; a crash costs no more than these,
unless writing one would take more than 2 % of the time."""
VERSION = 1
"""Part of every run's id: raised when the same settings would give another result."""


@dataclass(frozen=True)
class Trainer:
    """The DPO_TRAINER value: settings, pairs, model, and how far training has come.

    It is never changed. Its weights lie in the run folder; ``step`` says which.
    """

    patcher: ModelPatcher
    dataset: EncodedPairs
    held_out: EncodedPairs
    settings: TrainSettings
    adapter: AdapterSettings
    gradient_checkpointing: bool
    origin: Origin
    run: RunFolder
    step: int

    def get_models(self) -> list[ModelPatcher]:
        """For the host's cache: this value keeps a model in use."""
        return [self.patcher]

    def state(self) -> TrainState | None:
        """Where training stands; None before the first step.

        Raises:
            TrainingError: the checkpoint is gone or damaged.
        """
        run = self.run if self.step > self.origin.step else self.origin.run
        if run is None:
            return None
        try:
            return run.load_checkpoint(self.step)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise TrainingError(
                f"Step {self.step} of run {run.id}, from which this goes on, cannot be read "
                f"({error}). Put {run.path} back, or begin anew: set new_picks to start_over, or "
                "another seed."
            ) from error


@dataclass(frozen=True)
class Trained:
    """What a call of :func:`train_steps` gives.

    Attributes:
        trainer: to go on with.
        lora: tensors as they go into a file.
        rows: metrics, one mapping per step since the start of the run.
        found: True if nothing had to be trained, the result being on disk already.
        validation: what validation remembers.
    """

    trainer: Trainer
    lora: dict[str, Tensor]
    rows: list[dict[str, float]]
    found: bool
    validation: ValidationState


def build_trainer(
    patcher: ModelPatcher,
    dataset: EncodedPairs,
    settings: TrainSettings,
    adapter: AdapterSettings,
    gradient_checkpointing: bool,
    origin: Origin,
    held_out: EncodedPairs,
    start_over: bool = False,
) -> Trainer:
    """The trainer of checked parts.

    A growing collection of pairs has one training for each model and settings: unless told to
    ``start_over``, it goes on from the furthest step reached with an earlier state of it, or is
    found again where just these pairs were trained on.
    """
    content = {
        "version": VERSION,
        "base": model_identity(patcher),
        "pairs": dataset.digest,
        "held_out": held_out.digest if settings.validation is not None else "",
        "lineage": list(dataset.lineage),
        "settings": _deciding(settings),
        "adapter": asdict(adapter) if origin.existing is None else {
            "weights": _digest(origin.existing), "dropout": adapter.dropout
        },
        "continues": None if origin.run is None else [origin.run.id, origin.step],
        "restart": 0,
    }
    run = RunFolder(runs_folder(), content)
    if dataset.lineage and origin.run is None:
        run, origin = started_over(run, origin) if start_over else in_lineage(run, origin)
    return Trainer(
        patcher, dataset, held_out, settings, adapter, gradient_checkpointing, origin, run,
        origin.step,
    )


def _deciding(settings: TrainSettings) -> dict[str, Any]:
    """What of the settings decides the result: how passes are scheduled does not."""
    return {name: value for name, value in asdict(settings).items() if name != "execution_mode"}


def train_steps(trainer: Trainer, steps: int, progress: Progress) -> Trained:
    """Trains ``steps`` more steps, or finds them done.

    Raises:
        TrainingError: training could not go on; what was learned is saved, the message says where.
    """
    run, target = trainer.run, trainer.step + steps
    try:
        run.open()
    except OSError as error:
        raise TrainingError(f"The run folder {run.path} cannot be written: {error}.") from error
    done = [step for step in run.checkpoints() if trainer.step < step <= target]
    current = replace(trainer, step=done[-1]) if done else trainer
    found = current.step == target or _is_stopped(current)
    finished = current
    if not found:
        if current is not trainer:
            progress.say(f"going on from step {current.step}, which is on disk", log=True)
        finished = replace(trainer, step=_train(current, target, progress))
    state = finished.state()
    assert state is not None
    lora, rows = lora_of(finished, state), run.history(finished.step)
    return Trained(finished, lora, rows, found, state.validation)


def _is_stopped(trainer: Trainer) -> bool:
    """Whether validation has ended the training on these very pairs."""
    state = trainer.state()
    if state is None:
        return False
    same_pairs = state.epochs.dataset == trainer.dataset.digest
    settings, held_out = trainer.settings.validation, trainer.held_out.digest
    return carried(state.validation, settings, held_out, same_pairs).stopped


def lora_of(trainer: Trainer, state: TrainState) -> dict[str, Tensor]:
    """The LoRA as the host's loaders take it, text encoder weights included."""
    existing, ranks = trainer.origin.existing, lora_ranks(state.weights)
    alphas = {
        layer: trainer.adapter.alpha_at(rank) if existing is None else existing[layer].alpha
        for layer, rank in ranks.items()
    }
    return lora_tensors(state.weights, alphas) | dict(trainer.origin.carried or {})


def metadata_of(trainer: Trainer, lora: Mapping[str, Tensor], title: str) -> dict[str, str]:
    """Metadata for the trainer's LoRA file."""
    rows = trainer.run.history(trainer.step)
    adapter, ranks = trainer.adapter, lora_ranks(lora)
    largest = max(ranks, key=lambda name: ranks[name], default=None)
    return lora_metadata(
        lora,
        title=title,
        architecture=_architecture(trainer.patcher),
        rank=adapter.rank if largest is None else ranks[largest],
        alpha=adapter.alpha if largest is None else float(lora[f"{largest}.alpha"]),
        kind=adapter.kind,
        dropout=adapter.dropout,
        settings=asdict(trainer.settings) | {"adapter": asdict(adapter), "run": trainer.run.id},
        metrics=rows[-1] if rows else {},
        steps=trainer.step,
        pairs=len(trainer.dataset.records),
    )


def _train(trainer: Trainer, target: int, progress: Progress) -> int:
    """Runs until ``target`` and leaves a checkpoint there, or where it was stopped.

    Returns:
        the step reached: less than ``target`` if validation has ended the training.
    """
    reports: list[StepReport] = []
    autosave = Autosave(trainer.run, AUTOSAVE_EVERY)
    kept = ""
    try:
        _run(trainer, target, progress, reports, autosave)
        trainer.run.save_checkpoint(reports[-1].state())
        autosave.clear(but=reports[-1].step)
        return reports[-1].step
    except BaseException as error:
        if reports:
            kept = _keep(trainer, reports[-1].state(), autosave)
            progress.say(kept, log=True)
        if not comfy.model_management.is_oom(error):
            if isinstance(error, (TrainingError, OSError, RuntimeError)):
                reason = _reason(error, bool(reports))
                raise TrainingError(f"{reason} {kept}".strip()) from error
            raise
    # Outside the handler, whose traceback would keep the failed step's tensors alive.
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    raise TrainingError(f"{_advice(trainer)} {kept}".strip())


def _run(
    trainer: Trainer,
    target: int,
    progress: Progress,
    reports: list[StepReport],
    autosave: Autosave,
) -> None:
    """Trains; ``reports`` always holds the last step done."""
    existing = trainer.origin.existing
    with torch.inference_mode(False):
        trained = TrainedModel(
            trainer.patcher,
            trainer.adapter,
            trainer.settings.seed,
            None if existing is None else dict(existing),
            trainer.gradient_checkpointing,
        )
        _check_room(trainer, trained)
        if (frozen := trained.adapter.frozen_reference()) is not None:
            trainer.run.save_reference(frozen)
    with training_session(trained):
        denoiser = HostDenoiser(trained.patcher, _activation_memory(trainer))
        steps = target - trainer.step
        watch = watch_of(trainer, trainer.run.history(trainer.step))
        with (
            _reference_cache(trainer, denoiser.half_precision, progress) as cache,
            EventLog(trainer.run.path / "events", trainer.step) as events,
        ):
            for report in train(
                denoiser, trained.adapter, trainer.dataset, trainer.settings, steps,
                trainer.state(), cache, trainer.held_out,
            ):
                trainer.run.append_metrics(report.step, report.metrics)
                events.add(report.step, report.metrics)
                for finding in watch.take({"step": report.step, **_finite(report.metrics)}):
                    progress.warn(finding.text, finding.serious)
                if report.step > trainer.step:  # what is measured before the first is no step
                    reports[:] = [report]
                    progress.step(progress.total - (target - report.step), report.metrics)
                    autosave.offer(report)


def watch_of(trainer: Trainer, rows: Iterable[Mapping[str, float]]) -> Watch:
    """What is known of a run after these rows; it does not warn of the same thing again."""
    mixed = any(term.supervised_mix > 0 for term in trainer.settings.objective.terms)
    return watched(rows, mixed)


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


@contextmanager
def _reference_cache(
    trainer: Trainer, half_precision: bool, progress: Progress
) -> Iterator[ReferenceCache | None]:
    """What the run knows of its reference; kept with it when training ends, however it ends."""
    if trainer.settings.noise.cached_draws == 0:
        yield None
        return
    cache, key = ReferenceCache(2e-2 if half_precision else 1e-4), _reference_key(trainer)
    cache.load(trainer.run.reference_errors(key))
    try:
        yield cache
    finally:
        if cache.discarded:
            progress.say(
                "the reference errors kept with this run were of another model: computed again",
                log=True,
            )
        try:
            trainer.run.save_reference_errors(cache.state(), key)
        except OSError as error:  # no loss: they are computed again
            progress.say(f"the reference errors could not be kept: {error}", log=True)


def _reference_key(trainer: Trainer) -> str:
    """All that the reference's error under a draw depends on, besides the record itself."""
    settings, existing, patcher = trainer.settings, trainer.origin.existing, trainer.patcher
    return run_id({
        "version": VERSION,
        "base": trainer.run.content["base"],
        "reference": None if existing is None else _digest(existing),
        "noise": asdict(settings.noise),
        "shared": settings.shared_noise,
        "seed": settings.seed,
        # LoRAs of the model are rounded where they are baked in, and not where it is partly loaded.
        "patches": patcher.lowvram_patch_counter() if patcher.patches else 0,
    })


def _reason(error: Exception, began: bool) -> str:
    if isinstance(error, TrainingError):
        return str(error)
    if isinstance(error, OSError):
        return f"Writing the results failed: {error}. Make room and run again."
    if began:
        return str(error)
    return (
        "The model cannot work with these pairs; nothing was trained. Encode them with the VAE "
        f"and the text encoder that belong to this model. (The model says: {error})"
    )


def _keep(trainer: Trainer, state: TrainState, autosave: Autosave) -> str:
    """Saves what was learned so far; says where."""
    try:
        trainer.run.save_checkpoint(state)
        autosave.clear(but=state.step)
    except OSError as error:
        return f"What was learned in {counted(state.step, 'step')} could not be saved: {error}."
    go_on = f"run again to go on from there ({trainer.run.path})."
    try:
        reached = replace(trainer, step=state.step)
        lora = lora_of(reached, state)
        name = f"stopped_{trainer.run.id[:8]}_step{state.step}"
        path = Path(folder_paths.get_output_directory()) / "loras" / "dpo" / f"{name}.safetensors"
        save_lora(path, lora, metadata_of(reached, lora, name))
    except OSError as error:
        return (
            f"What was learned in {counted(state.step, 'step')} is kept, but there was no room "
            f"for its LoRA ({error}); {go_on}"
        )
    return f"What was learned in {counted(state.step, 'step')} is kept: LoRA {path}; {go_on}"


def _check_room(trainer: Trainer, trained: TrainedModel) -> None:
    parameters = sum(p.numel() for p in trained.adapter.parameters().values())
    needed = parameters * 4 * 5  # a checkpoint with Adam's two moments, two LoRA files
    free = shutil.disk_usage(trainer.run.path).free
    if free < needed:
        raise TrainingError(
            f"There is no room for the results: {needed / 2**20:.0f} MB are needed in "
            f"{trainer.run.path}, {free / 2**20:.0f} MB are free. Nothing was trained. Make room "
            "and run again."
        )


def _activation_memory(trainer: Trainer) -> float:
    """Bytes to keep free for activations when the host decides how much of the model to load."""
    largest = max(trainer.dataset.records, key=lambda one: _images(one) * _size(one))
    together = 1 if trainer.settings.execution_mode == "sequential" else _images(largest)
    rows = trainer.settings.batch_size * trainer.settings.noise.draws_per_pair * together
    shape = largest.latents[0].shape
    forward = trainer.patcher.memory_required([rows, *shape])
    return float(forward) * (3 if trainer.gradient_checkpointing else 10)


def _images(record: Record) -> int:
    return len(record.latents)


def _size(record: Record) -> int:
    return record.latents[0].numel()


def _advice(trainer: Trainer) -> str:
    settings = trainer.settings
    ways = []
    if not trainer.gradient_checkpointing:
        ways.append("switch gradient_checkpointing on")
    if settings.execution_mode != "sequential":
        ways.append("set execution_mode to sequential")
    if settings.batch_size > 1:
        ways.append("set batch_size to 1 and raise grad_accumulation_steps instead")
    ways.append("encode the pairs with fewer megapixels")
    return (
        f"The graphics card ran out of memory. To need less: {'; '.join(ways)}. The model is "
        "unharmed and ComfyUI can be used at once."
    )


def _architecture(patcher: ModelPatcher) -> str:
    names = {
        "SDXL": "stable-diffusion-xl-v1-base",
        "SD3": "stable-diffusion-v3",
        "Flux": "flux-1-dev",
        "BaseModel": "stable-diffusion-v1",
    }
    kind = type(patcher.model).__name__
    return names.get(kind, kind.lower())


def _digest(existing: Mapping[str, LoraWeights]) -> dict[str, str]:
    return {
        name: f"{tensor_digest(w.down, w.up)}:{w.alpha}" for name, w in sorted(existing.items())
    }


