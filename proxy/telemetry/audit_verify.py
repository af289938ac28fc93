"""Finds every edit, drop, reorder, insertion and truncation of an audit log, in constant memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from proxy.telemetry.audit_chain import (
    GENESIS,
    HEAD_BYTES,
    MAX_LINE,
    MAX_WORKERS,
    SLOT,
    ForgedHeadError,
    Head,
    Link,
    chain_path,
    chain_paths,
    digest,
    head_path,
    lines,
    read_record,
    read_slots,
    rotated,
    seal_fault,
)

_SHOWN: Final = 100
_SNAPSHOTS: Final = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """One place where the log is not as it was written.

    Attributes:
        kind: ``edited``, ``missing``, ``repeated``, ``unreadable``, ``truncated`` or ``head``.
        file: the file's name.
        line: the line, from 1; 0 if it is about no line.
        message: what is wrong.
    """

    kind: str
    file: str
    line: int
    message: str


@dataclass(slots=True)
class Report:
    """What a log holds, and what is wrong with it.

    Attributes:
        files: names, oldest first.
        records: how many lines are records.
        first: ``seq`` of the first one; above 1 once retention has deleted older files.
        last: the end of the chain; noted elsewhere, it can be demanded of a later verification.
        findings: the first hundred.
        found: how many there are.
        torn_bytes: bytes after the last whole line of the file that is written: a crash left them,
            or the writer is at work.
        beyond_head: records after the one that the head names, chained but not yet vouched for.
        dropped: exchanges that the log says it lost, as the disk was full or too slow.
        workers: how many workers there were at the last start that is recorded; 0: not one of
            several.
        sealed: whether the head's HMAC was checked with the key.
    """

    files: list[str] = field(default_factory=list)
    records: int = 0
    first: int = 0
    last: Link = field(default_factory=Link)
    findings: list[Finding] = field(default_factory=list)
    found: int = 0
    torn_bytes: int = 0
    beyond_head: int = 0
    dropped: int = 0
    workers: int = 0
    sealed: bool = False

    @property
    def ok(self) -> bool:
        """Whether the log is as it was written."""
        return not self.found


Seen = Callable[[dict[str, Any]], None]
"""Gets each record, in the order of its chain, in the pass that verifies it."""


def verify(
    path: Path,
    *,
    key: bytes | None = None,
    expect: Link | None = None,
    seen: Seen | None = None,
) -> Report:
    """Checks the log at ``path`` with all its rotated files. The writer may be at work.

    Args:
        key: the secret of the head's seal; None: a seal is not checked.
        expect: a record that must be there, as ``last`` of an earlier report. With it, the log
            needs no head.
        seen: gets each record. That it was intact is known at the end.

    Raises:
        OSError: if a file cannot be read.
    """
    return _Verification(path, key, expect, seen).run()


def verify_chains(
    path: Path,
    *,
    key: bytes | None = None,
    expect: Mapping[str, Link] | None = None,
    seen: Callable[[str], Seen] | None = None,
) -> dict[str, Report]:
    """Checks every chain that is kept under ``path``: its own, and each worker's.

    A chain of a worker that the others know of, and that is not there, is one with a missing head.

    Args:
        expect: records that must be there, by the file name of their chain.
        seen: by the file name of a chain, what gets each of its records.

    Returns:
        the reports by the file name of the chain; none if there is no log at all.

    Raises:
        OSError: if a file cannot be read.
    """
    wanted = expect or {}
    chains = chain_paths(path)
    reports = {}
    for worker, chain in chains.items():
        reports[worker] = verify(
            chain,
            key=key,
            expect=wanted.get(chain.name),
            seen=None if seen is None else seen(chain.name),
        )
    known = range(1, max((report.workers for report in reports.values()), default=0) + 1)
    chains |= {worker: chain_path(path, worker) for worker in known}
    for worker in set(chains) - set(reports):
        reports[worker] = verify(chains[worker], key=key, expect=wanted.get(chains[worker].name))
    return {chains[worker].name: reports[worker] for worker in sorted(reports)}


class _Verification:
    def __init__(
        self, path: Path, key: bytes | None, expect: Link | None, seen: Seen | None
    ) -> None:
        self._path = path
        self._key = key
        self._seen = seen
        self._report = Report()
        self._wanted: dict[int, str] = {} if expect is None else {expect.seq: expect.hash}
        self._head: Head | None = None
        self._oldest = 1
        self._needs_head = expect is None
        self._link: Link | None = None
        self._place = (path.name, 0)

    def run(self) -> Report:
        """Reads everything once."""
        report = self._report
        # The head first: whatever the writer adds meanwhile is beyond it.
        self._read_head()
        for name, file, is_last in self._files():
            report.files.append(name)
            self._read(name, file, is_last=is_last)
        report.last = self._link or Link()
        self._check_end()
        return report

    def _find(self, kind: str, message: str, place: tuple[str, int] | None = None) -> None:
        self._report.found += 1
        if len(self._report.findings) < _SHOWN:
            self._report.findings.append(Finding(kind, *(place or self._place), message))

    def _read_head(self) -> None:
        place = (head_path(self._path).name, 0)
        try:
            content = self._head_on_disk()
        except FileNotFoundError:
            if self._needs_head:
                self._find("head", "missing: whether the log's end was cut cannot be told", place)
            return
        for index in range(2):
            try:
                Head.parse(content[index * SLOT : (index + 1) * SLOT], self._key)
            except ForgedHeadError as error:
                self._find("head", f"slot {index} is forged: {error}", place)
            except ValueError:
                pass  # torn, as a crash leaves one of them
        head = self._newest(content)
        if head is None:
            self._find("head", seal_fault(content, self._key) or "damaged", place)
            return
        self._head, self._oldest = head, head.oldest
        self._report.sealed = self._key is not None
        if head.seq:
            self._wanted.setdefault(head.seq, head.hash)
            if self._wanted[head.seq] != head.hash:
                self._find("head", f"record {head.seq} is not the expected one", place)

    def _head_on_disk(self) -> bytes:
        with head_path(self._path).open("rb") as file:
            return file.read(HEAD_BYTES)

    def _newest(self, content: bytes) -> Head | None:
        slots = read_slots(content, self._key)
        return max((head for head, _ in slots), key=lambda head: head.seq, default=None)

    def _files(self) -> Iterator[tuple[str, BinaryIO, bool]]:
        """Every file of the log, oldest first, and whether it is the one that is written."""
        live, older = self._snapshot()
        with live or nullcontext():
            for first, path in older.items():
                try:
                    file = path.open("rb")
                except FileNotFoundError:
                    self._skip(first)
                    continue
                with file:
                    yield path.name, file, False
            if live is not None:
                yield self._path.name, live, True

    def _snapshot(self) -> tuple[BinaryIO | None, dict[int, Path]]:
        """The written file, open, and the rotated ones as they were when it was the written one."""
        for _ in range(_SNAPSHOTS):
            try:
                live = self._path.open("rb")
            except FileNotFoundError:
                live = None
            older = rotated(self._path)
            if live is None or _is_at(live, self._path):
                return live, older
            live.close()  # it was rotated meanwhile
        raise OSError(f"{self._path} is rotated faster than it can be read")

    def _skip(self, first: int) -> None:
        """The file was deleted meanwhile: by retention, if the head asks for it no more."""
        self._reread_oldest()
        if self._oldest > first:
            self._link = None

    def _reread_oldest(self) -> None:
        head = None if self._head is None else self._newest(self._head_on_disk())
        if head is not None:
            self._oldest = max(self._oldest, head.oldest)

    def _read(self, name: str, file: BinaryIO, *, is_last: bool) -> None:
        for number, line in _numbered(file):
            self._place = (name, number)
            if line.endswith(b"\n"):
                self._take(line[:-1])
            elif is_last and len(line) < MAX_LINE:
                self._report.torn_bytes = len(line)
            else:
                self._find("unreadable", "the line does not end, or is too long for a record")

    def _take(self, line: bytes) -> None:
        try:
            record = read_record(line)
        except ValueError as error:
            self._find("unreadable", f"edited or inserted: {error}")
            return
        seq: int = record["seq"]
        if self._link is None:
            self._check_start(record)
        else:
            self._check_link(record, self._link)
        self._link = Link(seq, digest(line))
        self._report.records += 1
        if self._seen is not None:
            self._seen(record)
        wanted = self._wanted.pop(seq, None)
        if wanted is not None and wanted != self._link.hash:
            self._find("edited", f"record {seq} is not the one that was vouched for")
        if self._head is not None and seq > self._head.seq:
            self._report.beyond_head += 1
        lost = record.get("records")
        if record.get("type") == "dropped" and type(lost) is int:
            self._report.dropped += lost
        workers = record.get("workers", 0)
        if record.get("type") == "started" and type(workers) is int:
            self._report.workers = min(workers, MAX_WORKERS)
        self._last_place = self._place

    def _check_start(self, record: dict[str, Any]) -> None:
        seq = record["seq"]
        self._report.first = self._report.first or seq
        if seq > self._oldest:
            self._reread_oldest()
        oldest = self._oldest
        if seq == 1 and record["prev"] != GENESIS:
            self._find("edited", "record 1 names a record before it")
        if self._head is not None and seq > oldest:
            self._find("missing", f"records {oldest} to {seq - 1}, which retention has not deleted")

    def _check_link(self, record: dict[str, Any], link: Link) -> None:
        seq = record["seq"]
        if seq > link.seq + 1:
            gone = (
                f"record {seq - 1}"
                if seq == link.seq + 2
                else f"records {link.seq + 1} to {seq - 1}"
            )
            self._find("missing", f"{gone} before this one")
        elif seq <= link.seq:
            self._find("repeated", f"record {seq} after record {link.seq}: inserted or moved")
        elif record["prev"] != link.hash:
            message = f"record {link.seq} is not the one that record {seq} follows"
            self._find("edited", message, self._last_place)

    def _is_deleted(self, seq: int) -> bool:
        """Whether retention deleted the head's record while the log was read."""
        if self._head is None or seq != self._head.seq:
            return False
        self._reread_oldest()
        return self._oldest > seq

    def _check_end(self) -> None:
        first, last = self._report.first, self._report.last.seq
        unseen = [seq for seq in self._wanted if seq > last]
        if unseen:
            seq = min(unseen)
            gone = f"record {seq}" if seq == last + 1 else f"records {last + 1} to {seq}"
            self._find("truncated", f"{gone}: gone after this line")
        for seq in self._wanted:
            if seq < first and not self._is_deleted(seq):
                place = (self._path.name, 0)
                self._find("missing", f"record {seq} was expected, the log begins later", place)


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _numbered(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers; of a line that is too long only its first piece, unended."""
    number, within = 0, False
    for line in lines(file):
        if not within:
            number += 1
            yield number, line
        within = not line.endswith(b"\n") and len(line) == MAX_LINE
