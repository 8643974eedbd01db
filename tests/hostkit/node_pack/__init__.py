"""A custom node pack for the host under test: inputs and failures its own nodes cannot make."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper

CATEGORY = "testing"


def run_out_of_memory(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def once(owner: Any, name: str) -> None:
    """The next call of a method runs out of memory."""
    real = getattr(owner, name)

    def fail(*args: Any, **options: Any) -> None:
        setattr(owner, name, real)
        run_out_of_memory()

    setattr(owner, name, fail)


class FailingModel:
    """A MODEL that fails in `times` passes from pass number `first` on, counted from 0.

    It raises as a full card does (`out_of_memory`), or answers with `not_a_number`. Or that pass
    makes memory run out later, once: in its `backward`, in the next `update` or `checkpoint`.
    """

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "patch", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL",),
                "failure": (
                    ["out_of_memory", "not_a_number", "backward", "update", "checkpoint"],
                ),
                "first": ("INT", {"default": 0}),
                "times": ("INT", {"default": 1}),
            }
        }

    def patch(self, model: Any, failure: str, first: int, times: int) -> tuple[Any]:
        passes = 0

        def fail(executor: Any, *args: Any, **options: Any) -> Any:
            nonlocal passes
            passes += 1
            denoised = executor(*args, **options)
            if not first <= passes - 1 < first + times:
                return denoised
            if failure == "out_of_memory":
                run_out_of_memory()
            if failure == "not_a_number":
                return denoised * float("nan")
            if failure == "backward" and denoised.requires_grad:
                denoised.register_hook(run_out_of_memory)
            if failure == "update":
                once(torch.optim.AdamW, "step")
            if failure == "checkpoint":
                (module,) = (m for n, m in sys.modules.items() if n.endswith("saving.tensor_file"))
                once(module._Writer, "write")
            return denoised

        model = model.clone()
        add_wrapper(WrappersMP.APPLY_MODEL, fail, model.model_options, is_model_options=True)
        return (model,)


class RandomLatents:
    """A LATENT batch of any shape."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "make", ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        sizes = ("batch", "channels", "height", "width", "seed")
        return {"required": {name: ("INT", {"default": 4}) for name in sizes}}

    def make(self, batch: int, channels: int, height: int, width: int, seed: int) -> tuple[Any]:
        generator = torch.Generator().manual_seed(seed)
        samples = torch.randn(batch, channels, height, width, generator=generator)
        return ({"samples": samples},)


class RandomConditioning:
    """A CONDITIONING of one entry of any shape; `extra` names an option it carries."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "make", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        sizes = ("batch", "tokens", "width", "seed")
        required: dict[str, Any] = {name: ("INT", {"default": 4}) for name in sizes}
        return {"required": required | {"extra": ("STRING", {"default": ""})}}

    def make(self, batch: int, tokens: int, width: int, seed: int, extra: str) -> tuple[Any]:
        generator = torch.Generator().manual_seed(seed)
        context = torch.randn(batch, tokens, width, generator=generator)
        options: dict[str, Any] = {"pooled_output": torch.zeros(batch, width)}
        if extra:
            options[extra] = object()
        return ([[context, options]],)


class RandomImages:
    """An IMAGE batch of noise, no two images alike."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "make", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        sizes = ("batch", "height", "width", "seed")
        return {"required": {name: ("INT", {"default": 4}) for name in sizes}}

    def make(self, batch: int, height: int, width: int, seed: int) -> tuple[Any]:
        generator = torch.Generator().manual_seed(seed)
        return (torch.rand(batch, height, width, 3, generator=generator),)


class ListedImages:
    """Two batches as one list."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "join", ("IMAGE",)
    OUTPUT_IS_LIST = (True,)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"first": ("IMAGE",), "second": ("IMAGE",)}}

    def join(self, first: Any, second: Any) -> tuple[list[Any]]:
        return ([first, second],)


class ListedText:
    """A list of STRING, one for every line."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "split", ("STRING",)
    OUTPUT_IS_LIST = (True,)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"lines": ("STRING", {"multiline": True})}}

    def split(self, lines: str) -> tuple[list[str]]:
        return (lines.split("\n"),)


