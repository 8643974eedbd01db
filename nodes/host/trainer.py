"""A trainer as a value, and the LoRA that comes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from weakref import WeakValueDictionary

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...dpo_core.run import TrainingError, TrainSettings, TrainState
from ...dpo_core.saving.lora_file import lora_layers, lora_metadata, lora_ranks, lora_tensors
from ...dpo_core.saving.run_folder import RunFolder, run_id
from ...dpo_core.training.adapter import AdapterSettings
from ...dpo_core.training.dataset import EncodedPairs, tensor_digest
from ...dpo_core.training.lora_weights import LoraWeights
from .folders import runs_folder
from .identity import model_identity
from .lineage import Origin, in_lineage, started_over
from .preview import Preview

VERSION = 1
"""Part of every run's id: raised when the same settings would give another result."""

_LIVE: WeakValueDictionary[int, Trainer] = WeakValueDictionary()
"""All there are."""


@dataclass(frozen=True)
class Trainer:
    """The DPO_TRAINER value: settings, pairs, model, and how far training has come.

    It is never changed. Its weights lie in the run folder; ``step`` says which, and is not removed
    as long as a value stands there. ``preview`` and ``when_out_of_memory`` have no part in what is
    learned.
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
    preview: Preview | None = None
    when_out_of_memory: str = "stop"

    def __post_init__(self) -> None:
        _LIVE[id(self)] = self

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
        except OSError as error:
            raise TrainingError(
                f"Step {self.step} of run {run.id}, from which this goes on, cannot be read "
                f"({error}). Put {run.path} back, or begin anew: set new_picks to start_over, or "
                "another seed."
            ) from error


def build_trainer(
    patcher: ModelPatcher,
    dataset: EncodedPairs,
    settings: TrainSettings,
    adapter: AdapterSettings,
    gradient_checkpointing: bool,
    origin: Origin,
    held_out: EncodedPairs,
    start_over: bool = False,
    preview: Preview | None = None,
    when_out_of_memory: str = "stop",
    online: tuple[str, int] | None = None,
) -> Trainer:
    """The trainer of checked parts.

    A growing collection of pairs has one training for each model and settings: unless told to
    ``start_over``, it goes on from the furthest step reached with an earlier state of it, or is
    found again where just these pairs were trained on.

    ``online`` names the rounds of online training, and the one whose pairs these are; None where
    they come from elsewhere.
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
    if online is not None:
        content["online"] = list(online)
    run = RunFolder(runs_folder(), content)
    if dataset.lineage and origin.run is None:
        run, origin = started_over(run, origin) if start_over else in_lineage(run, origin)
    return Trainer(
        patcher, dataset, held_out, settings, adapter, gradient_checkpointing, origin, run,
        origin.step, preview, when_out_of_memory,
    )


def standing_at(run: RunFolder) -> set[int]:
    """Steps of a run at which there is a trainer, or from which one goes on."""
    found = {one.step for one in list(_LIVE.values()) if one.run.path == run.path}
    return found | {
        one.origin.step
        for one in list(_LIVE.values())
        if one.origin.run is not None and one.origin.run.path == run.path
    }


def _deciding(settings: TrainSettings) -> dict[str, Any]:
    """What of the settings decides the result: how passes are scheduled does not."""
    return {name: value for name, value in asdict(settings).items() if name != "execution_mode"}


def lora_of(trainer: Trainer, state: TrainState) -> dict[str, Tensor]:
    """The LoRA as the host's loaders take it, text encoder weights included."""
    existing = trainer.origin.existing
    if existing is None:
        ranks = lora_ranks(state.weights)
        alphas = {layer: trainer.adapter.alpha_at(rank) for layer, rank in ranks.items()}
    else:
        alphas = {layer: w.alpha for layer, w in existing.items() if w.alpha is not None}
    return lora_tensors(state.weights, alphas) | dict(trainer.origin.carried or {})


def metadata_of(
    trainer: Trainer,
    lora: Mapping[str, Tensor],
    title: str,
    file: Mapping[str, Tensor] | None = None,
) -> dict[str, str]:
    """Metadata for the trainer's LoRA file.

    Args:
        trainer: what was trained.
        lora: the LoRA as the host's loaders take it.
        title: shown by model managers.
        file: what the file will hold, if that goes by other names.
    """
    rows = trainer.run.history(trainer.step)
    adapter, ranks = trainer.adapter, lora_ranks(lora)
    largest = max(ranks, key=lambda name: ranks[name], default=None)
    return lora_metadata(
        lora if file is None else file,
        title=title,
        architecture=_architecture(trainer.patcher),
        rank=adapter.rank if largest is None else ranks[largest],
        alpha=adapter.alpha if largest is None else float(lora[f"{largest}.alpha"]),
        kind=_kind(trainer),
        dropout=adapter.dropout,
        settings=asdict(trainer.settings) | {"adapter": asdict(adapter), "run": trainer.run.id},
        metrics=rows[-1] if rows else {},
        steps=trainer.step,
        pairs=len(trainer.dataset.records),
    )


def as_reference(trainer: Trainer, parameters: Mapping[str, Tensor]) -> dict[str, LoraWeights]:
    """Parameters of the trainer's adapter as a LoRA that another training is held to.

    Args:
        trainer: whose they are.
        parameters: by the names of :meth:`~..dpo_core.training.adapter.Adapter.parameters`.
    """
    existing, ranks = trainer.origin.existing, lora_ranks(parameters)

    def alpha(layer: str) -> float | None:
        if existing is not None:
            return existing[layer].alpha
        return trainer.adapter.alpha_at(ranks[layer]) if layer in ranks else None

    return {
        layer: LoraWeights(parts, alpha(layer))
        for layer, parts in lora_layers(parameters).items()
    }


def reference_key(trainer: Trainer) -> str:
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


def _architecture(patcher: ModelPatcher) -> str:
    names = {
        "SDXL": "stable-diffusion-xl-v1-base",
        "SD3": "stable-diffusion-v3",
        "Flux": "flux-1-dev",
        "BaseModel": "stable-diffusion-v1",
    }
    kind = type(patcher.model).__name__
    return names.get(kind, kind.lower())


def _kind(trainer: Trainer) -> str:
    """Type of the LoRA; of one that is of several the one most of its layers have."""
    if trainer.origin.existing is None:
        return trainer.adapter.kind
    kinds = Counter(weights.kind for weights in trainer.origin.existing.values())
    return kinds.most_common(1)[0][0]


def _digest(existing: Mapping[str, LoraWeights]) -> dict[str, str]:
    return {
        name: f"{tensor_digest(*weights.parts.values())}:{weights.alpha}"
        for name, weights in sorted(existing.items())
    }
