"""What a run has done so far, on disk: by it a broken run is gone on with.

A folder: ``head.json`` (which scenario, since when), ``STEP.json`` for every step that ended, with
the same in it, and ``STEP.journal`` for every attack that began.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from loadtest.evidence.results import AttackResult, LoadResult, Results
from loadtest.evidence.store import StoreError, dump, load

FOLDER: Final = "progress"
_HEAD: Final = "head.json"


class LedgerError(Exception):
    """What is there is not of this scenario, or cannot be read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a step left."""

    loads: Sequence[LoadResult] = ()
    attack: AttackResult | None = None
    notes: Sequence[str] = ()


class Ledger:
    """The steps that ended.

    Attributes:
        started: when the run first began, UTC, ISO 8601.
        before: seconds that earlier stretches of this run took.
    """

    def __init__(self, folder: Path, digest: str, started: str, before: float) -> None:
        self._folder = folder
        self._digest = digest
        self.started = started
        self.before = before

    @classmethod
    def begin(cls, folder: Path, digest: str, now: datetime) -> Ledger:
        """A new run: what was there of another goes.

        Raises:
            LedgerError: if what is there is not of a run.
            OSError: if the folder cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        there = list(folder.iterdir())
        if there and folder / _HEAD not in there:
            raise LedgerError(f"{folder}: what is there is not of a run: take it away")
        for path in there:
            # The head stays until the new one is in its place: a kill leaves none without.
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != _HEAD:
                path.unlink()
        started = now.astimezone(UTC).isoformat(timespec="seconds")
        head = {"digest": digest, "started": started, "seconds": 0.0}
        _write(folder / _HEAD, json.dumps(head).encode())
        return cls(folder, digest, started, 0.0)

    @classmethod
    def resume(cls, folder: Path, digest: str) -> Ledger:
        """A broken run.

        Raises:
            LedgerError: if there is none, or it is of another scenario.
        """
        head = _read(folder / _HEAD)
        try:
            if head["digest"] != digest:
                raise LedgerError(
                    f"{folder}: what is there was begun with another scenario, seed or program: "
                    "run it without --resume"
                )
            return cls(folder, digest, str(head["started"]), float(head["seconds"]))
        except (KeyError, TypeError, ValueError) as error:
            raise LedgerError(f"{folder}: not readable: {error}") from error

    def done(self, key: str) -> Entry | None:
        """What a step left, if it has ended.

        Raises:
            LedgerError: if it cannot be read, or is of another run.
        """
        path = self._folder / f"{key}.json"
        if not path.exists():
            return None
        try:
            found = load(path.read_bytes())
        except (OSError, StoreError) as error:
            raise LedgerError(f"{path}: not readable: {error}") from error
        if (found.digest, found.started) != (self._digest, self.started):
            raise LedgerError(f"{path}: of another run")
        return Entry(found.loads, next(iter(found.attacks), None), found.notes)

    def note(self, key: str, entry: Entry, seconds: float) -> None:
        """Notes that a step ended, and how long the run has lasted, all its stretches together."""
        part = Results(
            scenario=key, digest=self._digest, started=self.started, seconds=seconds, seed=0,
            command="", machine={}, versions={}, target={}, loads=entry.loads,
            attacks=() if entry.attack is None else (entry.attack,), notes=entry.notes,
        )  # fmt: skip
        _write(self._folder / f"{key}.json", dump(part))
        head = _read(self._folder / _HEAD)
        head["seconds"] = seconds
        _write(self._folder / _HEAD, json.dumps(head).encode())

    def journal(self, key: str) -> Path:
        """Where an attack's journal is kept."""
        return self._folder / f"{key}.journal"


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LedgerError(f"{path.parent}: there is no broken run to go on with") from None
    except (OSError, ValueError) as error:
        raise LedgerError(f"{path}: not readable: {error}") from error
    if not isinstance(document, dict):
        raise LedgerError(f"{path}: not readable")
    return document


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    beside = path.with_suffix(".new")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
