"""What is known of one exchange while it is under way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detectors.agreement.base import Answers
from detectors.arrays import Floats
from detectors.base import Rows
from proxy.decision import Action, Reason
from proxy.endpoint import Binding, Endpoint
from proxy.identity import Identity
from proxy.policy import is_fault
from proxy.protocols.base import InferRequest, InferResponse, Meter, Route
from proxy.recording import Heard
from proxy.telemetry.record import Record

_REFUSED = (Action.BLOCK, Action.THROTTLE)


@dataclass(frozen=True, slots=True)
class Scored:
    """What the way in found out about the rows, for the way back.

    Attributes:
        rows: (n, e) float32, as the detectors see them: after the embedding, if there is one.
        merged: (n,) merged scores.
        flagged: (n,) which of them passed the threshold.
    """

    rows: Rows
    merged: Floats
    flagged: npt.NDArray[np.bool_]


@dataclass(slots=True)
class Visit:
    """One exchange, once its head was read.

    Attributes:
        binding: the protocol by which the endpoint is asked.
        recorded: whether the audit log has the record already.
        request: what was understood of the body, once it was.
        light: whether it is cheap enough to be inspected on the loop.
        findings: all that was found so far, tolerated or not.
        scored: kept where the answer is to be judged together with the rows.
        reads: whether the answer is to be understood.
        response: what was understood of it, once it was.
        answers: the same in the detectors' words.
        held: bytes of an answer that count as held until the client has taken it.
        meter: reads off the answer what it cost; None: that is known.
        metered: whether it has seen the answer already.
        meter_fault: why it stopped reading, or "".
        taken: the moment at which limits and patterns counted it.
        heard: the model's answers that were read, kept where the exchange is to be replayed.
        watched: what was inspected in a thread and is to be replayed was counted by the patterns
            after those that came before this moment.
        weighed: the same, of the budget of second opinions.
        drawn: the numbers by which rows to ask about were sampled.
    """

    endpoint: Endpoint
    binding: Binding
    route: Route
    identity: Identity
    record: Record
    recorded: bool = False
    request: InferRequest | None = None
    light: bool = False
    findings: Sequence[Reason] = ()
    scored: Scored | None = None
    reads: bool = False
    response: InferResponse | None = None
    answers: Answers | None = None
    held: int = 0
    meter: Meter | None = None
    metered: bool = False
    meter_fault: str = ""
    taken: float = 0.0
    heard: list[Heard] | None = None
    watched: float = 0.0
    weighed: float = 0.0
    drawn: Floats | None = None

    @property
    def rows(self) -> Rows | None:
        """(n, d) what was or would be scored, as on the wire; None if it was not understood, or is
        no longer needed."""
        if self.response is not None and self.response.rows is not None:
            return self.response.rows
        return None if self.request is None else self.request.rows

    @property
    def tap(self) -> Callable[[bytes], None] | None:
        """What is to see the answer while it is passed on."""
        return None if self.meter is None or self.metered else self.show

    def show(self, piece: bytes) -> None:
        """Shows the meter some of the answer. A fault of the meter's breaks no answer: it is kept
        for the record."""
        if self.meter is None or self.meter_fault:
            return
        try:
            self.meter.add(piece)
        except Exception as fault:
            self.meter_fault = repr(fault)

    def refuses(self, findings: Sequence[Reason], now: float) -> bool:
        """Decides over everything that was found, and whether that refuses the exchange.

        Args:
            now: seconds since the epoch.
        """
        record = self.record
        self.findings = findings
        record.decision = self.endpoint.policy.decide(findings, record.client, now)
        record.fault = next((found.rule.id for found in findings if is_fault(found.rule)), "")
        return self.refused

    @property
    def refused(self) -> bool:
        """Whether the decision so far refuses the exchange."""
        return self.record.decision.enforced in _REFUSED
