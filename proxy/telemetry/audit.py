"""The audit log: one record of every exchange, hash-chained, on disk in groups.

What it promises:

- ``batched``: answers do not wait. Records are handed to the kernel every ``interval`` (20 ms), and
  are synced to disk every ``sync_interval`` (0.2 s). So ``kill -9`` loses those of the last few
  milliseconds, a power cut those of the last fifth of a second and of a sync under way; nothing
  older. Where the disk is slow, the queue is lost too: at most ``limit`` records.
- ``released``: ``await released(ticket)`` returns True once the record is on disk, so that no
  answer leaves before. Whatever ends the process, every released answer has its record.

A disk that is full or too slow: records wait in a queue that is bounded in number and in bytes.
Beyond it ``append`` takes nothing and says so, for the failure mode to decide; writing goes on
being tried, and the first record after the gap tells how many were lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import structlog

from proxy.telemetry.audit_chain import Link, digest, rotated_path
from proxy.telemetry.audit_file import AuditError, AuditFile, AuditInUseError
from proxy.telemetry.audit_line import Lines
from proxy.telemetry.audit_writer import Group, Writer
from proxy.telemetry.record import Record

__all__ = [
    "Audit",
    "AuditError",
    "AuditInUseError",
    "AuditLog",
    "AuditOptions",
    "AuditState",
    "NoAudit",
]

_log = structlog.get_logger("bartizan.audit")

Durability: TypeAlias = Literal["batched", "released"]


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """How the log is kept.

    Attributes:
        rotate_bytes: the size at which a new file is begun.
        keep: rotated files that retention leaves.
        key: the secret of the head's seal, None for none.
        interval: seconds over which records are gathered before they are written, when batched.
        sync_interval: seconds over which written records are gathered before they are synced.
        limit: records that may wait to be written.
        limit_bytes: bytes of records that may wait.
        patience: seconds for which ``released`` waits, and ``close`` for a disk that fails.
    """

    durability: Durability = "batched"
    rotate_bytes: int = 256 * 2**20
    keep: int = 16
    key: bytes | None = field(default=None, repr=False)
    interval: float = 0.02
    sync_interval: float = 0.2
    limit: int = 16_384
    limit_bytes: int = 64 * 2**20
    patience: float = 1.0


@dataclass(frozen=True, slots=True)
class AuditState:
    """The audit log at one moment.

    Attributes:
        written: records written since the start; synced as well, where answers wait for it.
        dropped: exchanges lost since the start, as the queue was full.
        queued: records that wait to be written.
        limit: how many may wait.
        fault: why the last attempt to write failed, "" if it did not.
    """

    written: int = 0
    dropped: int = 0
    queued: int = 0
    limit: int = 0
    fault: str = ""


class Audit(Protocol):
    """What the pipeline needs of an audit log. One loop, one thread."""

    @property
    def waits(self) -> bool:
        """Whether answers wait for ``released``."""

    @property
    def full(self) -> bool:
        """Whether ``append`` would take nothing now."""

    def append(self, record: Record) -> int | None:
        """Takes in an exchange that is over; a ticket for ``released``, or None if the queue is
        full: the record is lost, counted, and the failure mode decides.
        """

    async def released(self, ticket: int) -> bool:
        """True once the record is on disk, or at once where answers do not wait for it; False if
        the log cannot be written, or not within its patience: the failure mode decides. The record
        stays in the queue all the same.
        """

    def event(self, kind: str, /, **fields: Any) -> None:
        """Records something else, as a configuration that was loaded."""

    def state(self) -> AuditState | None:
        """Figures for the metrics, None without a log."""

    async def close(self) -> None:
        """Writes what waits, and ends."""


class NoAudit:
    """Keeps nothing: where no audit log is configured."""

    waits = False
    full = False

    def append(self, record: Record) -> int | None:
        """As ``Audit``."""
        return 0

    async def released(self, ticket: int) -> bool:
        """As ``Audit``."""
        return True

    def event(self, kind: str, /, **fields: Any) -> None:
        """As ``Audit``."""

    def state(self) -> AuditState | None:
        """As ``Audit``."""
        return None

    async def close(self) -> None:
        """As ``Audit``."""


class AuditLog:
    """The audit log at ``path``. Make it in the loop's thread, while the loop runs.

    A record is rendered a little later than it is appended, so it must not change any more.

    Args:
        clock: monotonic seconds, the one of ``Record``.
        wall: seconds since the epoch.
        started: what the record of this start says, as the version.
        file: opens the log's file.

    Attributes:
        waits: as ``Audit``.

    Raises:
        AuditError: if the log was cut or edited, or another process writes it.
        OSError: if it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        options: AuditOptions,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        started: Mapping[str, Any] | None = None,
        file: Callable[..., AuditFile] = AuditFile,
    ) -> None:
        self._options = options
        self._clock = clock
        self._wall = wall
        self._path = path
        self.waits = options.durability == "released"
        self._loop = asyncio.get_running_loop()
        self._lines = Lines()
        # What the loop has taken in, and not yet handed to the writer: records, and other lines.
        self._queue: list[Record | bytes] = []
        self._due: asyncio.Handle | None = None
        self._ticket = 0
        self._waiting: deque[tuple[int, asyncio.Future[bool]]] = deque()
        self._dropped = self._untold = 0
        self._backlog = 0
        self._closed = False
        self._file = file(path, keep=options.keep, key=options.key)
        self._link = self._file.link
        self._size = self._file.size
        self._first = self._file.first
        try:
            self._begin(started or {})
        except BaseException:
            self._file.close()
            raise
        self._writer = Writer(
            self._file,
            sync_interval=0.0 if self.waits else options.sync_interval,
            tell=self._wake,
            clock=clock,
        )

    @property
    def full(self) -> bool:
        """As ``Audit``."""
        writer, options = self._writer, self._options
        return (
            self._ticket - writer.done >= options.limit
            or self._backlog - writer.bytes >= options.limit_bytes
            or self._closed
        )

    def append(self, record: Record) -> int | None:
        """As ``Audit``."""
        if self.full:
            self._dropped += 1
            self._untold += 1
            return None
        if self._untold:
            self._tell_dropped()
        self._queue.append(record)
        self._ticket += 1
        if self._due is None:
            self._schedule()
        return self._ticket

    async def released(self, ticket: int) -> bool:
        """As ``Audit``."""
        if not self.waits:
            return True
        future: asyncio.Future[bool] = self._loop.create_future()
        self._waiting.append((ticket, future))
        # Only now: the writer looks at who waits after it has said what is on disk.
        if self._writer.done >= ticket or self._writer.fault:
            self._settle()
        # Not asyncio.timeout: that needs a Task, and an exchange runs in none.
        timer = self._loop.call_later(self._options.patience, _give_up, future)
        try:
            return await future
        finally:
            timer.cancel()

    def event(self, kind: str, /, **fields: Any) -> None:
        """As ``Audit``. Not after ``close``."""
        if self._closed:
            return
        self._queue.append(self._lines.event(kind, self._wall(), fields))
        self._ticket += 1
        if self._due is None:
            self._schedule()

    def state(self) -> AuditState:
        """As ``Audit``."""
        return AuditState(
            self._writer.done,
            self._dropped,
            self._ticket - self._writer.done,
            self._options.limit,
            self._writer.fault or str(self._file.fault or ""),
        )

    async def close(self) -> None:
        """As ``Audit``. What a failing disk has not taken within the patience is lost."""
        if self._closed:
            return
        if self._untold:
            self._tell_dropped()
        self.event("closed", dropped=self._dropped)
        self._closed = True
        self._flush()
        stopped = await asyncio.to_thread(self._writer.stop, self._options.patience)
        self._settle()
        lost = self._ticket - self._writer.done
        if lost:
            _log.error("audit records lost at the end", records=lost, fault=self._writer.fault)
        if stopped:
            await asyncio.to_thread(self._file.close)

    def _begin(self, started: Mapping[str, Any]) -> None:
        """Writes the records of this start at once, so that a log that cannot be written shows."""
        now = self._wall()
        lines = []
        if not self._size:
            lines.append(self._lines.event("opened", now, self._opened()))
        lines.append(self._lines.event("started", now, started))
        repair = self._file.repair
        if repair is not None:
            fields = {"bytes": repair.bytes, "sha256": repair.sha256}
            lines.append(self._lines.event("repaired", now, fields))
        data = b"\n".join([self._chain(line) for line in lines]) + b"\n"
        self._file.write(data, self._link)
        self._file.sync()

    def _opened(self) -> dict[str, Any]:
        """What names the file before, once this one is its successor."""
        name = rotated_path(self._path, self._first).name if self._link.seq else ""
        return {"previous": {"file": name, "seq": self._link.seq, "sha256": self._link.hash}}

    def _schedule(self) -> None:
        if self.waits:
            self._due = self._loop.call_soon(self._flush)
        else:
            self._due = self._loop.call_later(self._options.interval, self._flush)

    def _tell_dropped(self) -> None:
        count, self._untold = self._untold, 0
        self._queue.append(self._lines.event("dropped", self._wall(), {"records": count}))
        self._ticket += 1

    def _flush(self) -> None:
        """Renders and chains what was taken in, and hands it to the writer."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        queue, self._queue = self._queue, []
        render, limit = self._lines.exchange, self._options.rotate_bytes
        self._lines.offset = self._wall() - self._clock()
        ticket = self._ticket - len(queue)
        group: list[bytes] = []
        opens = False
        # The chain's end lives in local names here: this loop is most of what a record costs.
        seq, prev, size = self._link.seq, self._link.hash.encode(), self._size
        for item in queue:
            if size >= limit:
                self._link, self._size = Link(seq, prev.decode()), size
                self._hand(group, ticket, opens)
                group, opens = self._open(), True
                seq, prev, size = self._link.seq, self._link.hash.encode(), self._size
            seq += 1
            body = item if isinstance(item, bytes) else render(item)
            line = b'{"seq":%d,"prev":"%b",%b' % (seq, prev, body)
            prev = sha256(line).hexdigest().encode()
            group.append(line)
            size += len(line) + 1
            ticket += 1
        self._link, self._size = Link(seq, prev.decode()), size
        self._hand(group, ticket, opens)

    def _open(self) -> list[bytes]:
        """The first lines of a new file."""
        body = self._lines.event("opened", self._wall(), self._opened())
        self._size, self._first = 0, self._link.seq + 1
        return [self._chain(body)]

    def _chain(self, body: bytes) -> bytes:
        link = self._link
        line = b'{"seq":%d,"prev":"%b",%b' % (link.seq + 1, link.hash.encode(), body)
        self._link = Link(link.seq + 1, digest(line))
        self._size += len(line) + 1
        return line

    def _hand(self, group: list[bytes], ticket: int, opens: bool) -> None:
        if not group:
            return
        data = b"\n".join(group) + b"\n"
        self._backlog += len(data)
        self._writer.put(Group(data, self._link, ticket, opens))

    def _wake(self) -> None:
        """From the writer's thread: something changed."""
        if self._waiting:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        """Answers those who wait, as far as it is known."""
        while self._waiting:
            ticket, future = self._waiting[0]
            if self._writer.done < ticket and not self._writer.fault and not self._closed:
                return
            self._waiting.popleft()
            if not future.done():
                future.set_result(self._writer.done >= ticket)


def _give_up(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)
