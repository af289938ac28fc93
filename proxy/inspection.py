"""A request on its way in: decoded, metered, scored and decided on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from hashlib import sha256
from typing import Any, Final

import numpy as np
import structlog

from detectors.arrays import Floats
from detectors.base import Rows
from detectors.bundle import Bundle
from detectors.scorer import ScoreFault
from proxy import rules
from proxy.decision import Action, Reason, UpstreamRequest
from proxy.forwarding import Forwarding, chosen_lines
from proxy.http import coding
from proxy.http.messages import Head
from proxy.protocols.base import Call
from proxy.rules import Refusal
from proxy.state.base import LeaseNeeded
from proxy.telemetry.audit import Audit
from proxy.visit import Scored, Visit

_log = structlog.get_logger("bartizan.pipeline")

INLINE_BYTES: Final = 32 * 1024
"""Plain bodies below this are decoded and scored on the loop: it takes two milliseconds at most.

Compressed ones are not, as they may grow."""

INSPECTIONS: Final = 64
"""Exchanges that may be, or wait to be, inspected in a thread; beyond it the answer is "busy"."""

_RANKED: Final = "answers are judged here: no output can be asked for as a classification"

_REFILLS: Final = 16
"""Leases that one request may need in turn: each was taken by others once it was there."""


class Inspection:
    """Inspects requests.

    Args:
        forwarding: writes what is sent upstream.
        audit: whose queue must have room.
        clock: monotonic seconds.
        wall: seconds since the epoch.
        executor: runs what would hold the loop too long.
        digests: whether the audit log holds the SHA-256 of the body that was forwarded.
        values: whether it holds the rows. They may be personal data.
    """

    def __init__(
        self,
        forwarding: Forwarding,
        *,
        audit: Audit,
        clock: Callable[[], float],
        wall: Callable[[], float],
        executor: Executor,
        digests: bool = False,
        values: bool = False,
    ) -> None:
        self._forwarding = forwarding
        self._audit = audit
        self._clock = clock
        self._wall = wall
        self._executor = executor
        self._waiting = 0
        self._digests = digests
        self._values = values

    async def inspect(self, visit: Visit, head: Head, body: bytes) -> UpstreamRequest | None:
        """Inspects on the loop, or in a thread if that would hold the loop; and once more after
        each lease of quota that had to be fetched.

        Returns:
            What to send upstream, or None: the decision in the record refuses.

        Raises:
            Refusal: BUSY.
        """
        visit.light = len(body) < INLINE_BYTES and b"content-encoding" not in head.headers
        for _ in range(_REFILLS):
            try:
                if visit.light:
                    return self._inspect(visit, head, body)
                return await self._aside(visit, head, body)
            except LeaseNeeded as needed:
                await visit.endpoint.limiter.refill(needed)
        raise Refusal(rules.BUSY, "others took each lease that was fetched")

    async def _aside(self, visit: Visit, head: Head, body: bytes) -> UpstreamRequest | None:
        """Inspects in a thread.

        Raises:
            LeaseNeeded: if quota has to be fetched first.
        """
        if self._waiting >= INSPECTIONS:
            raise Refusal(rules.BUSY, f"{INSPECTIONS} large requests are being inspected")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._executor, self._inspect, visit, head, body
            )
        finally:
            self._waiting -= 1

    def _inspect(self, visit: Visit, head: Head, body: bytes) -> UpstreamRequest | None:
        """Decodes, meters, scores and decides. What to send upstream, or None to refuse.

        Raises:
            LeaseNeeded: if quota has to be fetched first; the decoded request stays in ``visit``.
        """
        endpoint, record, identity = visit.endpoint, visit.record, visit.identity
        codec = endpoint.codec  # of one contract from here to the end
        request = visit.request
        findings: list[Reason] = []
        try:
            if self._audit.full:
                findings.append(Reason(rules.AUDIT_FAULT, "the queue of records is full"))
            banned = endpoint.clients.banned(identity.client, record.read)
            if banned is not None:
                findings.append(Reason(rules.BANNED, f"for another {banned} s"))
            if findings and visit.refuses(findings, self._wall()):
                return None
            if visit.route.call is not Call.INFER:
                return self._forwarding.request(visit, head)
            if request is None:
                content_coding = head.get(b"content-encoding")
                if content_coding is not None:
                    body = coding.decode(
                        content_coding,
                        body,
                        limit=endpoint.body_limit,
                        ratio=endpoint.expanded_ratio,
                    )
                visit.request = request = codec.decode_request(head, body, visit.route)
                record.rows = request.n
                record.decoded = self._clock()

            limited = endpoint.limiter.take(identity, request.n, self._clock())
            record.admitted = self._clock()
            if limited is not None:
                findings.append(Reason.of(limited))

            if request.options and endpoint.judge is not None and _ranks(request.options):
                findings.append(Reason(rules.TENSOR_NAME, _RANKED))

            bundle = endpoint.bundle
            if bundle is not None and not (findings and visit.refuses(findings, self._wall())):
                p_values = _score(bundle, request.rows, visit)
                outlier = endpoint.policy.outlier(record.flagged_rows, request.n)
                if outlier is not None:
                    findings.append(outlier)
                findings += self._patterns(visit, request.rows, p_values, record.admitted)
                record.scored = self._clock()
        except Refusal as refusal:
            findings.append(Reason.of(refusal))
            if request is None:
                # What cannot be read costs its sender a row: trying is not free.
                limited = endpoint.limiter.take(identity, 1, self._clock())
                if limited is not None:
                    findings.append(Reason.of(limited))
        except LeaseNeeded:
            raise
        except ScoreFault as fault:
            findings.append(Reason(rules.DETECTOR_FAULT, str(fault)))
        except Exception as fault:
            _log.exception("fault", endpoint=endpoint.name, request=record.id)
            findings.append(Reason(rules.INTERNAL, repr(fault)))
        if self._values and request is not None:
            record.notes["values"] = request.rows
        if findings and visit.refuses(findings, self._wall()):
            return None
        if request is not None:
            try:
                lines, encoded = codec.encode_request(request)
            except Exception as fault:
                _log.exception("fault", endpoint=endpoint.name, request=record.id)
                if visit.refuses([*findings, Reason(rules.INTERNAL, repr(fault))], self._wall()):
                    return None
                request = visit.request = visit.scored = None
            else:
                body = encoded
        if request is None:
            # Monitor mode, or a fault that the failure mode tolerates: what was not understood
            # goes on as it came, in a head of our own.
            lines = chosen_lines(head, codec.framing)
        elif endpoint.reads_answers or record.decision.enforced is Action.SHAPE:
            visit.reads = True
        elif not record.decision.reasons:
            visit.request = None  # its memory is free while the model works
        if self._digests:
            record.notes["sha256"] = sha256(body).hexdigest()
        return self._forwarding.request(visit, head, lines, body)

    def _patterns(
        self, visit: Visit, rows: Rows, p_values: Floats | None, now: float
    ) -> Sequence[Reason]:
        """What the client's queries amount to with these among them; mostly nothing."""
        endpoint = visit.endpoint
        try:
            alarms = endpoint.clients.observe(visit.identity, rows, p_values, now)
        except ScoreFault as fault:
            return (Reason(rules.PATTERN_FAULT, str(fault)),)
        if not alarms:
            return ()
        policy = endpoint.policy
        reasons = [policy.pattern(alarm) for alarm in alarms]
        if any(reason.action is Action.THROTTLE for reason in reasons):
            wait = endpoint.clients.pace(visit.identity.client, len(rows), now)
            reasons = [policy.paced(reason, wait) for reason in reasons]
        return reasons


