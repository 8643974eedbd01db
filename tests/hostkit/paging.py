"""The two ways a graphics card makes ComfyUI compute with borrowed weights, on a CPU.

On a card the host pages weights: a layer computes with a view of memory that the next layer, or
an eviction, overwrites. `--cpu` turns all of that off, so a CPU test would never meet it. Here
the host's own code runs (`ModelPatcherDynamic`, `cast_bias_weight`, `cast_modules_with_vbar`,
`resolve_cast_module_with_vbar`, `LowVramPatch`); only what needs a driver is replaced: the paged
allocator, the staging buffer, the streams. What is simulated, and what it does to a training
node:

- a layer that is not resident is staged into ONE buffer, which is filled with garbage before the
  next layer's weights are written to it;
- a resident layer keeps the tensors made when it was faulted in, inference tensors if that
  happened while sampling;
- an eviction fills the pages with garbage and changes their signature;
- two views of the same memory are unrelated tensors to autograd, as views made from a raw device
  pointer are: it cannot notice that a saved weight was overwritten.

The simulated card is the device `cpu:0`, which holds ordinary CPU tensors but does not compare
equal to `cpu`.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import comfy.cli_args
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy_aimdo.host_buffer
import comfy_aimdo.model_vbar
import comfy_aimdo.torch
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from hostkit.tiny_models import tiny_patcher

CARD = torch.device("cpu", 0)

_STAGING_BYTES = 1 << 30  # reserved, not touched: memory is used as far as layers write to it

Allocation = tuple[Any, int, int]


def _plausible_garbage() -> np.ndarray:
    """Bytes that read as small weights of either sign in fp32, and as no NaN in fp8."""
    values = np.random.default_rng(0).normal(scale=0.05, size=1 << 16).astype(np.float32)
    garbage = values.view(np.uint8)
    garbage[(garbage & 0x7F) == 0x7F] = 0x3C
    return garbage


_GARBAGE = _plausible_garbage()


class _Memory:
    """Raw device memory: every view is a tensor of its own, with its own version counter."""

    def __init__(self, size: int) -> None:
        self.bytes = np.zeros(size, dtype=np.uint8)

    def view(self, start: int, size: int) -> Tensor:
        return torch.from_numpy(self.bytes[start : start + size])

    def scribble(self, start: int, end: int) -> None:
        """Overwrite with values that no NaN gives away."""
        for at in range(start, end, _GARBAGE.size):
            size = min(_GARBAGE.size, end - at)
            self.bytes[at : at + size] = _GARBAGE[:size]


class _Staging(_Memory):
    """The staging buffer of an offload stream (`comfy_aimdo.vram_buffer.VRAMBuffer`)."""

    def __init__(self) -> None:
        super().__init__(_STAGING_BYTES)
        self.used = 0

    def size(self) -> int:
        return self.used

    def get(self, size: int, offset: int = 0) -> Allocation:
        if offset == 0:
            self.scribble(0, self.used)
        self.used = max(self.used, offset + size)
        return (self, offset, size)


class _Pages(_Memory):
    """A model's paged address space (`comfy_aimdo.model_vbar.ModelVBAR`)."""

    def __init__(self, paging: DynamicPaging, size: int) -> None:
        super().__init__(int(size))
        self.paging = paging
        self.end = 0
        self.signatures: dict[tuple[int, int], int] = {}
        self.pins: Counter[tuple[int, int]] = Counter()

    def alloc(self, size: int) -> Allocation:
        start = (self.end + 511) & ~511
        self.end = start + size
        return (self, start, size)

    def fault(self, start: int, size: int) -> Any:
        if not self.paging.fits(self, start, size):
            return None
        page = (start, size)
        if page not in self.signatures:
            self.signatures[page] = next(self.paging.signature_numbers)
        self.pins[page] += 1
        return (ctypes.c_uint32 * 2)(self.signatures[page], 0)

    def unpin(self, start: int, size: int) -> None:
        self.pins[(start, size)] -= 1

    def evict(self) -> int:
        """Take every page that no pass holds; returns the bytes freed."""
        freed = 0
        for start, size in list(self.signatures):
            if self.pins[(start, size)] <= 0:
                del self.signatures[(start, size)]
                self.scribble(start, start + size)
                freed += size
        return freed

    def free_memory(self, size: int) -> int:
        return self.evict() if size > 0 else 0

    def loaded_size(self) -> int:
        return sum(size for _, size in self.signatures)

    def prioritize(self) -> None:
        """Only orders evictions between models."""


class _Stream:
    """A stream that does its work at once."""

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def wait_stream(self, other: object) -> None:
        return None

    def synchronize(self) -> None:
        return None


class _HostBuffer:
    """Pinned host memory; pinning is off, so it stays empty."""

    def __init__(self, *sizes: int) -> None:
        self.size = 0

    def truncate(self, size: int, do_unregister: bool = True) -> None:
        self.size = size


