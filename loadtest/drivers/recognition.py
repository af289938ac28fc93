"""When the firewall recognised an attack, by its audit log."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from loadtest.drivers.asked import TryLog
from proxy import rules
from proxy.telemetry.audit_chain import chain_paths, rotated

TELLING: Final = frozenset(
    rule.id
    for rule in (rules.OUTLIER, rules.DISAGREEMENT, rules.PACED, *rules.PATTERNS)
    if rule not in {rules.PROBING_ENDPOINT, rules.EXTRACTION_ENDPOINT}
)
"""Rules that speak against the client, or against what it sent. What all clients of an endpoint do
together blames nobody; a fault or a ban recognises nothing."""
SINGLE: Final = frozenset({rules.OUTLIER.id, rules.DISAGREEMENT.id})
"""Those that look at one input alone, and are wrong about a share of honest ones."""
WAIT: Final = 5.0
"""Seconds for the last record to be written: the log is batched."""
_PAUSE: Final = 0.1


class AuditReader:
    """Follows an audit log from a moment on, over rotations and over several workers.

    Args:
        path: of the log, as in ``audit.path``.
        whole: whether it is read from its beginning: an earlier run's records are there too.
    """

    def __init__(self, path: Path, *, whole: bool = False) -> None:
        self._path = path
        self._offsets: dict[tuple[int, int], int] = {}
        if not whole:
            for file in self._files():
                found = file.stat()
                self._offsets[found.st_dev, found.st_ino] = found.st_size

    def rules(self, wanted: Collection[str]) -> dict[str, tuple[str, ...]]:
        """The ids of the rules that spoke against each exchange, of those wanted that have a record
        by now and were not given before."""
        found: dict[str, tuple[str, ...]] = {}
        for file in self._files():
            for line in self._new_lines(file):
                name, against = _exchange(line)
                if name in wanted:
                    found[name] = against
        return found

    def _files(self) -> list[Path]:
        try:
            chains = list(chain_paths(self._path).values()) or [self._path]
            files = [file for chain in chains for file in (*rotated(chain).values(), chain)]
        except OSError:
            return []
        return [file for file in files if file.exists()]

    def _new_lines(self, file: Path) -> list[bytes]:
        """The whole lines that were added since."""
        try:
            with file.open("rb") as log:
                found = os.fstat(log.fileno())
                status = found.st_dev, found.st_ino
                log.seek(self._offsets.get(status, 0))
                data = log.read()
        except OSError:
            return []
        end = data.rfind(b"\n") + 1
        self._offsets[status] = self._offsets.get(status, 0) + end
        return data[:end].splitlines()


def _exchange(line: bytes) -> tuple[str, tuple[str, ...]]:
    """The id of an exchange and the rules that spoke against it; "" of a line that is none."""
    try:
        record = json.loads(line)
        if record["type"] != "exchange":
            return "", ()
        return str(record["id"]), tuple(str(one["rule"]) for one in record.get("reasons") or ())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "", ()


def recognised(
    reader: AuditReader,
    tries: Sequence[TryLog],
    *,
    sleep: Callable[[float], None] = time.sleep,
    wait: float = WAIT,
) -> tuple[list[int], Mapping[str, int], int]:
    """Of each try that was recognised, the distinct own queries until then; how often each rule
    spoke against one of the attack's own; and how many tries nothing but verdicts on single inputs
    recognised, as they at times do honest rows.

    Waits until the last own query of all tries has a record, ``wait`` seconds at most.
    """
    wanted = {name for log in tries for name, _ in log.exchanges}
    found: dict[str, tuple[str, ...]] = {}
    waited = 0.0
    while True:
        found |= reader.rules(wanted)
        if len(found) == len(wanted) or waited >= wait:
            break
        sleep(_PAUSE)
        waited += _PAUSE
    until = []
    spoke: dict[str, int] = {}
    singly = 0
    for log in tries:
        first = 0
        told: set[str] = set()
        for name, own in log.exchanges:
            against = found.get(name, ())
            for rule in against:
                spoke[rule] = spoke.get(rule, 0) + 1
            told |= TELLING.intersection(against)
            if told and not first:
                first = own
        if first:
            until.append(first)
            singly += told <= SINGLE
    return until, spoke, singly
