"""How the audit log is chained, and how its files are named.

The log is a sequence of lines, each one JSON object in ASCII that starts with ``seq``, counting up
from 1 by one, and ``prev``, the SHA-256 in hex of the line before it, without its line feed; the
first line's is ``GENESIS``. Any change to a line breaks the ``prev`` of the next one.

The sequence runs over several files: ``audit.jsonl`` is written, ``audit.jsonl.<first>`` are the
rotated ones, named by the ``seq`` of their first line. Every file's first line is an ``opened``
record, which names the file before it.

The last line has no next one, so ``audit.jsonl.head`` names it: after each group of lines is on
disk, the head is overwritten with the ``seq`` and hash of the last one, its place in the file, and
the ``seq`` of the oldest line that retention has left. It has two slots of one disk sector that
are written in turn, so that one of them is always whole. With a key, a slot carries an HMAC-SHA256
over its content, and so vouches for every line before it: who has no key cannot chain the log
anew. Without one, a SHA-256 only tells a torn slot, and a whole log that was rewritten along with
its head can only be told by a head that was noted elsewhere.

Several workers write a chain each: ``audit.worker-1.jsonl`` and so on, with files and a head of its
own. Each ``started`` record says how many workers there are, so that a whole chain that is gone is
missed.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

GENESIS: Final = "0" * 64
"""What the first line of all carries as the hash of the line before it."""

MAX_LINE: Final = 2 * 2**20
"""No line is longer, with its line feed: a reader needs no more memory than this."""

MAX_WORKERS: Final = 9999
"""No more chains than this lie beside each other."""

SLOT: Final = 512
"""Bytes of a slot: one disk sector."""

HEAD_BYTES: Final = 2 * SLOT
_SEQ_DIGITS: Final = 12
_NUMBERS: Final = 2**62


class ForgedHeadError(ValueError):
    """A slot that no crash tore and no writer wrote: its seal holds, and its values cannot be."""


def digest(line: bytes) -> str:
    """The hash by which the next line names this one (without its line feed)."""
    return sha256(line).hexdigest()


def head_path(path: Path) -> Path:
    """Where the head of the log at ``path`` lies."""
    return path.with_name(f"{path.name}.head")


def rotated_path(path: Path, first: int) -> Path:
    """What the log's file with this first ``seq`` is called once it is rotated."""
    return path.with_name(f"{path.name}.{first:0{_SEQ_DIGITS}d}")


def rotated(path: Path) -> dict[int, Path]:
    """The rotated files of the log at ``path`` by their first ``seq``, oldest first."""
    name = re.compile(re.escape(path.name) + r"\.([0-9]{12,})")
    found = ((name.fullmatch(entry.name), entry) for entry in path.parent.iterdir())
    return dict(sorted((int(match[1]), entry) for match, entry in found if match))


def chain_path(path: Path, worker: int) -> Path:
    """Where a worker's chain lies: ``path`` itself for the only one, whose number is 0."""
    return path.with_name(f"{path.stem}.worker-{worker}{path.suffix}") if worker else path


def chain_paths(path: Path) -> dict[int, Path]:
    """The chains that are kept under ``path``, by worker: those with a file or a head."""
    pattern = re.escape(path.stem) + r"\.worker-([1-9][0-9]{0,3})" + re.escape(path.suffix)
    name = re.compile(rf"(?:{re.escape(path.name)}|{pattern})(?:\.head|\.[0-9]{{12,}})?")
    found = (name.fullmatch(entry.name) for entry in path.parent.iterdir())
    workers = sorted({int(match[1] or 0) for match in found if match})
    return {worker: chain_path(path, worker) for worker in workers}


@dataclass(frozen=True, slots=True)
class Link:
    """The end of a chain: the last line's ``seq`` and hash."""

    seq: int = 0
    hash: str = GENESIS

    def follows(self, line: bytes) -> Link:
        """The end of the chain after ``line``, given with its line feed.

        Raises:
            ValueError: if the line is not whole or does not continue this chain, with the reason.
        """
        if not line.endswith(b"\n"):
            raise ValueError("the line does not end")
        record = read_record(line)
        seq, prev = record["seq"], record["prev"]
        if seq != self.seq + 1:
            raise ValueError(f"record {self.seq + 1} was expected, not {seq}")
        if prev != self.hash:
            raise ValueError(f"record {seq} does not name the hash of the record before it")
        return Link(seq, digest(line[:-1]))


