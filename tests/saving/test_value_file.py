from __future__ import annotations

import json
import pickle
import struct
import zlib
from typing import Any

import pytest
import torch

from dpo_core.saving.tensor_file import DamagedFile
from dpo_core.saving.value_file import MAX_HEADER, NotPlain, value_bytes, value_of

COMPUTED_IN_32 = torch.tensor([0.1, -0.0, 3.0])
COMPUTED_IN_16 = COMPUTED_IN_32.bfloat16().float()


def entry() -> list[Any]:
    """A prompt's conditioning with everything in it that may be."""
    shared = torch.arange(6).reshape(2, 3)
    options = {
        "pooled_output": None,
        "guidance": 3.5,
        "attention_mask": shared,
        "the same": shared.T,
        "reference_latents": [COMPUTED_IN_16, torch.tensor(True)],
        "size": (8, 16),
        "empty": torch.zeros(0, 4),
        "name": "größe",
    }
    return [COMPUTED_IN_32, options]


def assert_equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert one.numpy().tobytes() == other.contiguous().numpy().tobytes()
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other


def test_a_value_comes_back_to_the_last_bit() -> None:
    assert_equal(value_of(value_bytes(entry())), entry())


def test_what_was_computed_in_16_bits_takes_16_bits() -> None:
    whole, half = (torch.cat([one] * 1000) for one in (COMPUTED_IN_32, COMPUTED_IN_16))
    assert len(value_bytes(whole)) - len(value_bytes(half)) == pytest.approx(3000 * 2, abs=16)
    precise = torch.cat([torch.tensor([1 + 2**-10])] * 3000)  # fp16 has it, bf16 does not
    assert len(value_bytes(precise)) == pytest.approx(len(value_bytes(half)), abs=16)
    assert_equal(value_of(value_bytes(precise)), precise)


COMPLEX = torch.zeros(2, dtype=torch.cfloat)


@pytest.mark.parametrize("value", [{1: 2}, object(), {"a": {3}}, COMPLEX])
def test_what_cannot_be_kept_is_refused(value: Any) -> None:
    with pytest.raises(NotPlain):
        value_bytes([value])


def test_every_cut_and_every_changed_byte_is_noticed() -> None:
    data = value_bytes([torch.arange(8), {"a": 1.5}])
    value = value_of(data)
    for end in range(len(data)):
        with pytest.raises(DamagedFile):
            value_of(data[:end])
    for i in range(len(data)):
        changed = data[:i] + bytes([data[i] ^ 4]) + data[i + 1 :]
        try:
            assert_equal(value_of(changed), value)  # white space in a header says nothing
        except DamagedFile:
            continue


def header(content: Any, length: int | None = None) -> bytes:
    text = json.dumps(content).encode() if not isinstance(content, bytes) else content
    return struct.pack("<Q", len(text) if length is None else length) + text


def noted(form: str) -> bytes:
    """A well-made file of no tensors with this form."""
    notes = {"form": form, "checksum": f"{zlib.crc32(form.encode()):08x}"}
    return header({"__metadata__": notes})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\3\4",
        pickle.dumps([1, 2]),
        header({}, 2**63),
        header({}, MAX_HEADER + 1) + b" " * (MAX_HEADER + 2),
        header(b"[" * 100_000),
        header({"__metadata__": []}),
        header([1]),
        noted('{"tensor": "7", "dtype": "torch.float32"}'),
        noted('{"tensor": ["7"], "dtype": {}}'),
        noted('{"list": 5}'),
        noted('{"dict": [["a"]]}'),
        noted('{"eval": ["1"]}'),
        noted('{"list": [], "dict": []}'),
        noted("9" * 10_000),
        noted("{"),
    ],
)
def test_hostile_bytes_are_damage_and_nothing_else(data: bytes) -> None:
    assert value_of(noted('{"list": [1]}')) == [1]
    with pytest.raises(DamagedFile):
        value_of(data)
