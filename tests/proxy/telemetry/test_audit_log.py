"""The audit log as the pipeline uses it: bounded, in order, released only when on disk."""

import asyncio
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import orjson
import pytest
from audit_logs import fill, lines, open_log, record

from proxy.telemetry.audit import AuditError, NoAudit
from proxy.telemetry.audit_chain import rotated
from proxy.telemetry.audit_file import AuditFile
from proxy.telemetry.audit_verify import verify


class Disk(AuditFile):
    """A log on a disk that can be stopped and filled."""

    def __init__(self, path, **options):
        self.full = False
        self.runs = threading.Event()
        self.runs.set()
        self.tried = threading.Event()
        self.wrote = threading.Event()
        super().__init__(path, **options)

    def write(self, data, link):
        self.tried.set()
        assert self.runs.wait(20)
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(data, link)
        self.wrote.set()


async def happens(event):
    assert await asyncio.to_thread(event.wait, 20)
    event.clear()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


def told(path, kind="exchange"):
    records = [orjson.loads(line) for line in lines(path)]
    return [record for record in records if record["type"] == kind]


def ids(path):
    return [record["id"] for record in told(path)]


async def test_records_are_kept_in_order(path):
    log = open_log(path)
    tickets = [log.append(record(number)) for number in range(500)]
    assert tickets == list(range(1, 501))
    assert await log.released(tickets[-1])  # batched: no answer waits
    log.event("configured", configuration="abc")
    await log.close()
    assert ids(path) == [f"id-{number}" for number in range(500)]
    assert told(path, "configured")[0]["configuration"] == "abc"
    state = log.state()
    assert (state.written, state.queued, state.dropped, state.fault) == (502, 0, 0, "")
    assert verify(path).ok


async def test_nothing_is_taken_after_the_end(path):
    log = open_log(path)
    await log.close()
    await log.close()
    assert log.full
    assert log.append(record()) is None
    assert [entry["type"] for entry in map(orjson.loads, lines(path))][-1] == "closed"


async def test_a_second_log_at_the_same_path_is_refused(path):
    log = open_log(path)
    with pytest.raises(AuditError):
        open_log(path)
    await log.close()


@pytest.mark.parametrize("durability", ["batched", "released"])
async def test_the_queue_is_bounded_and_the_loss_is_told(path, durability):
    log = open_log(path, Disk, limit=10, durability=durability)
    disk = log._file
    disk.tried.clear()
    disk.runs.clear()
    for number in range(10):
        assert not log.full
        assert log.append(record(number)) is not None
    assert log.full
    for number in range(7):
        assert log.append(record(100 + number)) is None
    log._flush()
    await happens(disk.tried)
    assert log.append(record(200)) is None  # handed over is not written
    assert log.state().dropped == 8
    assert log.state().queued == 10
    disk.wrote.clear()
    disk.runs.set()
    await happens(disk.wrote)
    await asyncio.to_thread(lambda: [None for _ in iter(lambda: log.full, False)])
    assert log.append(record(300)) is not None
    await log.close()
    assert ids(path) == [*(f"id-{number}" for number in range(10)), "id-300"]
    dropped = told(path, "dropped")
    assert [entry["records"] for entry in dropped] == [8]
    report = verify(path)
    assert report.ok
    assert report.dropped == 8


async def test_the_queue_is_bounded_in_bytes(path):
    log = open_log(path, Disk, limit_bytes=10_000)
    log._file.runs.clear()
    for number in range(3):
        assert log.append(record(number, notes={"values": "x" * 5000})) is not None
    log._flush()
    assert log.full
    assert log.append(record(4)) is None
    log._file.runs.set()
    await log.close()
    assert told(path, "dropped")[0]["records"] == 1


async def test_a_full_disk_that_is_emptied_loses_nothing(path):
    log = open_log(path, Disk)
    disk = log._file
    disk.full = True
    disk.tried.clear()
    for number in range(5):
        log.append(record(number))
    log._flush()
    await happens(disk.tried)
    await happens(disk.tried)  # it is tried again
    assert "No space" in log.state().fault
    assert log.state().queued == 5
    log.append(record(5))
    disk.wrote.clear()
    disk.full = False
    await happens(disk.wrote)
    await log.close()
    assert log.state().fault == ""
    assert ids(path) == [f"id-{number}" for number in range(6)]
    assert verify(path).ok


async def test_released_means_synced(path, monkeypatch):
    log = open_log(path, durability="released", patience=30)
    assert log.waits
    synced = []
    sync = os.fdatasync

    def note(fd):
        sync(fd)
        synced.append(path.read_bytes())

    monkeypatch.setattr(os, "fdatasync", note)

    async def client(number):
        ticket = log.append(record(number))
        assert await log.released(ticket)
        assert b'"id-%d"' % number in synced[-1]

    await asyncio.gather(*[client(number) for number in range(200)])
    assert len(synced) < 100  # groups, not one sync a record
    await log.close()
    assert verify(path).ok


async def test_no_answer_is_released_while_the_disk_is_full(path):
    log = open_log(path, Disk, durability="released", patience=20)
    disk = log._file
    disk.full = True
    waiting = [asyncio.create_task(log.released(log.append(record(n)))) for n in range(5)]
    assert await asyncio.gather(*waiting) == [False] * 5  # at once: the patience is longer
    assert not await log.released(log.append(record(5)))
    disk.wrote.clear()
    disk.full = False
    await happens(disk.wrote)
    while log.state().fault:
        await asyncio.to_thread(disk.wrote.wait, 0.01)
    assert await log.released(log.append(record(6)))
    await log.close()
    assert ids(path) == [f"id-{number}" for number in range(7)]