def read_record(line: bytes) -> dict[str, Any]:
    """A line as a record: it has at least an integer ``seq`` and a string ``prev``.

    Raises:
        ValueError: if it is not one, with the reason.
    """
    record: Any = orjson.loads(line)
    if (
        not isinstance(record, dict)
        or type(record.get("seq")) is not int
        or type(record.get("prev")) is not str
    ):
        raise ValueError("not a record with seq and prev")
    return record


def lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines from here on with their line feeds; only the last may lack one.

    A line over ``MAX_LINE`` comes in pieces, each without a line feed.
    """
    return iter(lambda: file.readline(MAX_LINE), b"")


@dataclass(frozen=True, slots=True)
class Head:
    """What is known to be on disk.

    Attributes:
        seq, hash: of the last line.
        first: ``seq`` of the first line of the file that holds it.
        offset: where that line ends in its file, in bytes.
        oldest: ``seq`` of the oldest line that retention has left.
    """

    seq: int = 0
    hash: str = GENESIS
    first: int = 1
    offset: int = 0
    oldest: int = 1

    @property
    def link(self) -> Link:
        """The end of the chain that it vouches for."""
        return Link(self.seq, self.hash)

    def render(self, key: bytes | None) -> bytes:
        """One slot."""
        body = orjson.dumps(asdict(self))
        return (
            orjson.dumps({**asdict(self), _seal_name(key): _seal(body, key)}).ljust(SLOT - 1)
            + b"\n"
        )

    @classmethod
    def parse(cls, slot: bytes, key: bytes | None) -> Head:
        """Reads one slot. Without a key, the HMAC of a keyed slot is taken on trust.

        Raises:
            ForgedHeadError: if it is sealed, but what it says was never written.
            ValueError: if it is torn, or not made with this key.
        """
        values: Any = orjson.loads(slot)
        if not isinstance(values, dict):
            raise ValueError("not a head")  # noqa: TRY004 - one type for whatever is not a head
        mac, checksum = values.pop("mac", None), values.pop("sha256", None)
        if key is not None or mac is None or checksum is not None:
            seal = str(mac if key else checksum).encode()  # as text it would have to be ASCII
            if not hmac.compare_digest(_seal(orjson.dumps(values), key).encode(), seal):
                raise ValueError("the head's seal does not match")
        try:
            head = cls(**values)
        except TypeError as error:
            raise ForgedHeadError("its keys are not a head's") from error
        head._check()
        return head

    def _check(self) -> None:
        least = {"seq": 0, "first": 1, "offset": 0, "oldest": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if type(value) is not int or not bound <= value < _NUMBERS:
                raise ForgedHeadError(f"{name} is no number that it can be")
        if type(self.hash) is not str or not re.fullmatch(r"[0-9a-f]{64}", self.hash):
            raise ForgedHeadError("hash is no SHA-256")


def read_slots(content: bytes, key: bytes | None) -> list[tuple[Head, int]]:
    """The whole slots in a head file's content, each with its index."""
    slots = []
    for index in range(2):
        with suppress(ValueError):
            slots.append((Head.parse(content[index * SLOT : (index + 1) * SLOT], key), index))
    return slots


def seal_fault(content: bytes, key: bytes | None) -> str:
    """How the head file's content is sealed, if that is not with this key; "" if it is, or is torn.

    Without a key, a head that is sealed is a fault too: whoever continued it would break the seal.
    """
    found = read_slots(content, None)
    if not found or (key is not None and read_slots(content, key)):
        return ""
    # A slot with a seal was taken on trust; one without has a sum that holds.
    sealed = any(b'"mac":' in content[index * SLOT : (index + 1) * SLOT] for _, index in found)
    if key is None:
        return "sealed with a key, and none is given" if sealed else ""
    return "sealed with another key" if sealed else "not sealed: it was begun without a key"


def _seal_name(key: bytes | None) -> str:
    return "mac" if key else "sha256"


def _seal(body: bytes, key: bytes | None) -> str:
    return hmac.digest(key, body, "sha256").hex() if key else sha256(body).hexdigest()
