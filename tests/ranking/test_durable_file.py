from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest

from dpo_core.ranking.durable_file import whole_file, write_durably


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as pool:
        yield pool


def test_files_get_their_names_only_when_all_are_whole_and_synced(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        events.append("sync")

    def renamed(source: Path, target: Path) -> None:
        assert source.read_bytes() == target.name.encode()
        replace(source, target)
        events.append("rename")

    def write(name: str, file: BinaryIO) -> None:
        file.write(name.encode())
        events.append("write")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    names = [f"{i}.bin" for i in range(5)]
    write_durably({tmp_path / n: lambda file, n=n: write(n, file) for n in names}, pool)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert events == ["write"] * 5 + ["sync"] * 5 + ["rename"] * 5


def test_if_one_fails_none_appears_and_nothing_is_left(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    def fail(file: BinaryIO) -> None:
        raise OSError("No space left on device")

    def write_slowly(file: BinaryIO) -> None:
        time.sleep(0.1)
        file.write(b"x")

    files = {tmp_path / "a": fail, **{tmp_path / f"b{i}": write_slowly for i in range(6)}}
    with pytest.raises(OSError, match="No space"):
        write_durably(files, pool)
    pool.shutdown()  # more of them than threads: the last would begin after the first has failed
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_but_not_what_is_being_written(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    old, fresh, other = (tmp_path / name for name in (".a.1.part", ".b.2.part", "c.part"))
    for path in (old, fresh, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (time.time() - 4000, time.time() - 4000))
    write_durably({tmp_path / "d": lambda file: file.write(b"x")}, pool)
    assert {path.name for path in tmp_path.iterdir()} == {".b.2.part", "c.part", "d"}


def test_a_file_whose_block_fails_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with whole_file(path) as file:
        file.write(b"one")
    with pytest.raises(KeyError), whole_file(path) as file:
        file.write(b"two")
        assert path.read_bytes() == b"one"
        raise KeyError
    assert path.read_bytes() == b"one" and list(tmp_path.iterdir()) == [path]