class DynamicPaging:
    """A card with dynamic paging: made by `dynamic_paging`, drives residency while it lasts.

    `resident` is the share of each model's pages that fit on the card: 0.0 stages every layer
    anew (offloaded), 1.0 keeps every layer it has seen (resident); it may be changed between
    passes.
    """

    def __init__(self, resident: float) -> None:
        self.resident = resident
        self.signature_numbers = itertools.count(1)
        self.staging = _Staging()
        self._pages: list[_Pages] = []

    def new_pages(self, size: int, device_index: int) -> _Pages:
        pages = _Pages(self, size)
        self._pages.append(pages)
        return pages

    def fits(self, pages: _Pages, start: int, size: int) -> bool:
        return start + size <= self.resident * pages.end

    def load(self, kind: str, **options: Any) -> ModelPatcher:
        """`tiny_patcher(kind, **options)` for the simulated card: a `ModelPatcherDynamic`."""
        patcher = tiny_patcher(kind, model_options={"load_device": CARD}, **options)
        assert patcher.is_dynamic()
        return patcher

    def evict(self) -> None:
        """What another model's need for memory does: no page and no staged weight survives."""
        for pages in self._pages:
            pages.evict()
        self.staging.scribble(0, self.staging.used)

    def pinned_pages(self) -> int:
        """Pages held by a pass; 0 between passes unless a cast was not given back."""
        return sum(max(count, 0) for pages in self._pages for count in pages.pins.values())


@contextlib.contextmanager
def dynamic_paging(resident: float = 0.0) -> Iterator[DynamicPaging]:
    """Run the host as on a card with dynamic paging (its default on NVIDIA).

    Load models with the yielded object's `load`; everything done to them in the block (load,
    clone, patches, injections, sampling, unload) takes the host's dynamic code path. The host is
    put back, and the models unloaded, at the end.
    """
    paging = DynamicPaging(resident)
    stream = _Stream()
    management = comfy.model_management

    def view(allocation: Allocation, device: torch.device) -> Tensor:
        memory, start, size = allocation
        return memory.view(start, size)

    with _simulated_card(lambda layer: hasattr(layer, "_v")) as patch:
        patch(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcherDynamic)
        patch(comfy_aimdo.model_vbar, "ModelVBAR", paging.new_pages)
        patch(comfy_aimdo.host_buffer, "HostBuffer", _HostBuffer)
        patch(comfy_aimdo.torch, "aimdo_to_tensor", view)
        patch(management, "get_aimdo_cast_buffer", lambda *_: paging.staging)
        patch(management, "get_offload_stream", lambda device: stream)
        patch(management, "LARGEST_AIMDO_CASTED_WEIGHT", (None, 0))
        patch(comfy.cli_args.args, "disable_pinned_memory", True)
        yield paging


class PartialLoading:
    """A card without dynamic paging that is too small: made by `partial_loading`."""

    def __init__(self, loaded_bytes: float) -> None:
        self.loaded_bytes = loaded_bytes

    def load(self, kind: str, **options: Any) -> ModelPatcher:
        """`tiny_patcher(kind, **options)` for the simulated card: a classic `ModelPatcher`."""
        patcher = tiny_patcher(kind, model_options={"load_device": CARD}, **options)
        assert not patcher.is_dynamic()
        return patcher

    def offloaded_layers(self, patcher: ModelPatcher) -> int:
        """How many layers of a loaded model are cast for every pass."""
        return sum(_classically_offloaded(layer) for layer in patcher.model.modules())


def _classically_offloaded(layer: torch.nn.Module) -> bool:
    return hasattr(layer, "prev_comfy_cast_weights") and not getattr(
        layer, "comfy_patched_weights", False
    )


@contextlib.contextmanager
def partial_loading(loaded_bytes: float = 1.0) -> Iterator[PartialLoading]:
    """Run the host as on a small card with the classic patcher (`--disable-dynamic-vram`).

    `load_models_gpu` keeps at most `loaded_bytes` of each model on the card; the layers beyond
    that go through the cast buffers of two asynchronous offload streams in turn, LoRA patches on
    the fly.
    """
    loading = PartialLoading(loaded_bytes)
    streams = itertools.cycle((_Stream(), _Stream()))  # a cast buffer each, as by default
    management = comfy.model_management
    load = management.LoadedModel.model_load

    def load_partly(model: Any, lowvram_model_memory: float = 0, **options: Any) -> Any:
        return load(model, max(loading.loaded_bytes, 0.1), **options)

    with _simulated_card(_classically_offloaded) as patch:
        patch(management.LoadedModel, "model_load", load_partly)
        patch(management, "get_offload_stream", lambda device: next(streams))
        patch(management, "STREAM_CAST_BUFFERS", {})
        patch(management, "LARGEST_CASTED_WEIGHT", (None, 0))
        yield loading


@contextlib.contextmanager
def _simulated_card(
    is_offloaded: Callable[[torch.nn.Module], bool],
) -> Iterator[Callable[[object, str, object], None]]:
    """Make `CARD` a device other than the CPU to the host; yields a function that patches more."""
    management = comfy.model_management
    cast = comfy.ops.cast_bias_weight
    is_device_cpu = management.is_device_cpu

    def cast_for_card(
        layer: torch.nn.Module,
        input: Tensor | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        *rest: Any,
        **options: Any,
    ) -> Any:
        # Tensors on the card report plain `cpu`; the layer's borrowed weights must be seen to
        # live elsewhere.
        if is_offloaded(layer):
            device = CARD
        return cast(layer, input, dtype, device, *rest, **options)

    with contextlib.ExitStack() as stack:

        def patch(target: object, name: str, value: object) -> None:
            stack.enter_context(mock.patch.object(target, name, value))

        patch(comfy.ops, "cast_bias_weight", cast_for_card)
        patch(management, "is_device_cpu", lambda d: is_device_cpu(d) and d.index is None)
        stack.callback(_unload_card)
        yield patch


def _unload_card() -> None:
    with torch.inference_mode():
        comfy.model_management.unload_all_models()
