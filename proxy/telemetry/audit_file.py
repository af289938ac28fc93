"""The audit log's files: appending to them, rotating them, and finding their end after a crash."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from proxy.telemetry.audit_chain import (
    HEAD_BYTES,
    MAX_LINE,
    SLOT,
    Head,
    Link,
    digest,
    head_path,
    lines,
    read_slots,
    rotated,
    rotated_path,
    seal_fault,
)

_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_CHUNK: Final = 64 * 1024


class AuditError(Exception):
    """The audit log cannot be continued as it lies on disk: the message says why."""


class AuditInUseError(AuditError):
    """Another process writes the audit log."""


@dataclass(frozen=True, slots=True)
class Repair:
    """What was cut from the end of the log when it was opened: lines that were not whole.

    Attributes:
        bytes: how many.
        sha256: their hash in hex.
    """

    bytes: int
    sha256: str


class AuditFile:
    """The log at ``path``, locked for this process. Blocking; for one thread at a time.

    Everything up to the head must be on disk as the head says, or the log is not opened: it was
    cut, replaced or edited. What follows the head was written in the moment of a crash: whole
    lines that continue the chain are kept, anything else is cut off.

    Args:
        keep: how many rotated files retention leaves.
        key: the secret of the head's seal, None for none.

    Attributes:
        link: the end of the chain on disk.
        size: bytes in the file that is written.
        repair: what was cut when it was opened, or None.
        fault: why the head could not be written, the lines being on disk; or None.

    Raises:
        AuditError: as above, or if another process holds the log.
        OSError: if the files cannot be read or made.
    """

    def __init__(self, path: Path, *, keep: int, key: bytes | None = None) -> None:
        self._path = path
        self._keep = keep
        self._key = key
        self._fd = -1
        self._torn = False  # whether the last write may have left half of its bytes
        self._suspect = False  # whether the last sync failed
        self._unsynced: list[bytes] = []
        self._synced = 0  # bytes of the file that are on disk
        self.link = Link()
        self.size = 0
        self.repair: Repair | None = None
        self.fault: OSError | None = None
        self._head_fd = os.open(head_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock()
            self._head, self._slot = self._read_head()
            self._recover()
        except BaseException:
            self._release()
            raise

    @property
    def first(self) -> int:
        """``seq`` of the first line of the file that is written."""
        return self._head.first

    @property
    def is_synced(self) -> bool:
        """Whether everything that was written is on disk."""
        return not self._unsynced

    def write(self, data: bytes, link: Link) -> None:
        """Appends whole lines, the last one being ``link``, without waiting for the disk.

        Where others removed the file, cut it or wrote to it, the lines go to the end of what lies
        at ``path`` all the same: the verifier tells what happened, and where.

        Raises:
            OSError: if they could not be written. Nothing counts as written then; call again with
                the same bytes.
        """
        if self._suspect:
            self.sync()
        if self._torn:
            os.ftruncate(self._fd, self.size)
            self._torn = False
        if not self._is_in_place():
            self.sync()
            moved, self._fd = self._fd, os.open(self._path, _APPEND, 0o600)
            os.close(moved)
            self._sync_directory()
        size = os.fstat(self._fd).st_size
        if size != self.size:
            self.sync()
            self.size = self._synced = size
        if not size:
            self._head = replace(self._head, first=self.link.seq + 1)
        self._torn = True
        _write(self._fd, data)
        self._torn = False
        self._unsynced.append(data)
        self.size += len(data)
        self.link = link

    def sync(self) -> None:
        """Returns once everything that was written is on disk, and named by the head.

        Raises:
            OSError: if it is not. After a failed sync the kernel may forget what it could not
                write, so the next call writes it again.
        """
        if not self._unsynced:
            return
        if self._suspect:
            os.ftruncate(self._fd, self._synced)
            _write(self._fd, b"".join(self._unsynced))
        self._suspect = True
        os.fdatasync(self._fd)
        self._suspect = False
        self._unsynced.clear()
        self._synced = self.size
        self._advance()

    def rotate(self, data: bytes, link: Link) -> None:
        """Sets the file aside and begins the next one with ``data``, on disk when it returns.

        Raises:
            OSError: as ``write``.
        """
        self.sync()
        if not self.size:
            self.write(data, link)
            self.sync()
            return
        if self._is_in_place():
            target = rotated_path(self._path, self._head.first)
            if target.exists():
                raise FileExistsError(f"{target} is in the way of the audit log's rotation")
            self._path.rename(target)
        fd = os.open(self._path, _APPEND | os.O_EXCL, 0o600)
        try:
            _write(fd, data)
            os.fsync(fd)
            self._sync_directory()
        except BaseException:
            os.close(fd)
            with suppress(OSError):
                self._path.unlink()
            raise
        os.close(self._fd)
        self._fd, self._torn, self.size = fd, False, len(data)
        self._synced = self.size
        first, self.link = self.link.seq + 1, link
        self._head = replace(self._head, first=first)
        try:
            self._prune()
        except OSError as error:  # the lines are on disk: this is only remembered
            self.fault = error

    def close(self) -> None:
        """Makes everything durable, as far as the disk lets it, and lets go of the files."""
        with suppress(OSError):
            self.sync()
            self._advance(durable=True)
        self._release()

    def _release(self) -> None:
        for fd in (self._fd, self._head_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._head_fd = -1

    def _lock(self) -> None:
        try:
            fcntl.flock(self._head_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"{self._path}: another process writes this audit log"
            raise AuditInUseError(message) from None

    def _read_head(self) -> tuple[Head, int]:
        content = os.pread(self._head_fd, HEAD_BYTES, 0)
        slots = read_slots(content, self._key)
        if self._path.is_dir():
            raise IsADirectoryError(f"{self._path} is a directory, not an audit log")
        begun = rotated(self._path) or (self._path.exists() and self._path.stat().st_size)
        fault = seal_fault(content, self._key)
        if fault and (begun or any(head.seq for head, _ in read_slots(content, None))):
            raise AuditError(
                f"{self._path}: the log is {fault}. Continue it with the key that it was begun "
                "with, or move it away with its .head file, to begin another"
            )
        if slots and not fault:
            return max(slots, key=lambda found: found[0].seq)
        if begun:
            raise AuditError(
                f"{self._path}: the log's end is not known: its .head file is missing or damaged. "
                "Restore it, or move the log away"
            )
        # Before the first line of all: from now on, a log without a head is one that lost it.
        head = Head()
        os.pwrite(self._head_fd, head.render(self._key) * 2, 0)
        os.fsync(self._head_fd)
        self._sync_directory()
        return head, 0

    def _recover(self) -> None:
        """Finds the end of the chain, from the head on."""
        older = rotated(self._path)
        link, start, first = self._head.link, self._head.offset, self._head.first
        for file in [file for name, file in older.items() if name >= first]:
            link, end = _follow(file, start, link)
            if end < file.stat().st_size:
                raise _broken(file, link)
            start, first = 0, link.seq + 1
        if start and not self._path.exists():
            raise _broken(self._path, link)
        self._fd = os.open(self._path, _APPEND, 0o600)
        self._sync_directory()
        self.link, self.size = _follow(self._path, start, link)
        if self.size < self._path.stat().st_size:
            self._cut()
        if not self.size:
            first = self.link.seq + 1
        self._head = replace(self._head, first=first)
        os.fsync(self._fd)
        self._synced = self.size
        self._advance(durable=True)

    def _cut(self) -> None:
        """Cuts off what follows the last good line."""
        hashed, count = sha256(), 0
        with self._path.open("rb") as reader:
            reader.seek(self.size)
            while chunk := reader.read(_CHUNK):
                hashed.update(chunk)
                count += len(chunk)
        self.repair = Repair(count, hashed.hexdigest())
        os.ftruncate(self._fd, self.size)

    def _prune(self) -> None:
        """Deletes what retention does not keep, once the head does not ask for it any more."""
        older = rotated(self._path)
        surplus = [*older][: max(0, len(older) - self._keep)]
        if surplus:
            oldest = next((name for name in older if name > surplus[-1]), self._head.first)
            self._head = replace(self._head, oldest=oldest)
        self._advance(durable=True)
        if self.fault is None:
            for name in surplus:
                older[name].unlink(missing_ok=True)

    def _is_in_place(self) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        here = os.fstat(self._fd)
        return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)

    def _advance(self, *, durable: bool = False) -> None:
        """Writes the head: the lines are on disk by now, so that a failure is only remembered."""
        head = replace(self._head, seq=self.link.seq, hash=self.link.hash, offset=self.size)
        self._head, slot = head, 1 - self._slot
        try:
            os.pwrite(self._head_fd, head.render(self._key), slot * SLOT)
            if durable:
                os.fsync(self._head_fd)
        except OSError as error:
            self.fault = error
        else:
            self._slot, self.fault = slot, None

    def _sync_directory(self) -> None:
        fd = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _follow(file: Path, start: int, link: Link) -> tuple[Link, int]:
    """Follows the chain through ``file`` from ``start``: its end, and where that line ends.

    Raises:
        AuditError: if the line that ends at ``start`` is not ``link``.
    """
    end = start
    with file.open("rb") as reader:
        if start:
            reader.seek(max(0, start - MAX_LINE))
            before = reader.read(min(start, MAX_LINE))
            last = before[:-1].rpartition(b"\n")[2]
            if len(before) != min(start, MAX_LINE) or digest(last) != link.hash:
                raise _broken(file, link)
        reader.seek(start)
        for line in lines(reader):
            try:
                link = link.follows(line)
            except ValueError:
                break
            end += len(line)
    return link, end


def _broken(file: Path, link: Link) -> AuditError:
    return AuditError(
        f"{file}: the log was cut, replaced or edited after record {link.seq} was written: "
        "run audit verify, then restore it, or move it away with its .head file"
    )


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
