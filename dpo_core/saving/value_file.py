"""Nested values with tensors in them, as the bytes of one safetensors file.

Nothing in it can run: no pickle. What was cut off or changed is noticed when it is read.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from .tensor_file import CHECKSUM, DamagedFile

FORM = "form"
MAX_HEADER = 1 << 20
"""Bytes. A header says names and shapes; one that is longer is none of ours."""
_DTYPES = {
    str(dtype): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
        torch.int16, torch.int8, torch.uint8, torch.bool,
    )
}  # fmt: skip


class NotPlain(TypeError):
    """The value holds something else than tensors, numbers, texts, None, lists, tuples, dicts."""


def value_bytes(value: Any) -> bytes:
    """The file of a value. fp32 that fits into 16 bits without loss takes no more than these.

    Raises:
        NotPlain: the value cannot be kept.
    """
    tensors: dict[str, Tensor] = {}
    try:
        form = json.dumps(_form(value, tensors), separators=(",", ":"))
    except (RecursionError, ValueError) as error:
        raise NotPlain(f"cannot be kept: {error}") from error
    data = save(tensors, metadata={FORM: form, CHECKSUM: _checksum(form, tensors)})
    if _header_length(data) > MAX_HEADER:
        raise NotPlain("has too many parts to be kept")
    return data


def value_of(data: bytes) -> Any:
    """The value in the bytes of a file; its tensors are on the CPU and its own.

    Raises:
        DamagedFile: these are not the bytes that :func:`value_bytes` has given.
    """
    try:
        length = _header_length(data)
        if length > min(MAX_HEADER, len(data) - 8):
            raise DamagedFile("its header does not fit")
        notes = json.loads(data[8 : 8 + length])["__metadata__"]
        form, checksum = notes[FORM], notes[CHECKSUM]
        tensors = load(data)
        if checksum != _checksum(form, tensors):
            raise DamagedFile("it is not what was written")
        return _value(json.loads(form), tensors)
    except DamagedFile:
        raise
    # From bytes that someone else has written, these raise what they please.
    except (SafetensorError, ArithmeticError, AttributeError, LookupError, RecursionError,
            RuntimeError, TypeError, ValueError, struct.error) as error:  # fmt: skip
        raise DamagedFile(f"it cannot be read: {error}") from error


def _header_length(data: bytes) -> int:
    return int(struct.unpack("<Q", data[:8])[0])


def _form(value: Any, tensors: dict[str, Tensor]) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (Tensor, torch.nn.Parameter) and str(value.dtype) in _DTYPES:
        name = str(len(tensors))
        # A copy: the library refuses tensors that share memory.
        tensors[name] = _narrowed(value.detach().cpu().contiguous().clone())
        return {"tensor": name, "dtype": str(value.dtype)}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_form(one, tensors) for one in value]}
    if type(value) is dict and all(type(key) is str for key in value):
        return {"dict": [[key, _form(one, tensors)] for key, one in value.items()]}
    raise NotPlain(f"holds a {type(value).__name__}")


def _value(form: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(form, dict):
        return form
    if "tensor" in form:
        return tensors[form["tensor"]].to(_DTYPES[form["dtype"]])
    ((kind, content),) = form.items()
    if kind == "dict":
        return {str(key): _value(one, tensors) for key, one in content}
    made = [_value(one, tensors) for one in content]
    return {"list": made, "tuple": tuple(made)}[kind]


def _narrowed(tensor: Tensor) -> Tensor:
    """What a model has computed in 16 bits and the host handed over in 32 is 16 bits again."""
    if tensor.dtype == torch.float32:
        for dtype in (torch.bfloat16, torch.float16):
            narrow = tensor.to(dtype)
            if torch.equal(narrow.float(), tensor):
                return narrow
    return tensor


def _checksum(form: str, tensors: dict[str, Tensor]) -> str:
    found = zlib.crc32(form.encode())
    for name in sorted(tensors):
        one = tensors[name]
        found = zlib.crc32(f"{name}{one.dtype}{tuple(one.shape)}".encode(), found)
        flat: Any = one.reshape(-1).view(torch.uint8).numpy()
        found = zlib.crc32(flat, found)
    return f"{found:08x}"