async def test_no_answer_waits_longer_than_its_patience(path):
    log = open_log(path, Disk, durability="released", patience=0.02)
    log._file.runs.clear()
    assert not await log.released(log.append(record()))
    log._file.runs.set()
    await log.close()


async def test_a_client_that_leaves_harms_no_other(path):
    log = open_log(path, Disk, durability="released", patience=20)
    log._file.runs.clear()
    first = asyncio.create_task(log.released(log.append(record(1))))
    second = asyncio.create_task(log.released(log.append(record(2))))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    log._file.runs.set()
    assert first.cancelled()
    assert await second
    await log.close()
    assert ids(path) == ["id-1", "id-2"]


async def test_those_who_wait_at_the_end_are_answered(path):
    log = open_log(path, Disk, durability="released", patience=0.05)
    log._file.full = True
    waiting = asyncio.create_task(log.released(log.append(record())))
    await asyncio.sleep(0)
    await log.close()
    assert await waiting is False
    assert log.state().queued == 2


async def test_a_defect_of_the_writer_is_a_fault_not_a_silence(path):
    log = open_log(path, Disk, durability="released", limit=3)

    def explode(*_arguments):
        raise ZeroDivisionError

    log._file.write = explode
    caught = []
    hook, threading.excepthook = threading.excepthook, caught.append
    try:
        assert not await log.released(log.append(record()))
        assert "ZeroDivisionError" in log.state().fault
        log.append(record())
        log.append(record())
        assert log.append(record()) is None
        await log.close()
    finally:
        threading.excepthook = hook
    assert len(caught) == 1


async def test_the_log_cannot_be_opened_where_nothing_can_be_written(tmp_path):
    (tmp_path / "audit.jsonl").mkdir()
    with pytest.raises(OSError, match="directory"):
        open_log(tmp_path / "audit.jsonl")
    with pytest.raises(OSError, match="nowhere"):
        open_log(tmp_path / "nowhere" / "audit.jsonl")


async def test_rotation_carries_the_chain(path):
    log = open_log(path, rotate_bytes=3000, keep=100, durability="released", patience=30)
    for number in range(60):
        assert await log.released(log.append(record(number)))
    for number in range(60, 200):
        log.append(record(number))
    await log.close()
    assert len(rotated(path)) > 10
    for file in rotated(path).values():
        assert 3000 <= file.stat().st_size < 4500
    assert ids(path) == [f"id-{number}" for number in range(200)]
    assert verify(path).ok


def test_a_repair_is_recorded(path):
    fill(path, 3)
    with path.open("ab") as file:
        file.write(b'{"seq":99')
    fill(path, 2)
    repaired = told(path, "repaired")
    assert [entry["bytes"] for entry in repaired] == [9]
    assert len(told(path, "started")) == 2
    assert verify(path).ok


@pytest.mark.parametrize("keep", [2, 1000])
async def test_a_verifier_beside_the_writer_sees_a_whole_log(path, keep):
    log = open_log(path, rotate_bytes=20_000, keep=keep, interval=0.001, sync_interval=0.002)
    done = threading.Event()
    reports = []

    def watch():
        while not done.is_set() or not reports:
            reports.append(verify(path))

    watching = asyncio.get_running_loop().run_in_executor(None, watch)
    for number in range(3000):
        log.append(record(number))
        if number % 20 == 0:
            await asyncio.to_thread(lambda: None)
    await log.close()
    done.set()
    await watching
    assert reports
    assert all(report.ok for report in reports), next(r for r in reports if not r.ok).findings
    assert len(rotated(path)) == 2 if keep == 2 else len(rotated(path)) > 10


def test_a_real_limit_of_the_system(path):
    """RLIMIT_FSIZE cuts writes short and then refuses them; raised, the log goes on."""
    program = """
import asyncio, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from audit_logs import open_log, record

async def main():
    log = open_log(Path(sys.argv[1]), durability="released", limit=30, patience=5)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, most))
    number = released = refused = full = 0
    while not full:
        ticket = log.append(record(number))
        number += 1
        if ticket is None:
            full = 1
        elif await log.released(ticket):
            released += 1
        else:
            refused += 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    while log.full:
        await asyncio.sleep(0.01)
    assert log.append(record(number)) is not None
    await log.close()
    print(number, released, refused)

asyncio.run(main())
"""
    output = subprocess.run(
        [sys.executable, "-c", program, path, Path(__file__).parent],
        capture_output=True,
        text=True,
        check=False,
    )
    assert output.returncode == 0, output.stderr
    number, released, refused = map(int, output.stdout.splitlines()[-1].split())
    assert released > 5
    assert refused == 30
    assert "audit log cannot be written" in output.stdout
    assert "audit log can be written again" in output.stdout
    report = verify(path)
    assert report.ok
    assert report.dropped == 1
    assert ids(path) == [f"id-{n}" for n in range(number + 1) if n != number - 1]


async def test_without_a_log_everything_passes():
    audit = NoAudit()
    assert not audit.waits
    assert not audit.full
    assert await audit.released(audit.append(record()))
    audit.event("configured")
    assert audit.state() is None
    await audit.close()
