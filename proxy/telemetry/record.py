"""What is known of one exchange once it is over: metrics and audit are made of this one value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from proxy.decision import ALLOWED, Decision


@dataclass(slots=True)
class Record:
    """One exchange, from the first byte of its request to the last of its answer.

    Times are seconds on the injected monotonic clock, 0.0 where the stage was not reached.

    Attributes:
        id: the request id, on every answer.
        endpoint: the endpoint's configured name, or "" if no route matched.
        client: the client's pseudonym (HMAC), never a raw key or address.
        status: what the client was answered; 0 if it left before.
        rows: number of rows, 0 if the request was not understood.
        score: the largest merged score over rows, None if nothing was scored.
        p_value: the smallest merged p-value over rows.
        worst_row: the index of that row.
        flagged_rows: how many rows passed the threshold, by themselves or with their answer.
        signals: each detector's p-value for the worst row.
        answer_score: the largest score over rows with their answers, in nats; None if no answer was
            judged.
        answer_p_value: the smallest p-value over rows with their answers.
        answer_row: the index of that row.
        answer_label: the class that the model gave that row, or "".
        answer_flagged_rows: how many rows passed the threshold with their answer.
        answer_signals: each agreement detector's and second opinion's p-value for that row.
        suspicious_rows: rows of which a second opinion was worth its cost.
        asked_rows: those of them of which the model was asked again.
        opinion_rows: the changed copies that it was asked about.
        opinion_fault: why it gave no second opinion, or "".
        shaped: whether the answer was made coarse.
        bundle: the digest of the bundle that scored it, or "".
        configuration: the digest of the configuration that served it.
        fault: the rule id of a fault of ours that the failure mode decided, or "".
        request_bytes, response_bytes: bodies as received and as sent.
        received: first byte of the request.
        read: request complete.
        decoded, admitted, scored, decided: the end of each stage of the way in.
        answered: the upstream's answer seen: its head, or all of it where it was streamed or read.
        judged: the answer judged together with its input.
        reconsidered: a second opinion heard, or given up.
        finished: last byte of the answer handed to the connection.
        notes: whatever else the audit log is to hold; never payload values unless asked.
    """

    id: str
    received: float
    read: float
    endpoint: str = ""
    client: str = ""
    method: str = ""
    target: str = ""
    decision: Decision = ALLOWED
    status: int = 0
    rows: int = 0
    score: float | None = None
    p_value: float | None = None
    worst_row: int = 0
    flagged_rows: int = 0
    signals: dict[str, float] = field(default_factory=dict)
    answer_score: float | None = None
    answer_p_value: float = 1.0
    answer_row: int = 0
    answer_label: str = ""
    answer_flagged_rows: int = 0
    answer_signals: dict[str, float] = field(default_factory=dict)
    suspicious_rows: int = 0
    asked_rows: int = 0
    opinion_rows: int = 0
    opinion_fault: str = ""
    shaped: bool = False
    bundle: str = ""
    configuration: str = ""
    fault: str = ""
    request_bytes: int = 0
    response_bytes: int = 0
    decoded: float = 0.0
    admitted: float = 0.0
    scored: float = 0.0
    decided: float = 0.0
    answered: float = 0.0
    judged: float = 0.0
    reconsidered: float = 0.0
    finished: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def upstream_seconds(self) -> float:
        """Time spent waiting for the upstream's head, 0.0 if it was not asked."""
        return self.answered - self.decided if self.answered else 0.0

    @property
    def overhead_seconds(self) -> float:
        """Time that the firewall itself took: without reading the request, without the upstream."""
        return self.finished - self.read - self.upstream_seconds