class EmptyLora:
    """A LoRA that no file holds, as one of a training in the graph."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "make", ("LORA_MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def make(self) -> tuple[Any]:
        return ({},)


class TextEncoder:
    """A CLIP of any width that knows a prompt by its letters, and nothing of what it says."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "make", ("CLIP",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"width": ("INT", {"default": 64}), "pooled": ("INT", {"default": 48})}}

    def make(self, width: int, pooled: int) -> tuple[Any]:
        return (_Letters(width, pooled),)


class _Letters:
    def __init__(self, width: int, pooled: int) -> None:
        self._width, self._pooled = width, pooled

    def tokenize(self, text: str, **options: Any) -> str:
        return text

    def encode_from_tokens_scheduled(self, text: str, **options: Any) -> list[Any]:
        generator = torch.Generator().manual_seed(sum(text.encode()))
        context = torch.randn(1, 7, self._width, generator=generator)
        pooled = torch.randn(1, self._pooled, generator=generator)
        return [[context, {"pooled_output": pooled}]]


class VAEWithoutEncoder:
    """A VAE that decodes, but fails when it is asked to encode."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "patch", ("VAE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"vae": ("VAE",)}}

    def patch(self, vae: Any) -> tuple[Any]:
        def encode(pixels: Any) -> Any:
            raise RuntimeError("The VAE was asked to encode.")

        vae = copy.copy(vae)
        vae.encode = encode
        return (vae,)


class StoppedVAE:
    """A VAE during whose encoding number `at` Stop is pressed, once; another one is an error."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "patch", ("VAE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"vae": ("VAE",), "at": ("INT", {"default": 1})}}

    def patch(self, vae: Any, at: int) -> tuple[Any]:
        real, calls = vae.encode, 0

        def encode(pixels: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                comfy.model_management.interrupt_current_processing()
            elif calls == at + 1 and comfy.model_management.processing_interrupted():
                raise RuntimeError("Encoding goes on although Stop was pressed.")
            return real(pixels)

        vae = copy.copy(vae)
        vae.encode = encode
        return (vae,)


def redness(images: list[Any], prompt: str) -> list[float]:
    return [float(image[..., 0].mean()) for image in images]


def darker(first: Any, second: Any, prompt: str) -> float:
    return float(first.mean() < second.mean())


darker.pairwise = True  # type: ignore[attr-defined]


def counted(images: list[Any], prompt: str) -> list[float]:
    """Notes in the output folder that it was asked."""
    with open(Path(folder_paths.get_output_directory()) / "judged.txt", "a") as file:
        file.write(f"{prompt}\n")
    return redness(images, prompt)


def stops(first: Any, second: Any, prompt: str) -> float:
    """Presses Stop; being asked again is an error."""
    if comfy.model_management.processing_interrupted():
        raise RuntimeError("Judging goes on although Stop was pressed.")
    comfy.model_management.interrupt_current_processing()
    return 1.0


stops.pairwise = True  # type: ignore[attr-defined]

DPO_JUDGES = {
    "test redness": redness,
    "test darker": darker,
    "test counted": counted,
    "test stops": stops,
    "test raises": lambda images, prompt: images[len(images)],
    "test nan": lambda images, prompt: [float("nan") for _ in images],
    "test all alike": lambda images, prompt: [1.0 for _ in images],
    "no judge": 7,
}

NODE_CLASS_MAPPINGS = {
    f"Test{cls.__name__}": cls
    for cls in (
        FailingModel, RandomLatents, RandomConditioning, RandomImages, ListedImages, ListedText,
        EmptyLora, TextEncoder, VAEWithoutEncoder, StoppedVAE,
    )
}
