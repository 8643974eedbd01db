"""Building a trainer on the loaded model, and running its steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from comfy_api.v0_0_2 import io
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..dpo_core.evaluation.chart import draw_chart
from ..dpo_core.evaluation.diagnostics import Watch
from ..dpo_core.evaluation.validation import ValidationSettings, advice, split
from ..dpo_core.pairs.record import counted
from ..dpo_core.run import TrainSettings
from ..dpo_core.training.adapter import AdapterSettings
from ..dpo_core.training.dataset import EncodedPairs
from ..dpo_core.training.four_passes import AUTO, SCHEDULES
from ..dpo_core.training.noise import NoiseSettings
from ..dpo_core.training.objectives import Objective as ObjectiveSettings
from ..dpo_core.training.optimizer import OptimizerSettings
from .host.encoding import model_shaped
from .host.filmstrip import strip_on_node
from .host.folders import shown
from .host.lineage import Origin
from .host.live_metrics import warning
from .host.lora_keys import read_existing, refuse_if_upstream
from .host.memory import WHEN_OUT_OF_MEMORY, size_text
from .host.preview import Preview as PreviewValue
from .host.progress import Progress, say
from .host.trainable import adapter_problems, left_out, model_problems
from .host.trainer import Trainer as TrainerValue
from .host.trainer import build_trainer
from .host.training import Trained, train_steps, watch_of
from .tooltip import field_docs
from .types import (
    CATEGORY,
    Dataset,
    Lora,
    LossMap,
    Noise,
    Objective,
    Optimizer,
    Preview,
    Trainer,
    Validation,
)
from .types import Adapter as AdapterSocket

NEW_PICKS = ("continue", "start_over")


class TrainerNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        train, adapter = field_docs(TrainSettings), field_docs(AdapterSettings)
        optimizer = field_docs(OptimizerSettings)
        return io.Schema(
            node_id="DPOTrainer",
            display_name="Trainer (DPO)",
            category=CATEGORY,
            description="Puts a trainable LoRA on the loaded model. The model itself is never "
            "changed; no second copy of it is made.",
            search_aliases=["dpo", "preference training", "train lora"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="The model to teach. LoRAs loaded before count as "
                               "part of it."),
                Dataset.Input(
                    "dataset", optional=True,
                    tooltip="The encoded pairs. Leave it open for Online Rounds, which draw their "
                    "own.",
                ),
                io.Int.Input("rank", default=16, min=1, max=1024, tooltip=adapter["rank"]),
                io.Float.Input(
                    "alpha", default=16.0, min=0.01, max=65536.0, step=0.5, tooltip=adapter["alpha"]
                ),
                io.Float.Input(
                    "learning_rate", default=5e-5, min=1e-8, max=1.0, step=1e-6,
                    tooltip=optimizer["learning_rate"],
                ),
                io.Int.Input(
                    "batch_size", default=1, min=1, max=4096, tooltip=train["batch_size"]
                ),
                io.Int.Input(
                    "grad_accumulation_steps", default=4, min=1, max=4096,
                    tooltip=train["grad_accumulation_steps"],
                ),
                io.Combo.Input(
                    "execution_mode", options=[*SCHEDULES, AUTO], default=AUTO,
                    tooltip=train["execution_mode"],
                ),
                io.Boolean.Input("shared_noise", default=True, tooltip=train["shared_noise"]),
                io.Boolean.Input(
                    "gradient_checkpointing", default=True,
                    tooltip="Computes each block twice to need far less memory; the result is the "
                    "same. Off is about a quarter faster where the card has room.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**53 - 1, tooltip=train["seed"],
                    control_after_generate=io.ControlAfterGenerate.fixed,
                ),
                Objective.Input("objective", optional=True, tooltip="How picks become a loss."),
                Noise.Input("noise", optional=True, tooltip="How noise is drawn."),
                Optimizer.Input(
                    "optimizer", optional=True, tooltip="How gradients become changes."
                ),
                AdapterSocket.Input(
                    "adapter", optional=True,
                    tooltip="What kind of LoRA is trained, and on which layers.",
                ),
                Validation.Input(
                    "validation", optional=True,
                    tooltip="Tries the LoRA on prompts kept out of training.",
                ),
                Lora.Input(
                    "existing_lora", optional=True,
                    tooltip="A LoRA to refine. It is the reference that training is held to, and "
                    "brings its own type, rank and alpha. Do not also load it into the model.",
                ),
                Trainer.Input(
                    "continue_from", optional=True,
                    tooltip="Go on from another trainer with this node's pairs and settings: its "
                    "LoRA, its optimiser and its original reference. New picks never start over.",
                ),
                io.Combo.Input(
                    "new_picks", options=list(NEW_PICKS), default=NEW_PICKS[0], optional=True,
                    tooltip="When a ranking session has grown: continue trains on from where its "
                    "last training with this model and these settings stood, against the same "
                    "reference; start_over begins a new LoRA.",
                ),
                Preview.Input(
                    "preview", optional=True,
                    tooltip="Shows what the LoRA does while it is trained; changes nothing of it.",
                ),
                io.Combo.Input(
                    "when_out_of_memory", options=list(WHEN_OUT_OF_MEMORY),
                    default=WHEN_OUT_OF_MEMORY[0], optional=True,
                    tooltip="stop: says what to change, and about how much each change saves. "
                    "step_down: goes on from the last step in a slower way that needs less memory "
                    "and gives the same result, if there is one: policy_concurrent, sequential, "
                    "gradient_checkpointing. With execution_mode auto it changes that in any case.",
                ),
            ],
            outputs=[Trainer.Output(display_name="trainer")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        rank: int,
        alpha: float,
        learning_rate: float,
        batch_size: int,
        grad_accumulation_steps: int,
        execution_mode: str,
        shared_noise: bool,
        gradient_checkpointing: bool,
        seed: int,
        dataset: EncodedPairs | None = None,
        objective: ObjectiveSettings | None = None,
        noise: NoiseSettings | None = None,
        optimizer: OptimizerSettings | None = None,
        adapter: AdapterSettings | None = None,
        validation: ValidationSettings | None = None,
        existing_lora: Mapping[str, Tensor] | None = None,
        continue_from: TrainerValue | None = None,
        new_picks: str = NEW_PICKS[0],
        preview: PreviewValue | None = None,
        when_out_of_memory: str = WHEN_OUT_OF_MEMORY[0],
    ) -> io.NodeOutput:
        settings = TrainSettings(
            objective=objective or ObjectiveSettings(),
            noise=noise or NoiseSettings(),
            validation=validation,
            optimizer=replace(optimizer or OptimizerSettings(), learning_rate=learning_rate),
            batch_size=batch_size,
            grad_accumulation_steps=grad_accumulation_steps,
            execution_mode=execution_mode,
            shared_noise=shared_noise,
            seed=seed,
        )
        if continue_from is None:
            adapter = replace(adapter or AdapterSettings(), rank=rank, alpha=alpha)
        else:
            adapter = continue_from.adapter
        problems = model_problems(model) + settings.problems()
        origin = None
        with torch.inference_mode(False), torch.no_grad():
            with _noted(problems):
                origin, said = _origin(model, existing_lora, continue_from)
            if origin is None:
                problems += adapter.problems()
            else:
                problems += adapter_problems(model, adapter, origin.existing)
            with _noted(problems):
                shaped, held_out = _shaped(dataset, model, settings)
            if problems or origin is None:
                raise ValueError("This cannot be trained:\n- " + "\n- ".join(problems))
            trainer = build_trainer(
                model, shaped, settings, adapter, gradient_checkpointing, origin,
                held_out, start_over=new_picks == "start_over", preview=preview,
                when_out_of_memory=when_out_of_memory,
            )
            if continue_from is None and (before := trainer.origin.run) is not None:
                said.append(f"goes on from step {trainer.step} of run {before.id}")
        if dataset is None:
            said.append("without pairs of its own: for Online Rounds")
            if validation is not None:
                said.append("validation has no pairs to try it on: it needs a dataset")
        if shaped.records:
            said.append(f"{shaped.counted}, run {trainer.run.id}")
        if wrappers := left_out(model):
            said.append(f"trained without what wraps the model: {', '.join(wrappers)}")
        if not shaped.records and dataset is not None:
            said += dataset.training().problems(settings.objective)
        said += _about_validation(shaped, held_out, settings, continue_from)
        say("\n".join(said), cls.hidden.unique_id)
        return io.NodeOutput(trainer, ui={"text": ["\n".join(said)]})


class TrainStepsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DPOTrainSteps",
            display_name="Train Steps (DPO)",
            category=CATEGORY,
            description="Trains, and draws its curves as it goes. Stop keeps what was learned; run "
            "again to go on from there. The same training asked for again is found in its run "
            "folder.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            inputs=[
                Trainer.Input(
                    "trainer", tooltip="From Trainer, or from other Train Steps to go on from."
                ),
                io.Int.Input(
                    "steps", default=200, min=1, max=1_000_000,
                    tooltip="Updates to do now. About 20 looks at every pair are a good start: "
                    "pairs x 20 / (batch size x accumulation), but at least 200.",
                ),
                io.Int.Input(
                    "min_pairs", default=4, min=1, max=1_000_000,
                    tooltip="With fewer pairs nothing is trained yet and nothing after this node "
                    "runs.",
                ),
            ],
            outputs=[
                Trainer.Output(display_name="trainer"),
                Lora.Output(display_name="lora"),
                LossMap.Output(display_name="loss_map"),
                io.Int.Output(display_name="steps"),
                io.Image.Output(display_name="chart"),
            ],
        )

    @classmethod
    def execute(cls, trainer: TrainerValue, steps: int, min_pairs: int) -> io.NodeOutput:
        numbers = {"steps": steps, "min_pairs": min_pairs}
        problems = [f"{n} is {v}: use 1 or more." for n, v in numbers.items() if v < 1]
        if not (trainer.dataset.records or trainer.dataset.lineage):
            problems.append(
                "No dataset is connected to Trainer: connect the pairs to learn from, or use "
                "Online Rounds, which draw their own."
            )
        if problems:
            raise ValueError("This cannot be trained:\n- " + "\n- ".join(problems))
        progress = Progress(steps, cls.hidden.unique_id, _workflow(cls.hidden.extra_pnginfo))
        if len(trainer.dataset.records) < min_pairs:
            wanted = counted(min_pairs, trainer.dataset.noun)
            line = f"{len(trainer.dataset.records)} of {wanted} so far: not training yet."
            progress.say(line, log=True)
            return io.NodeOutput(*[ExecutionBlocker(None)] * 5, ui={"text": [line]})
        trained = train_steps(trainer, steps, progress)
        watch = watch_of(trainer, trained.rows)
        line = "\n".join([_summary(trained), *watch.verdict()])
        progress.say(line, log=True)
        # After a training the strip is there as the last live picture, which Nodes 2.0 keeps beside
        # a node's images.
        images = strip_on_node(trained.trainer) if trained.found else []
        return io.NodeOutput(
            trained.trainer,
            trained.lora,
            loss_map(trained.rows),
            trained.trainer.step,
            _chart(trained),
            ui={
                "text": [line],
                "dpo_chart": [_shown(trained, watch)],
                **({"images": images} if images else {}),
            },
        )


def loss_map(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """Every metric's history by name, and ``loss``, the name ComfyUI's own nodes read."""
    names = sorted({name for row in rows for name in row} - {"step"})
    curves = {name: [row[name] for row in rows if name in row] for name in names}
    return {"loss": curves.get("loss/dpo", []), **curves}


@contextmanager
def _noted(problems: list[str]) -> Iterator[None]:
    """What is wrong inside joins ``problems``, so that the person hears of everything at once."""
    try:
        yield
    except ValueError as error:
        problems.append(str(error))


def _shaped(
    dataset: EncodedPairs | None, model: Any, settings: TrainSettings
) -> tuple[EncodedPairs, EncodedPairs]:
    """What the objective learns from and is tried on, as the model takes it."""
    if dataset is None:
        nothing = EncodedPairs(())
        return nothing, nothing  # the pairs of online training are yet to be drawn
    objective, validation = settings.objective, settings.validation
    if objective.problems() or (validation is not None and validation.problems()):
        return dataset, dataset  # what it learns from cannot be told
    if validation is None:
        training = dataset.training().used_by(objective)
        held_out = dataset.held_out().used_by(objective)
    else:
        training, held_out = split(dataset, validation, objective)
    growing = bool(dataset.lineage) and not training.records  # the first pairs are yet to come
    if (problems := dataset.training().problems(objective)) and not growing:
        raise ValueError(" ".join(problems))
    name = type(model.model.model_config).__name__
    latent_format = model.get_model_object("latent_format")
    return (
        model_shaped(training, latent_format, name),
        model_shaped(held_out, latent_format, name),
    )


def _about_validation(
    training: EncodedPairs,
    held_out: EncodedPairs,
    settings: TrainSettings,
    continue_from: TrainerValue | None,
) -> list[str]:
    if settings.validation is None:
        if not held_out.records:
            return []
        return [f"kept for validation and not trained on: {held_out.counted}"]
    said = [f"validation on {held_out.counted}"] if held_out.records else []
    if continue_from is not None and continue_from.step > 0:
        known = {one.key for one in continue_from.dataset.records}
        if learned := sum(one.key in known for one in held_out.records):
            said.append(
                f"{learned} of them have been trained on by the trainer that this continues, so "
                "they say little: validate from the start, with the same split_seed and percent"
            )
    return said + ([told] if (told := advice(training, held_out)) else [])


def _origin(
    model: Any,
    existing_lora: Mapping[str, Tensor] | None,
    continue_from: TrainerValue | None,
) -> tuple[Origin, list[str]]:
    if continue_from is not None:
        if existing_lora is not None:
            raise ValueError(
                "Connect either existing_lora or continue_from: a continued training has its "
                "reference already."
            )
        before = continue_from.origin
        if continue_from.step == 0:
            return before, ["continues a trainer that has not trained yet"]
        said = f"continues run {continue_from.run.id} at step {continue_from.step}"
        if continue_from.step == before.step:
            return before, [said]
        origin = Origin(before.existing, before.carried, continue_from.run, continue_from.step)
        return origin, [said + "; rank and alpha are its own, as is its adapter"]
    if existing_lora is None:
        return Origin(), []
    existing = read_existing(model, existing_lora)
    refuse_if_upstream(model, existing.weights)
    found = existing.weights.values()
    kinds = ", ".join(sorted({weights.kind for weights in found}))
    ranks = ", ".join(map(str, sorted({weights.rank for weights in found} - {0}))) or "full"
    return Origin(existing.weights, existing.carried), [
        f"refines the given LoRA: {counted(len(found), 'layer')}, rank {ranks}, type {kinds}; the "
        "rank, alpha and targets set here are not used"
    ]


def _summary(trained: Trained) -> str:
    # A skipped step has no loss or no gradient: numbers that are not finite are not logged.
    done = [row for row in trained.rows if "loss/dpo" in row and "grad_norm" in row]
    last = done[-10:]

    def mean(name: str) -> float:
        known = [row[name] for row in last if name in row]
        return sum(known) / max(1, len(known))

    verb = "found in" if trained.found else "kept in"
    line = (
        f"{counted(trained.trainer.step, 'step')}. Over the last {len(last)}: loss "
        f"{mean('loss/dpo'):.4f}, accuracy {mean('dpo/accuracy'):.2f}"
    )
    # Unknown where the reference's predictions were not computed.
    if any("prediction_change" in row for row in last):
        line += f", prediction changed by {100 * mean('prediction_change') ** 0.5:.2f} %"
    run = trained.trainer.run
    line += f". The run is {verb} {shown(run.path)}, {size_text(run.disk_use())} on disk."
    line += _validated(trained)
    if trained.said:
        said = "; ".join(trained.said)
        line += f" On the way: {said}."
    return line


def _validated(trained: Trained) -> str:
    """How the LoRA did on pairs it does not learn from."""
    rows = [row for row in trained.rows if "dpo/val_accuracy" in row]
    if not rows:
        return ""
    state = trained.validation
    saved = next((row for row in rows if row["step"] == state.best_step), rows[-1])
    low, high = saved["dpo/val_accuracy_low"], saved["dpo/val_accuracy_high"]
    line = (
        f" In validation at step {saved['step']:g} it preferred your choice in "
        f"{saved['dpo/val_accuracy']:.0%} of pairs ({low:.0%} to {high:.0%})"
    )
    line += "; this is the LoRA given." if state.best_step >= 0 else "."
    if state.stopped:
        line += f" Training stopped early: {state.stalled} validations without progress."
    return line


def _workflow(extra: Any) -> str:
    """The id of the workflow that a prompt was made of; empty if there is none."""
    workflow = extra.get("workflow") if isinstance(extra, Mapping) else None
    found = workflow.get("id") if isinstance(workflow, Mapping) else None
    return found if isinstance(found, str) else ""


def _shown(trained: Trained, watch: Watch) -> dict[str, Any]:
    """What the page's chart shows: it asks for the run's metrics itself."""
    return {
        "run": trained.trainer.run.id,
        "step": trained.trainer.step,
        "warnings": [warning(finding) for finding in watch.findings],
    }


def _chart(trained: Trained) -> Tensor:
    picture = draw_chart(trained.rows, f"run {trained.trainer.run.id}")
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).unsqueeze(0)
