"""What is to be sent, when, and where to: a load as plain values, before anything is sent.

A load is *open* by default: a request is due at its time, whatever became of those before it, and
its latency counts from that time. So a stalled server cannot hide its queue (coordinated omission).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from loadtest.evidence.results import Kind, Side
from loadtest.grpc_messages import INFER

Address = tuple[str, int] | str
"""Host and port, or the path of a unix socket."""

Call = tuple[tuple[tuple[str, str], ...], bytes]
"""The metadata and the message of a gRPC call."""

Wire = Literal["http", "grpc"]
Times = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

LATE_SECONDS: Final = 0.001
"""A request that is sent this much after its time is counted as late."""


class LoadError(Exception):
    """A load cannot be run, or what came of it cannot be believed."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How a server is met over TLS.

    Attributes:
        authority: PEM of the certificates that it is verified against; None: the system's.
        verify: False takes any certificate (HTTP only).
        name: that its certificate must bear; "": the host of the address.
        certificate, key: our own, as PEM, where the server asks for one.
    """

    authority: Path | None = None
    verify: bool = True
    name: str = ""
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One mix of requests of a load; it has connections of its own, and is reported apart.

    Attributes:
        requests: complete messages, taken in turn, over and over. Over HTTP each is the bytes of
            one request, with its head.
        first: the index of that which is taken first.
        sources: loopback addresses to connect from, in turn, instead of the plan's.
    """

    name: str
    kind: Kind
    requests: Sequence[bytes] | Sequence[Call]
    first: int = 0
    sources: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """A load on one side.

    Attributes:
        name: of the load in the scenario.
        address: where the requests go to.
        parts: what is sent.
        times: (n,) seconds from the start at which a request is due, sorted; see ``schedules``.
        which: (n,) the index of the part of each.
        arrivals: how the times were drawn, in words.
        round: which of interleaved rounds, from 0.
        tls: None: plain.
        connections: of each part, over all processes: as many requests may be under way at once.
        processes: that share the load.
        cores: for each process in turn, the core it is to run on; none: any.
        queue: of each part, over all processes: requests that may wait for a connection. What
            comes beyond is dropped, and counted.
        deadline: seconds from its time by which a good answer is there; None: whenever it comes.
        timeout: seconds from being sent after which a request is given up: an error.
        sources: loopback addresses to connect from, in turn (not with gRPC).
        method: the gRPC method that is called.
    """

    name: str
    side: Side
    address: Address
    parts: Sequence[Part]
    times: Times = field(default_factory=lambda: np.empty(0))
    which: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    arrivals: str = ""
    round: int = 0
    wire: Wire = "http"
    tls: Tls | None = None
    connections: int = 64
    processes: int = 1
    cores: Sequence[int] = ()
    queue: int = 10_000
    deadline: float | None = None
    timeout: float = 10.0
    sources: Sequence[str] = ()
    method: str = INFER

    def __post_init__(self) -> None:
        if not self.parts or not all(len(part.requests) for part in self.parts):
            raise ValueError("a load needs parts, and every part requests")
        if len(self.which) != len(self.times):
            raise ValueError("every time belongs to a part")
        if len(self.times):
            if not np.isfinite(self.times).all() or self.times[0] < 0:
                raise ValueError("times are finite and not negative")
            if (np.diff(self.times) < 0).any():
                raise ValueError("times are sorted")
            if not 0 <= self.which.min() <= self.which.max() < len(self.parts):
                raise ValueError("a time belongs to a part that there is not")
        if not 1 <= self.processes <= self.connections:
            raise ValueError("every process needs a connection")
        if self.queue < 0 or not self.timeout > 0:
            raise ValueError("a queue is not negative, and a timeout positive")
        if self.wire == "grpc" and any([self.sources, *(part.sources for part in self.parts)]):
            raise ValueError("gRPC connects from no chosen address")

    @property
    def seconds(self) -> float:
        """From the start to the last time."""
        return float(self.times[-1]) if len(self.times) else 0.0

    def in_round(self, number: int) -> Plan:
        """The same, as a later round: requests go on where the rounds before it left off."""
        counts = np.bincount(self.which, minlength=len(self.parts))
        parts = tuple(
            replace(part, first=(part.first + number * int(count)) % len(part.requests))
            for part, count in zip(self.parts, counts, strict=True)
        )
        return replace(self, parts=parts, round=number)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a load is, about once a second.

    Attributes:
        name, side, round: of the plan; ``what`` is what a search for a ceiling does just now.
        at: seconds since the start, of ``seconds`` in all.
        offered, sent, dropped: so far; ``waiting``: for a connection or an answer.
        said: replies so far, by ``Said.value``; those without are ``errors``.
        p50, p99: seconds, of the last second's answers; with several processes the worst of them.
            None if there were none.
    """

    name: str
    side: Side
    round: int
    at: float
    seconds: float
    offered: int
    sent: int
    dropped: int
    waiting: int
    said: dict[str, int]
    errors: int
    p50: float | None = None
    p99: float | None = None
    what: str = ""
