"""An audit log as what happened, in the order in which it happened.

A log is read twice: once to find the order, of which each record costs 18 bytes of memory, and
once to replay, a record at a time.
"""

from __future__ import annotations

from array import array
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from proxy.recording import NOTE
from proxy.telemetry.audit_chain import MAX_LINE, Link, chain_paths, digest, read_record, rotated

_PLAYED: Final = frozenset({"exchange", "configured", NOTE})
_SHOWN: Final = 20


@dataclass(slots=True)
class Life:
    """What one process recorded, from its start to its end.

    Attributes:
        chain: the name of its chain.
        whole: whether its start is recorded, too.
        replayable: whether it recorded all that a replay takes.
        lost: exchanges of which it has no record.
        exchanges: how many it recorded.
        configurations: the digests of those under which it served.
        excluded: the pseudonyms of the clients that exclusions name, in the order of the file.
        files: that hold its records.
    """

    chain: str
    whole: bool
    replayable: bool = False
    lost: int = 0
    exchanges: int = 0
    configurations: set[str] = field(default_factory=set)
    excluded: tuple[str, ...] = ()
    files: list[Path] = field(default_factory=list)
    _at: array[float] = field(default_factory=lambda: array("d"))
    _offset: array[int] = field(default_factory=lambda: array("q"))
    _file: array[int] = field(default_factory=lambda: array("H"))

    def add(self, at: float, path: Path, offset: int) -> None:
        """A record that begins at ``offset`` of a file, and is of this moment."""
        if not self.files or self.files[-1] != path:
            self.files.append(path)
        self._at.append(at)
        self._offset.append(offset)
        self._file.append(len(self.files) - 1)

    @property
    def latest(self) -> float:
        """The moment of the last record that was added."""
        return self._at[-1] if self._at else 0.0

    def records(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """Every record with its moment, in the order of the moments.

        Raises:
            OSError: if a file cannot be read any more.
        """
        moments = np.frombuffer(self._at, np.float64)
        order: npt.NDArray[np.int64] = np.argsort(moments, kind="stable")
        opened = [path.open("rb") for path in self.files]
        try:
            for index in order:
                file = opened[self._file[index]]
                file.seek(self._offset[index])
                yield self._at[index], orjson.loads(file.readline(MAX_LINE))
        finally:
            for file in opened:
                file.close()


@dataclass(slots=True)
class Log:
    """What an audit log holds.

    Attributes:
        lives: of every process that wrote it, chain by chain.
        broken: the places where the chain does not hold, in words; the first ones.
        torn: whether a file ends within a line, as a crash leaves it or a writer at work.
    """

    lives: list[Life] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    torn: bool = False

    @property
    def exchanges(self) -> int:
        """How many exchanges it holds."""
        return sum(life.exchanges for life in self.lives)


def read_log(path: Path) -> Log:
    """Reads the log at ``path``, with its rotated files and those of every worker.

    Raises:
        FileNotFoundError: if there is none.
        OSError: if it cannot be read.
    """
    log = Log()
    found = False
    for chain in chain_paths(path).values():
        reader = _Reader(log, chain.name)
        for file in [*rotated(chain).values(), chain]:
            if file.exists():
                found = True
                reader.read(file)
        log.lives += [life for life in reader.lives if life.exchanges]
    if not found:
        raise FileNotFoundError(f"{path}: no such audit log")
    return log


class _Reader:
    def __init__(self, log: Log, chain: str) -> None:
        self.lives: list[Life] = []
        self._log = log
        self._chain = chain
        self._link: Link | None = None

    def read(self, path: Path) -> None:
        """Adds one file's records to the last life, or to new ones."""
        with path.open("rb") as file:
            offset, number = 0, 0
            while line := file.readline(MAX_LINE):
                number += 1
                if line.endswith(b"\n"):
                    self._take(line, path, offset, number)
                else:
                    self._log.torn = True
                offset += len(line)

    def _take(self, line: bytes, path: Path, offset: int, number: int) -> None:
        try:
            record = read_record(line)
        except ValueError:
            self._broken(f"{path.name}:{number}: this is no record")
            return
        link, self._link = self._link, Link(record["seq"], digest(line[:-1]))
        if link is not None and (record["seq"], record["prev"]) != (link.seq + 1, link.hash):
            self._broken(f"{path.name}:{number}: it does not follow record {link.seq}")
        try:
            self._add(record, path, offset)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._broken(f"{path.name}:{number}: this is no record of ours: {error!r}")

    def _add(self, record: dict[str, Any], path: Path, offset: int) -> None:
        kind = record.get("type")
        if kind == "started":
            self.lives.append(Life(self._chain, whole=True))
            self.lives[-1].replayable = record.get(NOTE) is True
            return
        if not self.lives:
            self.lives.append(Life(self._chain, whole=False))
        life = self.lives[-1]
        if kind == "dropped":
            life.lost += record.get("records", 0)
        elif kind in _PLAYED:
            self._note(life, record)
            life.add(_moment(record, life.latest), path, offset)

    def _note(self, life: Life, record: dict[str, Any]) -> None:
        if record["type"] == "configured":
            life.excluded = life.excluded or tuple(record.get("excluded", ()))
        if record["type"] != "exchange":
            return
        life.exchanges += 1
        life.replayable = life.replayable or NOTE in record.get("notes", ())
        if record.get("configuration"):
            life.configurations.add(record["configuration"])

    def _broken(self, words: str) -> None:
        if len(self._log.broken) < _SHOWN:
            self._log.broken.append(words)


def _moment(record: Mapping[str, Any], latest: float) -> float:
    """When a record's effect was; the moment of the one before it where it does not say."""
    told = record if record["type"] != "exchange" else record.get("notes", {}).get(NOTE, {})
    for name in ("taken", "read", "at"):
        moment = told.get(name)
        if isinstance(moment, float) and moment == moment:  # noqa: PLR0124 - no NaN
            return moment
    return latest


def wall_of(record: Mapping[str, Any]) -> float:
    """Seconds since 1970 of a record's time."""
    return datetime.fromisoformat(record["time"]).timestamp()


def bytes_of(told: Mapping[str, Any]) -> bytes | None:
    """A body as it is recorded; None if it is not.

    Raises:
        ValueError: if it is none.
    """
    if "body" in told:
        return str(told["body"]).encode("latin-1")
    return b64decode(told["base64"], validate=True) if "base64" in told else None


def headers_of(told: Mapping[str, Any]) -> dict[bytes, bytes]:
    """Headers as they are recorded."""
    given: Mapping[str, str] = told.get("headers", {})
    return {name.encode("latin-1"): value.encode("latin-1") for name, value in given.items()}
