"""Files appear under their final name complete or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Has ``write`` make a file beside ``path``, then renames it.

    The data is on the disk before the name is. A failure leaves what was there before, and no
    half-written file.

    Args:
        path: the final name; its folder is made.
        write: is given the temporary path, on the same file system.

    Raises:
        OSError: no room, no permission.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        write(temporary)
        # safetensors makes files for their owner alone; ours are as open as any new file here.
        temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file as :func:`write_atomically` does.

    Args:
        path: the final name.
        tensors: contiguous, on the CPU.
        metadata: for the header.

    Raises:
        OSError: no room, no permission.
    """

    def write(part: Path) -> None:
        try:
            save_file(dict(tensors), part, None if metadata is None else dict(metadata))
        except SafetensorError as error:  # also what a full disk is to the library
            raise OSError(f"{path} could not be written: {error}") from error

    write_atomically(path, write)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows cannot open folders, and renames durably by itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
