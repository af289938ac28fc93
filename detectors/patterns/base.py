"""The contract of the patterns: queries of many clients in, alarms out. No HTTP, no Redis, no
asyncio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from detectors.arrays import Floats
from detectors.base import Rows
from detectors.patterns.exchange import Delta, Merged


class Family(Enum):
    """What a sequence of queries looks like."""

    PROBING = "probing"
    """A black-box attack: small or aligned steps around a point."""
    EXTRACTION = "extraction"
    """Theft with inputs that are not like the honest ones."""
    COVERAGE = "coverage"
    """More of the input space than one client is allowed to see."""


class Scope(Enum):
    """Over what the evidence was gathered."""

    CLIENT = "client"
    SUBNET = "subnet"
    LINEAGE = "lineage"
    """Queries that descend from each other, whoever sent them."""
    ENDPOINT = "endpoint"


@dataclass(frozen=True, slots=True)
class Alarm:
    """Evidence that passed its threshold.

    Attributes:
        evidence: the sequential test's level now, in nats.
        threshold: the level at which the budget of false alarms is spent, in nats.
        key: the pseudonym of the client or subnet, the lineage's id, or "".
        detail: what the operator is told beside it: the p-values of this query's statistics, and
            the number of distinct queries.
        shared: whether the client has hardly any evidence of its own: the alarm is about others
            whom its query resembles, and may be their doing.
    """

    family: Family
    scope: Scope
    evidence: float
    threshold: float
    key: str = ""
    detail: dict[str, float] = field(default_factory=dict)
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one client, for the operator.

    Attributes:
        client: the pseudonym.
        evidence: nats by family.
        thresholds: nats by family, at the client's own volume.
        queries: distinct rows today.
        coverage: the share of the honest input space that it has visited.
        seen: seconds on the tracker's clock.
    """

    client: str
    evidence: dict[str, float]
    thresholds: dict[str, float]
    queries: int
    coverage: float
    seen: float


class Tracker(Protocol):
    """The patterns of one endpoint. One thread at a time."""

    def observe(
        self, client: str, subnet: str, rows: Rows, p_values: Floats | None, now: float
    ) -> Sequence[Alarm]:
        """Takes the rows of one request into account.

        Args:
            client, subnet: pseudonyms; "" for no subnet.
            rows: (n, d) float32, finite, C-contiguous.
            p_values: (n,) the outlier scorer's conformal p-values, or None.
            now: seconds on a monotonic clock.

        Returns:
            What stands above its threshold now, the strongest first; mostly nothing.

        Raises:
            ScoreFault: if a statistic is not finite. The request must not pass for normal.
        """

    def drain(self, most: int) -> list[Delta]:
        """What was learnt since the last call, of at most ``most`` keys, those that waited longest
        first. What is handed over is not handed over again."""

    def merge(self, merged: Sequence[Merged]) -> None:
        """Takes what all replicas know, on top of which lies what was learnt here since
        :meth:`drain`."""

    def forget(self, client: str) -> None:
        """Forgives a client: its evidence, its ring and what is pending."""

    def standings(self, most: int) -> list[Standing]:
        """The clients with the most evidence against them, the strongest first."""

    def standing(self, client: str) -> Standing | None:
        """One client, or None if it is not tracked here."""

    def sizes(self) -> dict[str, Any]:
        """For the metrics: tracked clients, subnets, lineages, evictions, bytes."""
