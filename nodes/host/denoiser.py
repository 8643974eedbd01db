"""ComfyUI's loaded model as the core's denoiser."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from typing import Any
from uuid import uuid4

import comfy.model_management
import comfy.model_sampling
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...dpo_core.training.denoiser import Prediction, Rows
from ...dpo_core.training.transfer import sent
from .conditioning import Conditioning, ModelConditioning
from .other_models import make_way
from .prompt_cache import forget_prompts


class HostDenoiser:
    """Errors of the host's model in its native prediction space, whatever that is.

    The host returns the denoised image, which is affine in the network's output:
    ``denoised = a x + c output``. Both are read off the host's own model sampling, so epsilon, v,
    flow and EDM models need no table.

    Args:
        patcher: the clone being trained; loaded again whenever another model took its place.
        memory_required: bytes of activations to keep free when loading.
    """

    def __init__(self, patcher: ModelPatcher, memory_required: float = 0) -> None:
        self._patcher = patcher
        self._memory = memory_required
        self._device = patcher.load_device
        self._model: Any = patcher.model
        self._conditioning = ModelConditioning(self._model, self._device)
        sampling = patcher.get_model_object("model_sampling")
        # A copy on the CPU: sigmas are drawn without waiting for the device.
        self._schedule = copy.deepcopy(sampling).to("cpu")
        flow = isinstance(sampling, comfy.model_sampling.CONST)
        self.default_sigmas = "logit_normal" if flow else "uniform"
        dtype = self._model.get_dtype_inference()
        self.half_precision = dtype in (torch.float16, torch.bfloat16)
        self.needs_loss_scaling = dtype == torch.float16
        # MeanFlow takes a step's end besides its beginning, one for all rows of a call.
        self._one_time = getattr(self._model.diffusion_model, "time_r_in", None) is not None
        self._replaced = 0

    def load(self, make_room: bool = False) -> None:
        """Loads the model with its adapter, unless it is.

        Args:
            make_room: others have been at work: what stands in the way of training has to go, and
                what they sent away has to come back.
        """
        loaded = comfy.model_management.loaded_models(only_currently_used=False)
        if (
            not make_room
            and self._patcher.is_injected
            and any(m is self._patcher for m in loaded)
            # Making room for another model, the host puts small weights back unpatched.
            and len(self._patcher.backup) == self._replaced
        ):
            return
        # As everywhere in the host: quantised layers that it moved outside of inference mode it
        # could not unload inside.
        with torch.inference_mode():
            make_way(self._patcher, self._memory)
            comfy.model_management.load_models_gpu([self._patcher], memory_required=self._memory)
        self._replaced = len(self._patcher.backup)

    def sigma(self, percent: Tensor) -> Tensor:
        values = [self._schedule.percent_to_sigma(float(u)) for u in percent]
        return torch.tensor(values, dtype=torch.float32)

    def signature(self, conditioning: Conditioning, latent_shape: Sequence[int]) -> Hashable:
        self.load()
        return self._conditioning.signature(conditioning, latent_shape)

    def predict(self, rows: Rows) -> Prediction:
        self.load()
        latents = sent(rows.latents, self._device).to(torch.float32)
        clean = self._model.process_latent_in(latents)
        sigma, noise = sent(rows.sigma, self._device), sent(rows.noise, self._device)
        if noise is rows.noise:
            noise = noise.clone()  # some families add to it in place
        noisy = self._model.model_sampling.noise_scaling(_per_row(sigma, clean), noise, clean)
        denoised = self._denoised(noisy, sigma, rows)
        network, skip = self._affine(sigma, noisy)
        output = (denoised.detach() - skip) / network
        residual = (denoised - clean) / network
        return Prediction(residual, output.square().flatten(1).mean(1))

    def _denoised(self, noisy: Tensor, sigma: Tensor, rows: Rows) -> Tensor:
        if not self._one_time:
            return self._call(noisy, sigma, rows.conditioning)
        times = rows.sigma.tolist()
        groups = [[i for i, t in enumerate(times) if t == time] for time in dict.fromkeys(times)]
        parts = [
            self._call(noisy[group], sigma[group], [rows.conditioning[i] for i in group])
            for group in groups
        ]
        order = torch.tensor([i for group in groups for i in group]).argsort()
        return torch.cat(parts)[order.to(noisy.device)]

    def _call(
        self, noisy: Tensor, sigma: Tensor, conditioning: Sequence[Conditioning]
    ) -> Tensor:
        prompts = self._conditioning.rows(conditioning, noisy.shape[1:])
        options = self._options(sigma)
        denoised = self._model.apply_model(noisy, sigma, **prompts, transformer_options=options)
        forget_prompts(self._model.diffusion_model)
        return denoised.float()

    def _affine(self, sigma: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """c, shape (R, 1, ...), and a x, shape of ``noisy``."""
        sampling = self._model.model_sampling
        nothing = noisy.new_zeros(noisy.shape[0], *[1] * (noisy.ndim - 1))
        at_zero = sampling.calculate_denoised(sigma, nothing, nothing)
        at_one = sampling.calculate_denoised(sigma, nothing + 1, nothing)
        return at_one - at_zero, sampling.calculate_denoised(sigma, nothing, noisy)

    def _options(self, sigma: Tensor) -> dict[str, Any]:
        """The user's model patches stay; attention is the one kernel that has a gradient."""
        options = self._patcher.model_options["transformer_options"].copy()
        options["optimized_attention_override"] = _attention
        options |= {"sigmas": sigma, "cond_or_uncond": [0], "uuids": [uuid4()]}
        options["sample_sigmas"] = sigma[:1].repeat(2)  # a step of no length: the flow at its time
        return options


def _attention(_: Any, *args: Any, **kwargs: Any) -> Tensor:
    return attention_pytorch(*args, **kwargs)


def _per_row(sigma: Tensor, like: Tensor) -> Tensor:
    return sigma.reshape(-1, *[1] * (like.ndim - 1))