def _ranks(options: Mapping[str, Any]) -> bool:
    """Whether a request asks for rankings in place of an output. Their strings do not tell what the
    output would have said: of a single column, each ranks index 0 first."""
    return any(
        "classification" in output.get("parameters", ()) for output in options.get("outputs", ())
    )


def _score(bundle: Bundle, rows: Rows, visit: Visit) -> Floats:
    """Scores (n, d) rows, notes the worst of them and how many are flagged, and returns the (n,)
    p-values."""
    scorer, record = bundle.scorer, visit.record
    if bundle.embedding is not None:
        rows = bundle.embedding.embed(rows)
    if len(rows) == 1 and visit.light:
        record.score, record.p_value, flagged = scorer.score_row(rows)
        record.signals = scorer.row_p_values()
        record.flagged_rows = int(flagged)
        if bundle.agreement is not None:
            visit.scored = Scored(rows, np.array((record.score,)), np.array((flagged,)))
        return np.array((record.p_value,))
    verdicts = scorer.score(rows)
    record.worst_row = worst = int(verdicts.merged.argmax())
    record.score = float(verdicts.merged[worst])
    record.p_value = float(verdicts.p_values[worst])
    record.signals = dict(
        zip(verdicts.names, verdicts.detector_p_values[worst].tolist(), strict=True)
    )
    record.flagged_rows = int(verdicts.flagged.sum())
    if bundle.agreement is not None:
        visit.scored = Scored(rows, verdicts.merged, verdicts.flagged)
    return verdicts.p_values
