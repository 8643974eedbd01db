from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from dpo_core.saving import tensor_file
from dpo_core.saving.tensor_file import DamagedFile, read_tensors, write_tensors

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "scalar": torch.tensor(1.5, dtype=torch.float64),
    "half": torch.tensor([1.0, -2.0, 3.0], dtype=torch.bfloat16),
    "whole": torch.tensor([2**40], dtype=torch.int64),
    "bytes": torch.tensor([1, 2, 255], dtype=torch.uint8),
    "true": torch.tensor([True, False]),
    "none": torch.empty(0, 4),
    "fp8": torch.tensor([0.5, 2.0]).to(torch.float8_e4m3fn),
}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and torch.equal(one[name].reshape(-1).view(torch.uint8),
                        other[name].reshape(-1).view(torch.uint8))
        for name in one
    )


@pytest.mark.parametrize("checked", [False, True])
def test_the_library_reads_what_is_written(tmp_path: Path, checked: bool) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, TENSORS, {"note": 'a "quoted" note\n'}, checked=checked)
    assert equal(load_file(path), TENSORS)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["note"] == 'a "quoted" note\n'
        assert (tensor_file.CHECKSUM in file.metadata()) is checked
    tensors, metadata = read_tensors(path)
    assert equal(tensors, TENSORS) and metadata["note"] == 'a "quoted" note\n'


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": TENSORS["a"]}, {"state": '{"step": 7}'}, checked=True)
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        try:
            tensors, metadata = read_tensors(path)
        except DamagedFile:
            continue
        # What is left is the name of the checksum itself: the file is then one without.
        assert equal(tensors, {"a": TENSORS["a"]}) and metadata["state"] == '{"step": 7}'
        assert tensor_file.CHECKSUM not in metadata
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFile):
            read_tensors(path)


def test_no_room_at_any_write_is_an_os_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_file, "CHUNK", 8)
    writes = 0

    def poll() -> None:
        nonlocal writes
        writes += 1
        if writes == full_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    full_at = -1
    path = tmp_path / "a.safetensors"
    write_tensors(path, TENSORS, poll=poll)
    path.unlink()
    for full_at in range(1, writes + 1):  # noqa: B007 - poll looks at it
        writes = 0
        with pytest.raises(OSError):
            write_tensors(path, TENSORS, poll=poll)
        assert list(tmp_path.iterdir()) == []


def test_writing_can_be_broken_off_between_pieces(tmp_path: Path) -> None:
    class Stop(BaseException):
        pass

    asked = []

    def poll() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise Stop

    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.zeros(1)})
    with pytest.raises(Stop):
        write_tensors(path, {"a": torch.zeros(4 * tensor_file.CHUNK)}, poll=poll)
    assert [one.name for one in tmp_path.iterdir()] == ["a.safetensors"]
    assert equal(load_file(path), {"a": torch.zeros(1)})
