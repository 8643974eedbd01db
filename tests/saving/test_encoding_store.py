from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dpo_core.saving.encoding_store import EncodingStore, entry_key

KEYS = [entry_key("latent", i) for i in range(8)]
KIB = 1024


def value(seed: int = 0) -> torch.Tensor:
    """About a KiB on disk."""
    return torch.randn(192, generator=torch.Generator().manual_seed(seed))


def kept(folder: Path, seeds: list[int], **settings: Any) -> EncodingStore:
    store = EncodingStore(folder, **settings)
    for seed in seeds:
        store.put(KEYS[seed], value(seed))
    return store


def found(folder: Path) -> list[int]:
    """Which entries a later run finds whole; each must be the one of its key."""
    store = EncodingStore(folder)
    whole = {seed: store.get(key) for seed, key in enumerate(KEYS)}
    assert all(torch.equal(one, value(seed)) for seed, one in whole.items() if one is not None)
    return [seed for seed, one in whole.items() if one is not None]


def test_a_later_run_finds_what_was_kept(tmp_path: Path) -> None:
    folder = tmp_path / "dpo" / "cache"
    assert found(folder) == [] and not folder.exists()
    kept(folder, [0, 3])
    assert found(folder) == [0, 3]
    kept(folder, [0, 3])
    assert len(list(folder.iterdir())) == 2


def test_a_key_tells_its_parts_apart() -> None:
    assert len({entry_key(*parts) for parts in (("a", "b"), ("ab",), ("b", "a"), ("a", 1))}) == 4


def age(folder: Path, *oldest_first: int) -> None:
    for i, seed in enumerate(oldest_first):
        os.utime(folder / f"{KEYS[seed]}.safetensors", (i + 1, i + 1))


def test_beyond_the_limit_the_longest_unused_goes_first(tmp_path: Path) -> None:
    kept(tmp_path, [0, 1, 2, 3])
    age(tmp_path, 1, 0, 3, 2)
    size = sum(one.stat().st_size for one in tmp_path.iterdir()) // 4
    assert EncodingStore(tmp_path).get(KEYS[1]) is not None  # used: now the newest
    kept(tmp_path, [4], limit=4 * size + size // 2)
    assert found(tmp_path) == [1, 2, 3, 4]


def test_what_one_run_needs_beyond_the_limit_is_kept_as_far_as_it_goes(tmp_path: Path) -> None:
    said: list[str] = []
    kept(tmp_path, [7])
    size = next(tmp_path.iterdir()).stat().st_size
    kept(tmp_path, [0, 1, 2, 3, 4], limit=3 * size + size // 2, tell=said.append)
    assert found(tmp_path) == [0, 1, 2]  # the older one went, not the first of these
    assert len(said) == 1 and "full" in said[0]


def test_a_quarter_of_what_the_disk_has_is_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=6 * KIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    kept(tmp_path, list(range(8)))
    assert found(tmp_path) == [0]  # 1.5 KiB for entries of nearly one


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "my notes.txt"
    mine.write_text("x" * 4 * KIB)
    kept(tmp_path, list(range(8)), limit=3 * KIB)
    assert mine.read_text() == "x" * 4 * KIB


def path_of(folder: Path, seed: int) -> Path:
    return folder / f"{KEYS[seed]}.safetensors"


def spoil_with_a_link(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    elsewhere.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(elsewhere)


def spoil_with_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def test_a_file_too_large_to_be_an_entry_goes_first_however_new_it_is(tmp_path: Path) -> None:
    kept(tmp_path, [0, 1])
    os.truncate(path_of(tmp_path, 0), 1 << 40)
    os.utime(path_of(tmp_path, 1), (0, 0))
    kept(tmp_path, [2])
    assert found(tmp_path) == [1, 2]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: os.truncate(path, 1 << 40),
        spoil_with_a_link,
        spoil_with_a_pipe,
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="links and pipes")
def test_a_spoiled_entry_is_not_found_and_is_written_anew(tmp_path: Path, spoil: Any) -> None:
    folder = tmp_path / "cache"
    kept(folder, [0, 1])
    spoil(path_of(folder, 0))
    assert found(folder) == [1]
    kept(folder, [0])
    assert found(folder) == [0, 1]
    elsewhere = tmp_path / "elsewhere"
    if elsewhere.exists():  # what a link pointed to is not written through
        elsewhere.unlink()
        assert found(folder) == [0, 1]


def test_a_folder_deleted_while_in_use_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    store = kept(folder, [0])
    shutil.rmtree(folder)
    assert store.get(KEYS[0]) is None
    store.put(KEYS[1], value(1))
    assert found(folder) == [1]


def test_a_folder_that_is_a_file_is_said_once_and_done_without(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.write_text("")
    said: list[str] = []
    store = kept(folder, [0, 1, 2], tell=said.append)
    assert store.get(KEYS[0]) is None and folder.read_text() == ""
    (line,) = said
    assert "Encoding goes on without it." in line and str(tmp_path) not in line


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is full")
def test_a_full_disk_is_said_once_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpo_core.saving import encoding_store

    said: list[str] = []
    kept(tmp_path, [0])
    with monkeypatch.context() as full:
        full.setattr(encoding_store, "_write", lambda p, data: Path("/dev/full").write_bytes(data))
        kept(tmp_path, [1, 2], tell=said.append)
    (line,) = said
    assert "No space left" in line
    assert found(tmp_path) == [0] and len(list(tmp_path.iterdir())) == 1


def write_for_ever(folder: Path, going: Any) -> None:
    torch.set_num_threads(1)  # a child has none of its parent's threads
    for i in range(10**6):
        kept(folder, list(range(8)))
        if i == 2:
            going.set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children that are quickly there")
def test_two_writers_that_are_killed_leave_only_whole_entries(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    events = [context.Event() for _ in range(2)]
    writers = [context.Process(target=write_for_ever, args=(tmp_path, one)) for one in events]
    for writer in writers:
        writer.start()
    try:
        assert all(event.wait(60) for event in events)
    finally:
        for writer in writers:
            writer.kill()
            writer.join()
    assert found(tmp_path) == list(range(8))


def test_what_a_killed_writer_has_left_behind_is_swept_an_hour_later(tmp_path: Path) -> None:
    for name, age_in_s in (("left", 3700), ("being written", 60)):
        part = tmp_path / f".{name}.part"
        part.write_text("half")
        os.utime(part, (time.time() - age_in_s,) * 2)
    kept(tmp_path, [0])
    assert {path.name for path in tmp_path.glob(".*")} == {".being written.part"}
