"""Pictures of a few prompts, sampled by the host while training runs.

They are sampled through the very model that is being trained, its adapter in place, so that
nothing is loaded anew but what the VAE has pushed out. Training must not notice: see
:func:`~.sampling.sampling`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any

import comfy.model_management
import comfy.sample
import torch
from PIL import Image
from torch import Tensor

from ...dpo_core.evaluation.strip import MOST_COLUMNS
from ...dpo_core.pairs.record import counted
from ...dpo_core.run import StepReport
from ...dpo_core.saving.filmstrip import BASE, Filmstrip
from .conditioning import Conditioning, conditioning_digest
from .denoiser import HostDenoiser
from .encoding import PromptEncoder, encoding_store
from .injection import TrainedModel
from .latents import vae_file
from .progress import Progress
from .sampling import SamplerSettings, decoded, picture, prompts_of, sampled_latents, sampling

SHOWN_COLUMNS = 4
"""Of the filmstrip while training runs: a node is narrow. At the end it is shown whole."""
LARGE_SHARE = 0.5
"""Of the time: previews that take more are warned of."""


@dataclass(frozen=True)
class PreviewSettings(SamplerSettings):
    """What is sampled, and when. The negative prompt is empty."""

    prompts: str = "a photo of a cat"
    """One prompt a line. Each is sampled whenever a preview is due: few prompts keep it quick."""

    every: int = 50
    """Steps from one preview to the next. The start and the end of a training are always shown."""

    seed: int = 0
    """The first prompt is sampled with this seed, the next with the next one, always the same."""

    guidance: float = 3.5
    """For models that have guidance built in, such as Flux: what you generate with. Other models
    ignore it."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The prompts; empty lines do not count."""
        return prompts_of(self.prompts)

    def problems(self) -> list[str]:
        """Everything out of range, each with its fix."""
        found = [] if self.lines else ["There is no prompt: write at least one line."]
        if self.every < 1:
            found.append(f"every is {self.every}: use 1 or more.")
        return found + super().problems()


@dataclass(frozen=True, eq=False)
class Preview:
    """The DPO_PREVIEW value: everything a preview needs besides the model being trained.

    Attributes:
        settings: checked.
        positive: what the model is told, one entry for each prompt.
        negative: likewise, of the empty prompt.
        vae: the host's VAE.
    """

    settings: PreviewSettings
    positive: tuple[Conditioning, ...]
    negative: Conditioning
    vae: Any = field(repr=False)

    def deciding(self) -> dict[str, Any]:
        """All that the pictures depend on besides the model, as JSON has it."""
        said = {
            one.name: getattr(self.settings, one.name)
            for one in fields(self.settings)
            if one.name not in ("prompts", "every")
        }
        said["conditioning"] = [
            conditioning_digest(one) for one in (*self.positive, self.negative)
        ]
        return said | {"vae": vae_file(self.vae)}


def encode_preview(settings: PreviewSettings, clip: Any, vae: Any) -> Preview:
    """The value of checked settings. The text encoder is not needed again.

    Raises:
        ValueError: the text encoder gave something that cannot be used.
    """
    encoder = PromptEncoder(clip, settings.guidance, encoding_store())
    *positive, negative = (encoder.encode(prompt)[0] for prompt in (*settings.lines, ""))
    return Preview(settings, tuple(positive), negative, vae)


