"""One configured endpoint as the objects that serve it, and the way from a path to its endpoint.

An endpoint is one model with one set of limits, whatever protocols it is asked by.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from detectors.agreement.scorer import AnswerScorer
from detectors.bundle import Bundle
from proxy.capture import Capture
from proxy.client_watch import ClientWatch
from proxy.policy import Policy
from proxy.protocols.base import Codec, Route
from proxy.protocols.contract import Contract
from proxy.reading import AnswerReader
from proxy.rules import NO_ROUTE, Refusal
from proxy.second_opinion import SecondOpinions
from proxy.shaping import ROUGHLY, Style
from proxy.state.limits import Limiter
from proxy.telemetry.metrics import EndpointMetrics
from proxy.transport import Transport

RPC: Final = "RPC"
"""The method of a head that the gRPC listener made. No request over HTTP/1 can bear it."""

# More distinct targets than this are resolved anew each time: versions are the client's words.
_KNOWN_TARGETS: Final = 1024
_WIRES: Final = (False, True)  # HTTP, gRPC
_METHODS: Final = ("GET", "POST", "PUT")


@dataclass(slots=True)
class Binding:
    """One protocol of an endpoint. Only ``codec`` changes while it serves: as the contract is
    learnt.

    Attributes:
        match: the clients' path prefix.
        codec: bound to the model's contract once that is known.
        pool: the servers that speak it.
        rpc: whether it is for clients of the gRPC listener, and for no others.
    """

    match: str
    codec: Codec
    pool: Transport
    rpc: bool = False


@dataclass(slots=True)
class Endpoint:
    """What serves one endpoint.

    Attributes:
        bindings: its protocols, its own first.
        clients: what is known of the endpoint's clients.
        answer_limit: bytes of an answer that is read, as sent and with its content coding undone.
        bundle: what scores; None: contract and limits only.
        judge: what reads answers and judges them together with their rows; None: nothing does.
        opinions: asks the model again about suspicious rows; None: it is not asked.
        style: how answers are made coarse.
        always_shaped: whether every answer is made coarse, whatever was decided.
        capture: takes a sample of live traffic; None: nothing does.
        body_limit: bytes of a request body, as sent and with its content coding undone.
        expanded_ratio: the most times its size that a compressed body may grow.
    """

    name: str
    policy: Policy
    bindings: tuple[Binding, ...]
    limiter: Limiter
    clients: ClientWatch
    metrics: EndpointMetrics
    body_limit: int
    expanded_ratio: int
    answer_limit: int = 10 * 2**20
    bundle: Bundle | None = None
    judge: tuple[AnswerReader, AnswerScorer] | None = None
    opinions: SecondOpinions | None = None
    style: Style = ROUGHLY
    always_shaped: bool = False
    capture: Capture | None = None

    @property
    def contract(self) -> Contract | None:
        """What the model takes, by whatever protocol; None while it is to be learnt."""
        return self.bindings[0].codec.contract

    @property
    def pools(self) -> tuple[Transport, ...]:
        """The servers, once each."""
        return tuple(dict.fromkeys(binding.pool for binding in self.bindings))

    @property
    def reads_answers(self) -> bool:
        """Whether every answer is read, whatever was decided."""
        return self.judge is not None or self.always_shaped or self.capture is not None


Bound = tuple[Endpoint, Binding]
Found = tuple[Endpoint, Binding, Route]


class Router:
    """Finds the endpoint and the protocol of a request target: the longest match, on whole path
    segments (or up to a colon, behind which version 1 writes the call).

    Paths that belong to a server rather than to one of its models (``/v2/health/ready``, ``/ping``)
    go to the first configured endpoint that has a protocol with such a path.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        every = [(endpoint, binding) for endpoint in endpoints for binding in endpoint.bindings]
        self._any = every[0]
        self._tables = {rpc: _Table([one for one in every if one[1].rpc is rpc]) for rpc in _WIRES}
        self._known: dict[tuple[str, str], Found] = {}

    def find(self, method: str, target: str) -> Found:
        """The endpoint, its protocol, and the codec's understanding of the target.

        Raises:
            Refusal: NO_ROUTE, METHOD or CONTROL_PATH.
        """
        known = self._known.get((method, target))
        if known is not None:
            return known
        table = self._tables[method == RPC]
        bound = table.matched(target)
        if bound is not None:
            found: Found = (*bound, bound[1].codec.route(method, target))
        else:
            found = table.of_a_server(method, target)
        if len(self._known) < _KNOWN_TARGETS:
            self._known[method, target] = found
        return found

    def nearest(self, method: str, target: str) -> Bound:
        """The endpoint and the protocol in whose words a target that was not found is refused."""
        table = self._tables[method == RPC]
        return table.matched(target) or table.first or self._any

    def allowed(self, target: str) -> str:
        """The methods that a path takes, as in an Allow header."""
        taken = []
        for method in _METHODS:
            with suppress(Refusal):
                self.find(method, target)
                taken.append(method)
        return ", ".join(taken)


class _Table:
    """The protocols of one wire, by their matches.

    Attributes:
        first: as configured; None: there is none.
    """

    def __init__(self, every: Sequence[Bound]) -> None:
        self.first = every[0] if every else None
        self._by_match = {bound[1].match: bound for bound in every}
        self._longest = max(map(len, self._by_match), default=0)
        servers: dict[object, Bound] = {}
        for bound in every:
            servers.setdefault(_server(bound[1]), bound)
        self._servers = tuple(servers.values())

    def matched(self, target: str) -> Bound | None:
        """The longest match of a target."""
        end = len(target)
        while end > 0:
            if end <= self._longest:
                bound = self._by_match.get(target[:end])
                if bound is not None:
                    return bound
            below = min(end, self._longest + 1)
            end = max(target.rfind("/", 0, below), target.rfind(":", 0, below))
        return None

    def of_a_server(self, method: str, target: str) -> Found:
        """The first protocol that has such a path of the server's own. Of several refusals, one
        that says more than "no such path" wins.

        Raises:
            Refusal: NO_ROUTE, METHOD or CONTROL_PATH.
        """
        refused = Refusal(NO_ROUTE)
        for endpoint, binding in self._servers:
            try:
                return endpoint, binding, binding.codec.route(method, target)
            except Refusal as refusal:
                if refused.rule is NO_ROUTE:
                    refused = refusal
        raise refused


def _server(binding: Binding) -> object:
    """The same for models side by side, which have the paths of their server's own in common."""
    codec = binding.codec
    if codec.probe is not None and codec.probe.model:
        return codec.name, binding.match.rpartition("/")[0]
    return binding.match
