"""How the adapter enters the host's model and leaves it: through the host's own injections.

Nothing in the module tree changes. Layers get another ``forward`` on the instance, so the host's
parameter names, patches and loading never see the difference; and because the host ejects
injections whenever it loads, unloads or switches to another clone, a sampler in between runs the
untouched model.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.ops import CastBiasWeightContext
from comfy.patcher_extension import PatcherInjection
from torch import Tensor, nn

from ...dpo_core.training.adapter import Adapter, AdapterSettings, Target
from ...dpo_core.training.lora_weights import LoraWeights
from ...dpo_core.training.targets import ModelLayers, chosen_layers
from .checkpointed_block import checkpointed_forward, overwrites_itself, repeated_blocks
from .frozen_layer import frozen_forward, frozen_weight, is_host_layer, own_copy
from .kernels import give_kernels_a_gradient
from .prompt_cache import forget_prompts

KEY = "dpo"
PREFIX = "diffusion_model."
PARTS = ("weight", "bias")


class TrainedModel:
    """A clone of the user's model with a trainable adapter on it.

    Args:
        patcher: the user's model; it is cloned, not touched.
        settings: shape of a new adapter.
        seed: of its initial values.
        existing: weights to go on from, by layer name.
        gradient_checkpointing: recompute blocks in backward instead of keeping activations.

    Raises:
        ValueError: the model cannot be trained, with the reason.
    """

    def __init__(
        self,
        patcher: ModelPatcher,
        settings: AdapterSettings,
        seed: int,
        existing: dict[str, LoraWeights] | None = None,
        gradient_checkpointing: bool = True,
    ) -> None:
        self.patcher = patcher.clone()
        self._model = self.patcher.model.diffusion_model
        self._layers = _host_layers(self._model)
        self._frozen = {name: frozen_forward(layer) for name, layer in self._layers.items()}
        names = set(existing if existing is not None else adapted_layers(patcher, settings))
        dtype, device = self.patcher.model.get_dtype_inference(), patcher.load_device
        targets = [
            Target(name, layer, self._frozen[name], partial(frozen_weight, layer, dtype, device))
            for name, layer in self._layers.items()
            if name in names
        ]
        self.adapter = Adapter(targets, settings, device, seed, existing)
        self._overwrites = overwrites_itself(self._model)
        recomputed = gradient_checkpointing or self._overwrites
        self._checkpointed = repeated_blocks(self._model) if recomputed else []
        self._forwards = _Forwards()
        self._tensors = _PlainTensors()
        self._upstream = _UpstreamPatches()
        give_kernels_a_gradient()
        self.patcher.set_injections(KEY, [PatcherInjection(self._inject, self._eject)])

    def remove(self) -> None:
        """Takes the adapter out for good; the model is as it was."""
        self.patcher.eject_model()
        self.patcher.remove_injections(KEY)

    def _inject(self, _: ModelPatcher) -> None:
        try:
            adapted = set(self.adapter.names)
            for name, layer in self._layers.items():
                on_top = name in adapted
                forward = partial(self.adapter.forward, name) if on_top else self._frozen[name]
                self._forwards.replace(layer, forward)
            for block in self._checkpointed:
                recomputed = checkpointed_forward(block.forward, self._overwrites)
                self._forwards.replace(block, recomputed)
            self._tensors.replace(self._model)
            self._upstream.replace(self._layers.values())
            forget_prompts(self._model)
        except BaseException:
            # Half an injection must not stay: the host only ejects what it saw succeed.
            self._eject(_)
            raise

    def _eject(self, _: ModelPatcher) -> None:
        self._upstream.restore(self.patcher.model.get_dtype_inference(), self.patcher.load_device)
        self._tensors.restore()
        self._forwards.restore()
        forget_prompts(self._model)


def adapted_layers(patcher: ModelPatcher, settings: AdapterSettings) -> list[str]:
    """Names of the layers that a new LoRA with these settings attaches to.

    Raises:
        ValueError: the model has none of them, or a line of the pattern matches none.
    """
    model = patcher.model.diffusion_model
    return chosen_layers(settings.targets, settings.pattern, _model_layers(model))


def _host_layers(model: nn.Module) -> dict[str, nn.Module]:
    return {
        PREFIX + name: layer for name, layer in model.named_modules() if is_host_layer(layer)
    }


def _model_layers(model: nn.Module) -> ModelLayers:
    """Attention, MLP and modulation are the linear layers of the repeated blocks.

    Embeddings and the last layer, which all pictures pass alike, are left alone unless named.
    """
    layers = _host_layers(model)
    inside = {id(module) for block in repeated_blocks(model) for module in block.modules()}
    linear = [name for name, layer in layers.items() if hasattr(layer, "in_features")]
    convolutions = [
        name
        for name, layer in layers.items()
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and layer.groups == 1
    ]

    def within(names: list[str]) -> list[str]:
        return [name for name in names if id(layers[name]) in inside]

    chosen = ModelLayers(within(linear) or linear, within(convolutions))
    rest = {*linear, *convolutions} - {*chosen.linear, *chosen.convolutions}
    return replace(chosen, outside=[name for name in layers if name in rest])


class _Forwards:
    """Instance ``forward`` overrides, taken back in reverse order."""

    def __init__(self) -> None:
        self._replaced: list[tuple[nn.Module, Any, Any]] = []

    def replace(self, module: nn.Module, forward: Any) -> None:
        self._replaced.append((module, module.__dict__.get("forward"), forward))
        module.forward = forward

    def restore(self) -> None:
        for module, before, ours in reversed(self._replaced):
            if module.__dict__.get("forward") is not ours:
                continue  # someone else has taken over since
            if before is None:
                del module.__dict__["forward"]
            else:
                module.forward = before
        self._replaced.clear()


class _PlainTensors:
    """Parameters and buffers that modules use directly, outside the host's layers.

    Loaded during execution they are inference tensors, which no graph may keep. They are small
    (norm scales, tokens, positions), so a copy stands in while the adapter is injected.
    """

    def __init__(self) -> None:
        self._replaced: list[tuple[dict[str, Any], str, Any, Any]] = []

    @torch.inference_mode(False)  # the host may load and inject while a sampler runs
    def replace(self, model: nn.Module) -> None:
        for module in model.modules():
            if is_host_layer(module):
                continue
            for store in (module._parameters, module._buffers):
                for name, tensor in store.items():
                    if tensor is not None and _is_out_of_reach(tensor):
                        copy: Any = own_copy(tensor)
                        if store is module._parameters:
                            copy = nn.Parameter(copy, requires_grad=False)
                        self._replaced.append((store, name, tensor, copy))
                        store[name] = copy

    def restore(self) -> None:
        for store, name, tensor, copy in self._replaced:
            if store.get(name) is copy:  # else the host has put its own back
                store[name] = tensor
        self._replaced.clear()


def _is_out_of_reach(tensor: Tensor) -> bool:
    """True for what no graph may keep: inference tensors, and parameters the host wraps around one.

    Those wrapped outside of inference mode deny being one.
    """
    try:
        return tensor.is_inference() or tensor._version < 0
    except RuntimeError:
        return True


class _UpstreamPatches:
    """LoRAs applied before the trainer, on paged layers: exact at every use.

    A page keeps its first use's result rounded, and loses it when memory is short. Reference and
    policy would meet different weights whenever a page came or went between their passes. So
    pages hold the bare weight meanwhile, and patches are added to what is taken from them.
    """

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, Any, list[Any]]] = []
        self._kept: list[Any] = []

    def replace(self, layers: Iterable[Any]) -> None:
        for layer in layers:
            patches = {name: getattr(layer, f"{name}_lowvram_function", None) for name in PARTS}
            for name, patch in patches.items():
                if patch is not None:
                    functions = getattr(layer, f"{name}_function")
                    self._replaced.append((layer, name, patch, functions))
                    setattr(layer, f"{name}_lowvram_function", None)
                    setattr(layer, f"{name}_function", [partial(_patched, patch), *functions])
            if any(patches.values()):
                if layer._v_signature is not None:
                    self._kept.append(layer)
                layer._v_signature = None  # what the page holds now is patched

    def restore(self, dtype: torch.dtype, device: torch.device) -> None:
        for layer, name, patch, functions in self._replaced:
            setattr(layer, f"{name}_lowvram_function", patch)
            setattr(layer, f"{name}_function", functions)
            layer._v_signature = None
        # A sampler finds the pages as it left them: past their first use. No room, no page.
        with torch.inference_mode(), suppress(torch.OutOfMemoryError):
            for layer in self._kept:
                with CastBiasWeightContext(layer, dtype=dtype, bias_dtype=dtype, device=device,
                                           offloadable=True):
                    pass
        self._replaced.clear()
        self._kept.clear()


def _patched(patch: Any, weight: Tensor) -> Tensor:
    return patch(weight.clone())  # it adds in place, and this may be the page itself
