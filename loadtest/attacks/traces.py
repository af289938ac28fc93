"""What an attack asked: its distinct queries in order, run by run, kept in files so that an
evaluation can go on where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from loadtest.attacks.datasets import Singles

KEPT: Final = 400
"""Distinct queries kept of each run: an attack not recognised by then counts as missed."""
LEAST: Final = 20
"""A run of fewer distinct queries than this is not counted."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One run.

    Attributes:
        queries: (n, d) float32, distinct, in the order in which they were first asked, at most
            ``KEPT`` of them.
        asked: how many distinct queries the whole run had.
        success: whether it ended in an adversarial example, nothing standing in its way.
    """

    queries: Singles
    asked: int
    success: bool

    @property
    def counts(self) -> bool:
        """Whether its detection means anything."""
        return self.success and self.asked >= LEAST


class Recorder:
    """Collects the distinct queries of one run."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._kept: list[Singles] = []

    def __call__(self, rows: Singles) -> None:
        """Takes (n, d) rows as they are sent."""
        for row in rows:
            content = row.tobytes()
            if content not in self._seen:
                self._seen.add(content)
                if len(self._kept) < KEPT:
                    self._kept.append(row.copy())

    @property
    def asked(self) -> int:
        """Distinct queries so far."""
        return len(self._seen)

    def trace(self, success: bool) -> Trace:
        """The run, now that it is over."""
        return Trace(np.array(self._kept, np.float32), self.asked, success)


def save(path: Path, traces: Sequence[Trace]) -> None:
    """Writes runs to an npz: ``queries`` (n, d), ``run`` (n,); by run ``asked`` and ``success``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    lengths = [len(trace.queries) for trace in traces]
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            queries=np.concatenate([trace.queries for trace in traces]),
            run=np.repeat(np.arange(len(traces)), lengths),
            asked=np.array([trace.asked for trace in traces]),
            success=np.array([trace.success for trace in traces]),
        )
    partial.replace(path)


def read(path: Path) -> list[Trace]:
    """Reads what :func:`save` wrote.

    Raises:
        OSError, ValueError, KeyError: if it is not such a file.
    """
    with np.load(path, allow_pickle=False) as file:
        queries: Singles = file["queries"]
        run: npt.NDArray[np.int64] = file["run"]
        asked, success = file["asked"], file["success"]
    return [Trace(queries[run == i], int(asked[i]), bool(success[i])) for i in range(len(asked))]
