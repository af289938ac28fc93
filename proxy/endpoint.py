"""One configured endpoint as the objects that serve it, and the way from a path to its endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from detectors.agreement.scorer import AnswerScorer
from detectors.bundle import Bundle
from proxy.capture import Capture
from proxy.client_watch import ClientWatch
from proxy.http.upstream import Pool
from proxy.policy import Policy
from proxy.protocols.base import Route
from proxy.protocols.v2 import V2
from proxy.reading import AnswerReader
from proxy.second_opinion import SecondOpinions
from proxy.shaping import ROUGHLY, Style
from proxy.state.limits import Limiter
from proxy.telemetry.metrics import EndpointMetrics

# More distinct targets than this are resolved anew each time: versions are the client's words.
_KNOWN_TARGETS: Final = 1024


@dataclass(slots=True)
class Endpoint:
    """What serves one endpoint. Only ``codec`` changes while it serves: as the contract is learnt.

    Attributes:
        match: the clients' path prefix.
        codec: the protocol, bound to the model's contract once that is known.
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
    match: str
    policy: Policy
    pool: Pool
    limiter: Limiter
    clients: ClientWatch
    metrics: EndpointMetrics
    codec: V2
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
    def reads_answers(self) -> bool:
        """Whether every answer is read, whatever was decided."""
        return self.judge is not None or self.always_shaped or self.capture is not None


class Router:
    """Finds the endpoint of a request target: the longest match, on whole path segments.

    Paths that belong to a server rather than to one of its models (``/v2/health/ready``) go to the
    first configured endpoint.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._first = endpoints[0]
        self._by_length = sorted(endpoints, key=lambda endpoint: -len(endpoint.match))
        self._known: dict[tuple[str, str], tuple[Endpoint, Route]] = {}

    def find(self, method: str, target: str) -> tuple[Endpoint, Route]:
        """The endpoint and the codec's understanding of the target.

        Raises:
            Refusal: NO_ROUTE, METHOD or CONTROL_PATH.
        """
        known = self._known.get((method, target))
        if known is not None:
            return known
        endpoint = self._endpoint(target)
        found = endpoint, endpoint.codec.route(method, target)
        if len(self._known) < _KNOWN_TARGETS:
            self._known[method, target] = found
        return found

    def _endpoint(self, target: str) -> Endpoint:
        for endpoint in self._by_length:
            if target.startswith(endpoint.match):
                rest = target[len(endpoint.match) :]
                if not rest or rest[0] == "/":
                    return endpoint
        return self._first
