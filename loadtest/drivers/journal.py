"""What an attack asked and was told, kept in a file, so that a broken run goes on where it stopped.

A driver is a function of its seed and of the answers: run again, it asks the same questions as long
as it gets the same answers. So a journal answers them until it is at its end, and the endpoint from
then on. A line is written, and handed to the system, before the driver sees the answer: nothing is
lost by a kill but the line that was being written.

The first line says what was attacked by whom; the others are lists: a number from 0, the digest of
row and client, and the reply.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, Self

import numpy as np

from loadtest.targets.base import Reply, Rows, Said

VERSION: Final = 1
_KIND: Final = "bartizan attack journal"
_DIGEST: Final = 12  # bytes


class JournalError(ValueError):
    """A journal that cannot be used or gone on with: the message says why."""


def digest(row: Rows, client: str) -> str:
    """Of one question."""
    made = hashlib.blake2b(np.ascontiguousarray(row, "<f4").tobytes(), digest_size=_DIGEST)
    made.update(client.encode())
    return made.hexdigest()


class Journal:
    """The journal of one attack: replies of an earlier run, and then this one's.

    Use :meth:`open`.

    Attributes:
        resumed: replies that came from the file so far.
    """

    def __init__(self, path: Path, file: BinaryIO, known: list[tuple[str, Reply]]) -> None:
        self._path = path
        self._file = file
        self._known = known
        self._count = 0
        self.resumed = 0

    @classmethod
    def open(cls, path: Path, about: Mapping[str, Any], *, resume: bool) -> Self:
        """Opens a journal, or begins one.

        A torn last line is cut off, and so are replies at the end that were failures: the endpoint
        may be well again.

        Args:
            path: the file.
            about: what tells this attack from others: it must be the same when it is resumed.
            resume: whether an earlier run may be gone on with.

        Raises:
            JournalError: if there is one that is not to be resumed, or is of another attack, or
                damaged in its midst, or if another attack writes it at this moment.
            OSError: if it cannot be read or written.
        """
        head = {"kind": _KIND, "version": VERSION, **about}
        file = path.open("ab")
        try:
            _lock(path, file)
            known: list[tuple[str, Reply]] = []
            new = not path.stat().st_size
            if not new:
                known, end = _read(path, head, resume=resume)
                file.truncate(end)
            journal = cls(path, file, known)
            if new:
                journal._write(head)
        except BaseException:
            file.close()
            raise
        return journal

    def known(self, question: str) -> Reply | None:
        """The answer that an earlier run got to its next question; None if it had none left.

        Raises:
            JournalError: if it asked another question there.
        """
        if self._count >= len(self._known):
            return None
        asked, reply = self._known[self._count]
        if asked != question:
            raise JournalError(
                f"{self._path}: question {self._count} is another than it was: the data, the "
                "driver or a library has changed; begin anew without the journal"
            )
        self._count += 1
        self.resumed += 1
        return reply

    def add(self, question: str, reply: Reply) -> None:
        """Notes an answer."""
        self._write(
            [
                self._count,
                question,
                reply.said.value,
                reply.status,
                None if reply.scores is None else reply.scores.tolist(),
                reply.label,
                reply.request_id,
                reply.retry_after,
                round(reply.seconds, 6),
                reply.body,
            ]
        )
        self._count += 1

    def close(self) -> None:
        """Ends it."""
        self._file.close()

    def _write(self, line: Any) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        self._file.flush()  # to the system: a kill of this process loses nothing of it


def _lock(path: Path, file: BinaryIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalError(f"{path}: another attack writes it at this moment") from None


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _read(
    path: Path, head: Mapping[str, Any], *, resume: bool
) -> tuple[list[tuple[str, Reply]], int]:
    """The questions and replies of a journal, and where they end in the file.

    Raises:
        JournalError: if it is not to be resumed, or is none of this attack.
    """
    if not resume:
        raise JournalError(f"{path} is there already: resume it, or take it away")
    data = path.read_bytes()
    lines = data.split(b"\n")
    torn = lines.pop()  # nothing, where the last line is whole
    if not lines:
        raise JournalError(f"{path} is no journal: its first line is not whole")
    try:
        found = json.loads(lines[0])
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("kind") != _KIND:
        raise JournalError(f"{path} is no journal of an attack")
    others = [key for key in {**head, **found} if found.get(key) != head.get(key)]
    if others:
        was = ", ".join(f"{key} was {found.get(key)!r}" for key in others)
        raise JournalError(f"{path} is the journal of another attack: {was}")
    known: list[tuple[str, Reply]] = []
    ends = [len(lines[0]) + 1]
    for number, line in enumerate(lines[1:]):
        try:
            known.append(_reply(number, json.loads(line, parse_constant=_no_number)))
        except (ValueError, TypeError, KeyError) as error:
            last = number == len(lines) - 2 and not torn
            if last:  # cut by the system, and ended by a later write
                break
            raise JournalError(f"{path}:{number + 2}: not a reply: {error}") from None
        ends.append(ends[-1] + len(line) + 1)
    while known and known[-1][1].said is Said.FAILED:
        known.pop()
        ends.pop()
    return known, ends[len(known)]


def _reply(number: int, line: Any) -> tuple[str, Reply]:
    count, question, said, status, scores, label, name, after, seconds, body = line
    if count != number or not isinstance(question, str):
        raise ValueError(f"number {number} is expected")
    reply = Reply(
        Said(said),
        int(status),
        None if scores is None else np.array(scores, np.float64),
        int(label),
        str(name),
        None if after is None else float(after),
        float(seconds),
        str(body),
    )
    return question, reply
