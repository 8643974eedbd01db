"""LoRA files: loading one to refine, saving what was trained."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from pathlib import Path

import folder_paths
import torch
from comfy.utils import load_torch_file
from comfy_api.v0_0_2 import io
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..dpo_core.saving.lora_file import read_lora, save_lora
from .host.folders import shown
from .host.lora_check import check_saved
from .host.lora_dialects import KEY_NAMES, renamed
from .host.progress import say
from .host.rescue import poll
from .host.run_diary import note_lora
from .host.trainer import Trainer as TrainerValue
from .host.trainer import lora_of, metadata_of
from .types import CATEGORY, Lora, Trainer

PICKLED = (".pt", ".pth", ".ckpt", ".bin")


class LoadLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DPOLoadLoRA",
            display_name="Load LoRA to Refine (DPO)",
            category=CATEGORY,
            description="Reads a LoRA, DoRA, LoHa or LoKr file for existing_lora, without applying "
            "it to a model. ComfyUI's names, kohya's, diffusers' and others are understood.",
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
        path = Path(folder_paths.get_full_path_or_raise("loras", lora_name))
        tensors = _pickled(path) if path.suffix in PICKLED else read_lora(path)[0]
        if not tensors:
            raise ValueError(f"{lora_name} holds no weights.")
        return io.NodeOutput(tensors)


def _pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of an older kind of file; nothing in it is run.

    Raises:
        ValueError: it cannot be read so.
    """
    try:
        found = load_torch_file(str(path), safe_load=True)
    except Exception as error:
        raise ValueError(
            f"{path.name} cannot be read ({error}). Use it as a .safetensors file."
        ) from error
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}


class SaveLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DPOSaveLoRA",
            display_name="Save LoRA (DPO)",
            category=CATEGORY,
            description="Writes the LoRA below the output folder, reads it back and checks it. "
            "Files in output/loras appear in every LoRA loader. With trainer connected, what is "
            "saved already, because nothing was trained since, is not saved twice.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                Lora.Input("lora", tooltip="From Train Steps, or a LoRA that was loaded."),
                io.String.Input(
                    "filename_prefix", default="loras/dpo",
                    tooltip="Folder and name below ComfyUI's output folder; a number is added.",
                ),
                Trainer.Input(
                    "trainer", optional=True,
                    tooltip="Puts settings and results into the file, and checks the file against "
                    "what was trained.",
                ),
                io.Combo.Input(
                    "key_names", options=list(KEY_NAMES), default=KEY_NAMES[0], optional=True,
                    tooltip="How layers are named in the file. ComfyUI loads all three. kohya: as "
                    "sd-scripts writes them, for other interfaces. diffusers: for its pipelines; "
                    "plain LoRA only. The last two need trainer connected.",
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
        key_names: str = KEY_NAMES[0],
    ) -> io.NodeOutput:
        with torch.inference_mode(False), torch.no_grad():
            if trainer is not None:
                _refuse_strangers(lora, trainer)
            written = _written(lora, trainer, key_names)
            try:
                path = _free_path(filename_prefix)
                metadata = {}
                if trainer is not None:
                    metadata = metadata_of(trainer, lora, path.stem, written)
                saved = _saved_before(path, metadata)
                if saved is None:
                    save_lora(path, written, metadata, poll)
                path = saved or path
                if trainer is not None and trainer.step > trainer.origin.step:
                    note_lora(trainer, path)
            except OSError as error:
                raise ValueError(
                    f"The LoRA could not be saved: {error}. Nothing half-written is left. Make "
                    "room or choose another folder and run again: what was trained is found again."
                ) from error
            patcher = None if trainer is None else trainer.patcher
            report = check_saved(path, written, patcher, lora)
        line = f"{'Saved' if saved is None else 'Nothing new since'} {shown(path)}. {report}"
        say(line, cls.hidden.unique_id, log=True)
        return io.NodeOutput(str(path), ui={"text": [line]})


def _written(
    lora: Mapping[str, Tensor], trainer: TrainerValue | None, key_names: str
) -> Mapping[str, Tensor]:
    """The tensors as they go into the file."""
    if key_names not in KEY_NAMES:
        raise ValueError(f"key_names is {key_names!r}: choose {', '.join(KEY_NAMES)}.")
    if key_names == KEY_NAMES[0]:
        return lora
    if trainer is None:
        raise ValueError(
            f"key_names {key_names} needs the model to know its layers: connect trainer, from the "
            "same Train Steps node as lora, or set key_names to comfyui."
        )
    return renamed(trainer.patcher, lora, key_names)


def _refuse_strangers(lora: Mapping[str, Tensor], trainer: TrainerValue) -> None:
    """Settings and results of a training belong only into the file of what it trained."""
    state = trainer.state()
    trained = {} if state is None else lora_of(trainer, state)
    same = lora.keys() == trained.keys() and all(
        torch.equal(lora[name].cpu(), trained[name].cpu()) for name in trained
    )
    if not same:
        raise ValueError(
            "The LoRA is not what this trainer has trained. Connect lora and trainer to the same "
            "Train Steps node, or leave trainer unconnected."
        )


def _saved_before(path: Path, metadata: Mapping[str, str]) -> Path | None:
    """The file of these names that is what would be written now, but for its number and date."""
    if not metadata:  # nothing says where it comes from
        return None
    names = "dpo.settings", "modelspec.hash_sha256"
    stem = path.stem.rstrip("_").rpartition("_")[0]
    for other in sorted(path.parent.glob(f"{glob.escape(stem)}_*.safetensors"), reverse=True):
        try:
            with safe_open(other, framework="pt") as file:
                said = file.metadata() or {}
        except (OSError, SafetensorError):
            continue
        # What was hashed is read again when the file is checked.
        if all(said.get(name) == metadata[name] for name in names):
            return other
    return None


def _free_path(prefix: str) -> Path:
    """The next free name that the host's naming gives.

    Raises:
        ValueError: the prefix leads out of the output folder, or names no file.
        OSError: its folder cannot be made.
    """
    output = folder_paths.get_output_directory()
    folder, name = os.path.split(prefix)
    if not folder_paths.is_within_directory(output, os.path.join(output, folder)):
        raise ValueError(
            f"filename_prefix {prefix!r} leads out of ComfyUI's output folder. Give a folder and a "
            "name below it, such as loras/dpo."
        )
    if name.strip() in ("", ".", ".."):
        raise ValueError(
            f"filename_prefix {prefix!r} has no name at its end. Give one, such as loras/dpo."
        )
    place, name, counter, _, _ = folder_paths.get_save_image_path(prefix, output)
    # The host counts pictures, and other tools count otherwise.
    while (path := Path(place) / f"{name}_{counter:05}_.safetensors").exists():
        counter += 1
    return path
