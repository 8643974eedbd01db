from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from dpo_core.ranking import vote_log
from dpo_core.ranking.vote_log import LogLockedError, VoteLog

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def ids(path: Path) -> list[str]:
    return [record["id"] for record in VoteLog(path).read().records]


def add(path: Path, *names: str) -> None:
    log = VoteLog(path)
    for name in names:
        log.append({"id": name})


def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    assert VoteLog(tmp_path / "votes.jsonl").read().records == []


def test_records_come_back_in_order_with_every_field_they_had(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    record = {"id": "1", "v": 9, "what": "later\u2028versions", "deep": {"a": [1.5, None]}, "at": 3}
    VoteLog(path).append(record)
    VoteLog(path).append({"id": "2"})
    read = VoteLog(path).read().records
    assert read[0] == record
    assert read[1]["id"] == "2" and abs(read[1]["at"] - time.time() * 1000) < 60_000


def test_the_same_id_counts_once_and_the_first_stays(tmp_path: Path) -> None:
    log = VoteLog(tmp_path / "votes.jsonl")
    first, new = log.append({"id": "1", "x": "first"})
    again, new_again = log.append({"id": "1", "x": "second"})
    assert (new, new_again) == (True, False)
    assert again == first and log.read().records == [first]
    assert len(log.path.read_bytes().splitlines()) == 1


def test_what_the_check_refuses_is_not_written(tmp_path: Path) -> None:
    log = VoteLog(tmp_path / "votes.jsonl")
    log.append({"id": "1"})

    def refuse(seen: VoteLog) -> None:
        assert seen.get("1") is not None
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        log.append({"id": "2"}, refuse)
    assert ids(log.path) == ["1"]


def test_a_log_torn_at_any_byte_keeps_every_whole_line_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    add(path, "1", "2", "caf\u00e9 3")
    whole = path.read_bytes()
    begin_of_last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(begin_of_last, len(whole)):
        path.write_bytes(whole[:cut])
        assert ids(path) == ["1", "2"]
        log = VoteLog(path)
        log.append({"id": "4"})
        reading = VoteLog(path).read()
        names = [record["id"] for record in reading.records]
        if cut == len(whole) - 1:  # only the line break was missing: the vote is whole
            assert names == ["1", "2", "caf\u00e9 3", "4"]
        else:
            assert names == ["1", "2", "4"]
            assert reading.damaged == (cut > begin_of_last)


@pytest.mark.parametrize("rubbish", [b"\0" * 512, b"\xff\xfe{", b'{"id": 5', b"[" * 100_000])
def test_rubbish_left_by_a_power_loss_costs_nothing_but_itself(
    tmp_path: Path, rubbish: bytes
) -> None:
    path = tmp_path / "votes.jsonl"
    add(path, "1")
    with path.open("ab") as file:
        file.write(rubbish)
    add(path, "2")
    reading = VoteLog(path).read()
    assert [record["id"] for record in reading.records] == ["1", "2"]
    assert reading.damaged == 1


def test_lines_that_are_json_but_no_record_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_bytes(b'7\n[]\n{"id": 7}\n{"no": "id"}\n\n{"id": "1"}\n')
    reading = VoteLog(path).read()
    assert [record["id"] for record in reading.records] == ["1"] and reading.damaged == 4


def test_a_reader_takes_in_what_others_added_and_notices_another_file(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    log = VoteLog(path)
    add(path, "1")
    first = log.read()
    add(path, "2")
    second = log.read()
    assert [record["id"] for record in second.records] == ["1", "2"]
    assert second.generation == first.generation and second.digest != first.digest
    other = tmp_path / "backup"
    other.write_bytes(b'{"id":"9"}\n' * 3 + b'{"id":"8"}\n' * 30)
    os.replace(other, path)
    third = log.read()
    assert [record["id"] for record in third.records] == ["9", "8"]
    assert third.generation != second.generation
    path.unlink()
    assert log.read().records == []


def test_a_vote_is_synced_before_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = VoteLog(tmp_path / "votes.jsonl")
    log.append({"id": "0"})
    synced: list[int] = []
    real = os.fsync

    def spy(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    log.append({"id": "1"})
    log.append({"id": "1"})  # its first writer may have died before its sync
    assert synced == [log.path.stat().st_ino] * 2


def test_a_full_disk_leaves_a_log_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = VoteLog(tmp_path / "votes.jsonl")
    log.append({"id": "1"})
    real = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 8:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space"):
        log.append({"id": "2"})
    monkeypatch.setattr(os, "write", real)
    assert ids(log.path) == ["1"]
    log.append({"id": "2"})
    assert ids(log.path) == ["1", "2"]


def test_a_lock_held_by_another_program_ends_in_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vote_log, "LOCK_WAIT_SECONDS", 0.05)
    log = VoteLog(tmp_path / "votes.jsonl")
    with log._locked_for_writing(), pytest.raises(LogLockedError, match="Another program"):
        VoteLog(log.path).append({"id": "1"})
    log.append({"id": "1"})
    assert ids(log.path) == ["1"]


def test_threads_with_one_log_and_with_their_own_lose_and_double_nothing(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    shared = VoteLog(path)

    def write(worker: int) -> None:
        log = shared if worker % 2 else VoteLog(path)
        for i in range(20):
            log.append({"id": f"{worker}-{i}"})
            log.append({"id": f"common-{i}"})

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = ids(path)
    wanted = {f"{worker}-{i}" for worker in range(6) for i in range(20)}
    wanted |= {f"common-{i}" for i in range(20)}
    assert len(path.read_bytes().splitlines()) == len(found) == len(set(found))
    assert set(found) == wanted
    for worker in range(6):  # each writer's own votes stay in the order it made them
        mine = [name for name in found if name.startswith(f"{worker}-")]
        assert mine == [f"{worker}-{i}" for i in range(20)]


def _write_many(path: Path, worker: int, count: int) -> None:
    log = VoteLog(path)
    for i in range(count):
        log.append({"id": f"{worker}-{i}"})
        log.append({"id": f"common-{i}"})


@needs_fork
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_processes_lose_and_double_nothing(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_many, args=(path, one, 25)) for one in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    found = ids(path)
    assert len(path.read_bytes().splitlines()) == len(found) == 4 * 25 + 25
    assert len(set(found)) == len(found)


def _confirm_until_killed(path: Path, run: int, pipe: int) -> None:
    log = VoteLog(path)
    i = 0
    while True:
        name = f"{run}-{i}"
        log.append({"id": name, "filling": "x" * (i * 37 % 3000)})
        os.write(pipe, f"{name}\n".encode())
        i += 1


@needs_fork
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kill_9_at_random_moments_loses_nothing_that_was_confirmed(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    rng = random.Random(20)
    confirmed: list[str] = []
    for run in range(40):
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(ours)
            try:
                _confirm_until_killed(path, run, theirs)
            finally:
                os._exit(1)
        os.close(theirs)
        with os.fdopen(ours, "rb") as pipe:
            first = pipe.readline()  # it is writing now
            time.sleep(rng.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            told = (first + pipe.read()).split(b"\n")[:-1]
        confirmed += [name.decode() for name in told]
        reading = VoteLog(path).read()
        found = [record["id"] for record in reading.records]
        assert len(set(found)) == len(found)
        assert set(confirmed) <= set(found)
        # What was written but not confirmed is at most one vote a killed writer.
        assert len(found) - len(confirmed) <= run + 1
        if run % 4 == 0:  # a machine that stops in the middle of a write tears the line as well
            with path.open("ab") as file:
                file.write(json.dumps({"id": f"torn-{run}"}).encode()[: rng.randrange(1, 12)])
    assert len(confirmed) > 40
