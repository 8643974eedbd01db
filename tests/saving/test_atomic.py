from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from dpo_core.saving.atomic import sweep, write_atomically


def text(words: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(words, encoding="utf-8")

    return write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_with_its_content_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "made" / "on demand" / "a.txt"
    write_atomically(path, text("one"))
    assert path.read_text(encoding="utf-8") == "one"
    write_atomically(path, text("two"))
    assert path.read_text(encoding="utf-8") == "two"
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), ValueError("x"), KeyboardInterrupt()],
    ids=["disk full", "error", "interrupt"],
)
@pytest.mark.parametrize("there_before", [True, False])
@pytest.mark.parametrize("begun", [True, False])
def test_a_failed_write_leaves_what_was_there_and_no_remains(
    tmp_path: Path, error: BaseException, there_before: bool, begun: bool
) -> None:
    path = tmp_path / "a.txt"
    if there_before:
        path.write_text("old", encoding="utf-8")

    def fail(part: Path) -> None:
        assert part.parent == tmp_path, "renaming across file systems is not atomic"
        if begun:
            part.write_text("hal", encoding="utf-8")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, fail)
    assert names(tmp_path) == (["a.txt"] if there_before else [])
    assert not there_before or path.read_text(encoding="utf-8") == "old"


def test_while_it_is_written_the_old_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")

    def write(part: Path) -> None:
        part.write_text("ne", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
        part.write_text("new", encoding="utf-8")

    write_atomically(path, write)
    assert path.read_text(encoding="utf-8") == "new"


def test_a_final_name_that_cannot_be_taken_leaves_no_remains(tmp_path: Path) -> None:
    (tmp_path / "a.txt" / "full").mkdir(parents=True)
    with pytest.raises(OSError):
        write_atomically(tmp_path / "a.txt", text("new"))
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_that_is_a_file_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("", encoding="utf-8")
    with pytest.raises(OSError):
        write_atomically(tmp_path / "a" / "b.txt", text("new"))


def test_two_writers_of_one_file_do_not_share_a_part(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"

    def write(part: Path) -> None:
        part.write_text("outer", encoding="utf-8")
        write_atomically(path, text("inner"))
        assert part.read_text(encoding="utf-8") == "outer"

    write_atomically(path, write)
    assert path.read_text(encoding="utf-8") == "outer"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_the_file_may_be_read_by_whom_new_files_may_be_read(tmp_path: Path) -> None:
    """Whatever the writer thinks: a LoRA is shared with people and containers like other files."""

    def private(part: Path) -> None:
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))

    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", private)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_what_a_killed_program_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    for name in (".a.1.part", ".b.2.part", "c.part", ".hidden"):
        (tmp_path / name).write_text("")
    os.utime(tmp_path / ".a.1.part", (0, 0))
    sweep(tmp_path)
    assert names(tmp_path) == [".b.2.part", ".hidden", "c.part"]
    sweep(tmp_path, 0)
    assert names(tmp_path) == [".hidden", "c.part"]
    sweep(tmp_path / "none")


@pytest.mark.skipif(os.name != "posix", reason="other systems sync folders by themselves")
def test_file_and_every_new_folder_are_on_the_disk_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        done.append("sync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.split(".")[0])
        real_fsync(descriptor)

    def replace(*paths: Path) -> None:
        done.append("rename")
        real_replace(*paths)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_atomically(tmp_path / "new" / "er" / "a", text("x"))
    assert done == ["sync new", f"sync {tmp_path.name}", "sync ", "rename", "sync er"]
