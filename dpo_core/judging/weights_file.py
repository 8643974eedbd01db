"""The weights of a judge as they lie on disk: tensors by name, read without running anything."""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .judge import JudgeError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")

_NESTED = "state_dict"
_WRAPPED = "module."  # as torch's DistributedDataParallel names what is inside of it
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16


def read_weights(files: Iterable[Path]) -> dict[str, Tensor]:
    """The tensors of one model, on the CPU, by their names in its file or files.

    Raises:
        JudgeError: a file cannot be read, is damaged, or holds more than weights.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _read(file)
    if tensors and all(name.startswith(_WRAPPED) for name in tensors):
        tensors = {name.removeprefix(_WRAPPED): tensor for name, tensor in tensors.items()}
    return tensors


def fingerprint(files: Iterable[Path]) -> str:
    """Eight hex digits that tell weights apart, also those of equal shapes and names.

    From the sizes of the files and samples all over them, for they may have gigabytes: where a
    model was trained on, every weight has changed. Raises OSError.
    """
    hasher = hashlib.blake2b(digest_size=4)
    for path in files:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            hasher.update(size.to_bytes(8, "big"))
            last = max(size - _SAMPLE_BYTES, 0)
            for i in range(_SAMPLES):
                file.seek(last * i // (_SAMPLES - 1))
                hasher.update(file.read(_SAMPLE_BYTES))
    return hasher.hexdigest()


def _read(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix.lower() == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise JudgeError(
            f"{file} holds more than weights, or is damaged. Such a file could run programs and is "
            "not opened. Save the weights alone, best as safetensors, or get the file again."
        ) from error
    except (OSError, RuntimeError, EOFError, SafetensorError, zipfile.BadZipFile) as error:
        raise JudgeError(f"{file} cannot be read ({error}). Get the file again.") from error
    if isinstance(content, Mapping) and isinstance(content.get(_NESTED), Mapping):
        content = content[_NESTED]
    if not isinstance(content, Mapping):
        raise JudgeError(f"{file} holds no weights by name, but a {type(content).__name__}.")
    return {str(name): one for name, one in content.items() if isinstance(one, Tensor)}