class Previews:
    """Samples between the steps of one training; an observer of its reports.

    What goes wrong here ends the previews and never the training; only Stop goes through.

    Args:
        preview: what to sample.
        trained: the model with its adapter.
        denoiser: of the same; it brings the model back after others were at work.
        strip: where the pictures are kept.
        progress: told of everything.
        averaged: True if what would be saved is a running mean, and not the adapter as it is.
        target: the step at which this training ends.
        now: a clock, in seconds.
    """

    def __init__(
        self,
        preview: Preview,
        trained: TrainedModel,
        denoiser: HostDenoiser,
        strip: Filmstrip,
        progress: Progress,
        averaged: bool,
        target: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._preview, self._trained, self._denoiser = preview, trained, denoiser
        self._strip, self._progress = strip, progress
        self._averaged, self._target, self._now = averaged, target, now
        self._began, self._spent, self._steps = now(), 0.0, 0
        self._warned = self._given_up = False

    def begin(self, step: int, as_base: bool) -> None:
        """Before the first step.

        Args:
            step: at which the run stands.
            as_base: True if the adapter does nothing yet.
        """
        if not self._strip.has(BASE):
            self._make(BASE, self._trained.adapter.off())
        # Going on after a Stop: the next picture is due where it would have been.
        if not as_base and not self._strip.steps:
            self._make(step, nullcontext())
        self._began, self._spent = self._now(), 0.0

    def __call__(self, report: StepReport) -> None:
        self._steps += 1
        last = report.step == self._target or report.stopped
        due = last or report.step % self._preview.settings.every == 0
        if due and not self._strip.has(report.step):
            self._make(report.step, self._as_saved(report), MOST_COLUMNS if last else SHOWN_COLUMNS)

    def _as_saved(self, report: StepReport) -> AbstractContextManager[None]:
        """The adapter as the LoRA file of this step would have it."""
        if not self._averaged:
            return nullcontext()
        parameters = self._trained.adapter.parameters()
        mean = report.state().latest
        return self._trained.adapter.holding(
            {name: mean[name].to(one.device) for name, one in parameters.items()}
        )

    def _make(
        self, step: int, adapter: AbstractContextManager[None], columns: int = SHOWN_COLUMNS
    ) -> None:
        if self._given_up:
            return
        name = "the base" if step == BASE else f"step {step}"
        began, failed = self._now(), ""
        try:
            with adapter, sampling(self._trained.patcher.load_device):
                pictures = self._pictures(name)
            self._strip.add(step, pictures)
            self._progress.show(("JPEG", self._strip.drawn(columns), None))
        except Exception as error:
            logging.debug("DPO: a preview failed", exc_info=True)
            failed = _why(error)
        # Outside the handler, whose traceback would keep the failed preview's tensors alive.
        if failed:
            self._give_up(failed)
        self._denoiser.load(make_room=True)
        if not failed:
            self._tell(name, self._now() - began)

    def _pictures(self, name: str) -> list[Image.Image]:
        """One for each prompt. All are sampled before the VAE takes the model's place."""
        settings, latents = self._preview.settings, []
        for number in range(len(settings.lines)):
            of = f"{number + 1} of {len(settings.lines)}"
            self._progress.say(f"preview of {name}: picture {of}")
            latents.append(self._latent(number))
        return [picture(decoded(self._preview.vae, latent)) for latent in latents]

    def _latent(self, number: int) -> Tensor:
        """What KSampler gives for this prompt."""
        preview, settings = self._preview, self._preview.settings
        return sampled_latents(
            self._trained.patcher, preview.positive[number], preview.negative, settings,
            settings.seed + number, 1, self._progress,
        )

    def _give_up(self, why: str) -> None:
        self._given_up = True
        with torch.inference_mode():
            comfy.model_management.unload_all_models()  # whatever half of it was in place
        comfy.model_management.soft_empty_cache()
        self._progress.warn(
            f"The previews could not go on: {why} Training goes on without them.", serious=False
        )

    def _tell(self, name: str, seconds: float) -> None:
        self._spent += seconds
        pictures = counted(len(self._preview.settings.lines), "picture")
        line = f"preview of {name}: {pictures} in {seconds:.1f} s"
        share = self._spent / max(1e-9, self._now() - self._began)
        if self._steps:
            line += f"; previews have taken {share:.0%} of the time so far"
        self._progress.say(line, log=True)
        if self._steps >= self._preview.settings.every and share > LARGE_SHARE:
            self._warn_of_share(share)

    def _warn_of_share(self, share: float) -> None:
        if not self._warned:
            self._warned = True
            self._progress.warn(
                f"Previews take {share:.0%} of the time. For less: a larger every, fewer prompts, "
                "fewer steps of the sampler, or smaller pictures.", serious=False,
            )


def _why(error: Exception) -> str:
    if comfy.model_management.is_oom(error):
        return (
            "the graphics card ran out of memory. Smaller pictures (width, height of Preview) "
            "need less."
        )
    if isinstance(error, OSError):
        return f"the pictures cannot be written ({error}). Make room."
    return f"the model or the VAE says: {error or type(error).__name__}."
