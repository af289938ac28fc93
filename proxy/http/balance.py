"""The upstreams of one endpoint: which one is asked next, and which is left alone for a while."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from proxy.http.address import Address
from proxy.http.concurrency import Concurrency
from proxy.http.limits import PoolLimits

if TYPE_CHECKING:
    from proxy.http.client_connection import ClientConnection

Candidate = TypeVar("Candidate", bound="Standing")

_BURST: Final = 3.0  # times as long as the server takes without load
_LAGS: Final = 4  # turns of our own loop
_LEAST_BURST: Final = 0.05
_LEAST_STANDING: Final = 0.02


class Freed(Protocol):
    """What is told when an upstream can take one request more."""

    def __call__(self, upstream: Upstream, connection: ClientConnection | None) -> None:
        """``connection`` has nothing more to do; None: one was closed, another may be opened."""


class Standing:
    """One address and its record: how it does, and whether it is left alone for a while.

    Args:
        balance: of which it is a part.

    Attributes:
        concurrency: how many requests it is given at once.
        failures: consecutive ones.
        ejected_until: clock; in the past if it is not ejected.
        connects, errors, ejections: totals, for metrics.
    """

    __slots__ = (
        "_balance",
        "_nth",
        "address",
        "concurrency",
        "connects",
        "ejected_until",
        "ejections",
        "errors",
        "failures",
    )

    def __init__(self, address: Address, balance: Balance[Any]) -> None:
        self.address = address
        self._balance = balance
        self._nth = 0
        self.concurrency = Concurrency(balance.limits.connections, balance.limits.slowdown)
        self.failures = 0
        self.ejected_until = float("-inf")
        self.connects = 0
        self.errors = 0
        self.ejections = 0

    @property
    def outstanding(self) -> int:
        """Requests that it has not answered yet."""
        raise NotImplementedError

    @property
    def has_room(self) -> bool:
        """Whether it may be given one request more now."""
        return self.outstanding < self.concurrency.limit

    def failed(self) -> None:
        """It gave no answer, an invalid one, or a status of 500 or more."""
        self.errors += 1
        self.failures += 1
        if self.failures >= self._balance.limits.failures:
            self._balance.suspect(self)

    def eject(self, now: float) -> None:
        """Leaves it alone for n times ``ejection_seconds``, the nth time in a row."""
        limits = self._balance.limits
        if now - self.ejected_until > limits.ejection_cap_seconds:
            self._nth = 0
        self._nth += 1
        self.failures = 0
        self.ejections += 1
        seconds = min(self._nth * limits.ejection_seconds, limits.ejection_cap_seconds)
        self.ejected_until = now + seconds


class Upstream(Standing):
    """One address of an HTTP server, and its connections.

    Attributes:
        freed: to be called when one of its connections has nothing more to do.
        host_line: the end of a request line to it, and its Host header.
        idle: connections that wait for a request, the last used one last.
        connections: all that are open, idle or not.
        connecting: how many are being opened, or may be by those who were given leave to.
        unsolicited, stale_replaced: totals, for metrics.
    """

    __slots__ = (
        "connecting",
        "connections",
        "freed",
        "host_line",
        "idle",
        "stale_replaced",
        "unsolicited",
    )

    def __init__(self, address: Address, balance: Balance[Upstream], freed: Freed) -> None:
        super().__init__(address, balance)
        self.host_line = b" HTTP/1.1\r\nhost: %b\r\n" % address.authority
        self.freed = freed
        self.idle: list[ClientConnection] = []
        self.connections: set[ClientConnection] = set()
        self.connecting = 0
        self.unsolicited = 0
        self.stale_replaced = 0

    @property
    def outstanding(self) -> int:
        """Requests that it has not answered yet."""
        return len(self.connections) - len(self.idle) + self.connecting

    @property
    def full(self) -> bool:
        """Whether no further connection may be opened."""
        return len(self.connections) + self.connecting >= self._balance.limits.connections

    def checkout(self) -> ClientConnection | None:
        """An idle connection, on which nothing has arrived since its last answer."""
        idle = self.idle
        while idle:
            connection = idle.pop()
            if connection.usable():
                return connection
            connection.abort()
        return None

    # What its connections say:

    def opened(self, connection: ClientConnection) -> None:
        """A connection is established."""
        self.connects += 1
        self.connections.add(connection)

    def closed(self, connection: ClientConnection) -> None:
        """A connection is of no more use."""
        self.connections.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)
        self.freed(self, None)


class Balance(Generic[Candidate]):
    """Chooses the upstream with the fewest outstanding requests, as a share of what it may have at
    once. Ejects, but never the last one.

    Args:
        make: makes the upstream of an address.

    Attributes:
        only: the upstream, if there is one alone.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        limits: PoolLimits,
        clock: Callable[[], float],
        make: Callable[[Address, Balance[Candidate]], Candidate],
    ) -> None:
        if not addresses:
            raise ValueError("an endpoint needs an upstream")
        self.limits = limits
        self.upstreams = tuple(make(address, self) for address in addresses)
        self.only = self.upstreams[0] if len(self.upstreams) == 1 else None
        self._clock = clock
        self._turn = 0

    def choose(self, tried: Collection[Candidate] = ()) -> Candidate | None:
        """The next to ask, ties in turn; None if all that are not ejected were tried."""
        if self.only is not None:
            return None if tried else self.only
        candidates = [each for each in self.sound() if each not in tried]
        if not candidates:
            return None
        self._turn += 1
        first = self._turn % len(candidates)
        return min(
            candidates[first:] + candidates[:first],
            key=lambda each: each.outstanding / each.concurrency.limit,
        )

    def sound(self) -> Sequence[Candidate]:
        """Those that are not ejected. There is always one: see ``suspect``."""
        now = self._clock()
        return [upstream for upstream in self.upstreams if upstream.ejected_until <= now]

    def suspect(self, upstream: Candidate) -> None:
        """Ejects an upstream, unless it is the last one that is not."""
        sound = self.sound()
        if upstream in sound and len(sound) > 1:
            upstream.eject(self._clock())


def bounds(limits: PoolLimits, upstreams: Sequence[Standing]) -> tuple[float, float]:
    """Seconds that a request may wait in a burst, and in a queue that stands: a few times, and once
    as long as the quickest server takes without load, within what is configured.
    """
    base = min(upstream.concurrency.baseline for upstream in upstreams)
    ours = _LAGS * upstreams[0].concurrency.lag
    return (
        min(limits.queue_seconds, max(_LEAST_BURST, _BURST * base) + ours),
        min(limits.queue_target_seconds, max(_LEAST_STANDING, base) + ours),
    )
