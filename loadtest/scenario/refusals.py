"""Which rules refused a load's requests, by the firewall's audit log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from proxy.telemetry.audit_chain import chain_paths, lines

Records = Sequence[Mapping[str, Any]]

_WAIT_SECONDS: Final = 3.0
_STEP_SECONDS: Final = 0.05


class AuditTail:
    """What comes to an audit log from now on, over all its chains.

    Args:
        clock, sleep: records are committed in groups, a few times a second: they are waited for.

    Raises:
        OSError: if the log's folder cannot be read.
    """

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path = path
        self._clock = clock
        self._sleep = sleep
        self._at = {chain: _size(chain) for chain in chain_paths(path).values()}

    def records(
        self, enough: Callable[[Sequence[Mapping[str, Any]]], bool]
    ) -> list[dict[str, Any]]:
        """The exchanges that came since, waited for until they are enough, or for some seconds.

        What a file that was begun anew meanwhile took with it is not among them.
        """
        deadline = self._clock() + _WAIT_SECONDS
        while True:
            found = self._read()
            if enough(found) or self._clock() >= deadline:
                return found
            self._sleep(_STEP_SECONDS)

    def _read(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for chain in chain_paths(self._path).values():
            start = self._at.get(chain, 0)
            try:
                with chain.open("rb") as file:
                    if start <= _size(chain):
                        file.seek(start)
                    found.extend(
                        orjson.loads(line)
                        for line in lines(file)
                        if line.endswith(b"\n") and b'"type":"exchange"' in line
                    )
            except FileNotFoundError:
                continue
        return found


def pseudonym(records: Records, request_id: str) -> str | None:
    """By which the log knows the client of one exchange; None: it does not hold it."""
    for record in records:
        if record.get("id") == request_id:
            return str(record.get("client", ""))
    return None


def rules_of(records: Records, clients: Collection[str]) -> dict[str, int]:
    """How many of these clients' requests were refused, by the rule that decided."""
    counts: Counter[str] = Counter()
    for record in records:
        if record.get("client") in clients and record.get("status", 0) >= 400:
            reasons = record.get("reasons") or [{}]
            counts[str(reasons[0].get("rule") or record.get("fault") or "none")] += 1
    return dict(counts)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
