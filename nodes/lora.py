"""LoRA files: loading one to refine, saving what was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import folder_paths
import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..dpo_core.saving.lora_file import read_lora, save_lora
from .host.lora_check import check_saved
from .host.training import Trainer as TrainerValue
from .host.training import metadata_of
from .types import CATEGORY, Lora, Trainer


class LoadLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DPOLoadLoRA",
            display_name="Load LoRA to Refine (DPO)",
            category=CATEGORY,
            description="Reads a LoRA file for existing_lora, without applying it to a model.",
            inputs=[
                io.Combo.Input(
                    "lora_name", options=folder_paths.get_filename_list("loras"),
                    tooltip="A file from the loras folders.",
                )
            ],
            outputs=[Lora.Output(display_name="lora")],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str) -> str:
        path = folder_paths.get_full_path("loras", lora_name)
        if path is None:
            return lora_name
        facts = Path(path).stat()
        return f"{path}:{facts.st_size}:{facts.st_mtime_ns}"

    @classmethod
    def execute(cls, lora_name: str) -> io.NodeOutput:
        tensors, _ = read_lora(Path(folder_paths.get_full_path_or_raise("loras", lora_name)))
        if not tensors:
            raise ValueError(f"{lora_name} holds no weights.")
        return io.NodeOutput(tensors)


class SaveLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DPOSaveLoRA",
            display_name="Save LoRA (DPO)",
            category=CATEGORY,
            description="Writes the LoRA below the output folder, reads it back and checks it. "
            "Files in output/loras appear in every LoRA loader.",
            is_output_node=True,
            inputs=[
                Lora.Input("lora"),
                io.String.Input(
                    "filename_prefix", default="loras/dpo",
                    tooltip="Folder and name below ComfyUI's output folder; a number is added.",
                ),
                Trainer.Input(
                    "trainer", optional=True,
                    tooltip="Puts settings and results into the file, and checks the file against "
                    "what was trained.",
                ),
            ],
            outputs=[io.String.Output(display_name="path")],
        )

    @classmethod
    def execute(
        cls,
        lora: Mapping[str, Tensor],
        filename_prefix: str,
        trainer: TrainerValue | None = None,
    ) -> io.NodeOutput:
        folder, name, counter, _, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        path = _free(Path(folder), name, counter)
        with torch.inference_mode(False), torch.no_grad():
            metadata = {} if trainer is None else metadata_of(trainer, lora, path.stem)
            try:
                save_lora(path, lora, metadata)
            except OSError as error:
                raise ValueError(
                    f"The LoRA could not be written to {path}: {error}. Nothing half-written is "
                    "left; make room or choose another folder and run again."
                ) from error
            report = check_saved(path, lora, None if trainer is None else trainer.patcher)
        line = f"Saved {path}. {report}"
        return io.NodeOutput(str(path), ui={"text": [line]})


def _free(folder: Path, name: str, counter: int) -> Path:
    """The next name not taken; the host counts pictures, and other tools count otherwise."""
    while (path := folder / f"{name}_{counter:05}_.safetensors").exists():
        counter += 1
    return path
