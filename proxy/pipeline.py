"""The way of a request, from top to bottom::

    downstream bytes ─ http.downstream ─▶ identity ─▶ protocols.decode ─▶ InferRequest
       ─▶ limits (leased rows) ─▶ detectors ─▶ patterns (client) ─▶ policy.decide
       ─▶ Permit | local reply
       ─▶ protocols.encode ─▶ http.upstream ─▶ pass | shape ─▶ downstream bytes
                             └▶ audit, metrics, what the state is told of the client

Scoring, deciding and enforcing are three steps. A request that nothing refuses is forwarded as the
bytes that were scored, re-serialised from what was understood. Nothing here awaits anything but the
upstream, once per client and lease the shared state for a few milliseconds, and, where the operator
demands that no answer leaves before its record is on disk, the audit log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import numpy as np
import structlog

from detectors.arrays import Floats
from detectors.base import Rows
from detectors.scorer import ScoreFault, Scorer
from proxy import rules
from proxy.answer import shaped
from proxy.decision import Action, Decision, Permit, Reason, UpstreamRequest
from proxy.endpoint import Endpoint, Router
from proxy.http import coding
from proxy.http.application import Intake
from proxy.http.exchange import Exchange
from proxy.http.messages import Head, Peer, Reply
from proxy.http.response import Response
from proxy.identity import Identifier, Identity
from proxy.policy import is_fault
from proxy.protocols.base import Call, InferRequest, Route
from proxy.rules import Refusal
from proxy.state.base import LeaseNeeded
from proxy.telemetry.audit import Audit
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.record import Record
from proxy.telemetry.trace import traceparent, tracestate

_log = structlog.get_logger("bartizan.pipeline")

INLINE_BYTES: Final = 32 * 1024
"""Plain bodies below this are decoded and scored on the loop: it takes two milliseconds at most.

Compressed ones are not, as they may grow."""

_REFILLS: Final = 16
"""Leases that one request may need in turn: each was taken by others once it was there."""

INSPECTIONS: Final = 64
"""Exchanges that may be, or wait to be, inspected in a thread; beyond it the answer is "busy"."""

_NO_HEAD: Final = Head("", "", {}, False)
_REFUSED: Final = (Action.BLOCK, Action.THROTTLE)


@dataclass(slots=True)
class Visit:
    """What is known of an exchange once its head was read.

    Attributes:
        recorded: whether the audit log has the record already.
        request: what was understood of the body, once it was.
    """

    endpoint: Endpoint
    route: Route
    identity: Identity
    record: Record
    recorded: bool = False
    request: InferRequest | None = None


class Pipeline:
    """Takes every exchange on its way. Implements ``http.application.Application``.

    Args:
        forward: lower-case names of the request headers that are passed on as they are.
        identify: who the client is.
        request_id: makes a fresh request id.
        metrics: counts what no endpoint took.
        audit: keeps a record of every exchange.
        clock: monotonic seconds.
        wall: seconds since the epoch.
        executor: runs what would hold the loop too long.
        configuration: the configuration's digest, for the audit log.
        digests: whether the audit log holds the SHA-256 of the body that was forwarded.
        values: whether it holds the rows. They may be personal data.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        forward: Sequence[str],
        identify: Identifier,
        request_id: Callable[[], str],
        metrics: Metrics,
        audit: Audit,
        clock: Callable[[], float],
        wall: Callable[[], float],
        executor: Executor,
        configuration: str,
        digests: bool = False,
        values: bool = False,
    ) -> None:
        self.endpoints = tuple(endpoints)
        self._router = Router(endpoints)
        self._forward = tuple((name.encode(), f"{name}: %b\r\n".encode()) for name in forward)
        self._forward_plain = tuple(pair for pair in self._forward if pair[0] != b"accept-encoding")
        self._identify = identify
        self._request_id = request_id
        self._metrics = metrics
        self._audit = audit
        self._clock = clock
        self._wall = wall
        self._executor = executor
        self._configuration = configuration
        self._inspections = 0
        self._digests = digests
        self._values = values

    def open(self, head: Head, peer: Peer) -> Intake:
        """Finds the route and the client, before any of the body is read."""
        endpoint, route = self._router.find(head.method, head.target)
        identity = self._identify(head, peer)
        record = self._record(head)
        record.endpoint = endpoint.name
        if endpoint.bundle is not None:
            record.bundle = endpoint.bundle.digest
        record.client = identity.client
        return Intake(endpoint.body_limit, Visit(endpoint, route, identity, record))

    async def handle(self, exchange: Exchange) -> None:
        """One exchange, from its whole request to its finished answer."""
        visit: Visit = exchange.context
        endpoint, record = visit.endpoint, visit.record
        record.received, record.read = exchange.received, exchange.read
        record.request_bytes = len(exchange.body)
        response: Response | None = None
        try:
            request = await self._inspected(visit, exchange)
            record.decided = self._clock()
            if request is None:
                await self._answer(exchange, visit)
                return
            response = await endpoint.pool.send(Permit(record.decision, request))
            record.answered = self._clock()
            record.status = response.status
            if self._audit.waits and not await self._recorded(visit):
                await self._answer(exchange, visit)
                return
            whole = response.complete
            if record.decision.enforced is Action.SHAPE:
                await self._shape(exchange, visit, response)
            else:
                record.response_bytes = await exchange.relay(response, _id_line(record))
            response = None
            if not whole:
                record.answered = self._clock()  # streaming waits for upstream and client, not us
        except Refusal as refusal:
            await self._fail(exchange, visit, refusal)  # the upstream's fault
        except Exception as fault:
            _log.exception("fault", endpoint=endpoint.name, request=record.id)
            await self._fail(exchange, visit, Refusal(rules.INTERNAL, repr(fault)))
        finally:
            if response is not None:
                response.discard()  # nobody takes it, and its connection is to be free
            record.finished = self._clock()
            endpoint.metrics.observe(record)
            if not visit.recorded:
                self._audit.append(record)

    async def _shape(self, exchange: Exchange, visit: Visit, response: Response) -> None:
        """Answers with what the model said, made coarse."""
        record = visit.record
        try:
            record.response_bytes = await shaped(
                exchange,
                response,
                visit.endpoint.codec,
                executor=self._executor,
                extra=_id_line(record),
            )
        except Refusal as refusal:
            if refusal.rule is not rules.UPSTREAM_INVALID:
                raise
            findings = [
                *record.decision.reasons,
                Reason(rules.ANSWER_UNREADABLE, refusal.detail),
            ]
            if self._refuses(visit, findings):
                response.discard()
                await self._answer(exchange, visit)
            elif response.complete:
                record.response_bytes = await exchange.relay(response, _id_line(record))
            else:  # too large, or broken off: nothing is left to pass on
                raise Refusal(rules.ANSWER_UNREADABLE, refusal.detail) from refusal

    def refuse(self, refusal: Refusal, head: Head | None, peer: Peer, received: float) -> Reply:
        """Answers what never reached :meth:`handle`: counted and audited like any other."""
        record = self._record(head)
        record.received = record.read = received
        record.decision = _blocked(refusal)
        record.client = self._identify(head or _NO_HEAD, peer).client
        endpoint, metrics = self.endpoints[0], self._metrics.unrouted
        if head is not None:
            with suppress(Refusal):
                endpoint, _ = self._router.find(head.method, head.target)
                record.endpoint, metrics = endpoint.name, endpoint.metrics
        reply = self._reply(endpoint, record)
        record.finished = self._clock()
        metrics.observe(record)
        self._audit.append(record)
        return reply

    async def _inspected(self, visit: Visit, exchange: Exchange) -> UpstreamRequest | None:
        """Inspects on the loop, or in a thread if that would hold the loop; and once more after
        each lease of quota that had to be fetched."""
        head, body = exchange.head, exchange.body
        light = len(body) < INLINE_BYTES and b"content-encoding" not in head.headers
        for _ in range(_REFILLS):
            try:
                if light:
                    return self._inspect(visit, head, body, inline=True)
                return await self._inspected_aside(visit, head, body)
            except LeaseNeeded as needed:
                await visit.endpoint.limiter.refill(needed)
        raise Refusal(rules.BUSY, "others took each lease that was fetched")

    async def _inspected_aside(
        self, visit: Visit, head: Head, body: bytes
    ) -> UpstreamRequest | None:
        """Inspects in a thread.

        Raises:
            LeaseNeeded: if quota has to be fetched first.
        """
        if self._inspections >= INSPECTIONS:
            raise Refusal(rules.BUSY, f"{INSPECTIONS} large requests are being inspected")
        self._inspections += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._executor, self._inspect, visit, head, body
            )
        finally:
            self._inspections -= 1

    def _inspect(
        self, visit: Visit, head: Head, body: bytes, *, inline: bool = False
    ) -> UpstreamRequest | None:
        """Decodes, meters, scores and decides. What to send upstream, or None to refuse.

        Args:
            inline: whether it runs on the loop, not in a thread.

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
            if findings and self._refuses(visit, findings):
                return None
            if visit.route.call is not Call.INFER:
                return self._upstream_request(visit, head)
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

            bundle = endpoint.bundle
            if bundle is not None and not (findings and self._refuses(visit, findings)):
                p_values = _score(bundle.scorer, request.rows, record, inline=inline)
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
        if findings and self._refuses(visit, findings):
            return None
        if request is not None:
            try:
                lines, encoded = codec.encode_request(request)
            except Exception as fault:
                _log.exception("fault", endpoint=endpoint.name, request=record.id)
                if self._refuses(visit, [*findings, Reason(rules.INTERNAL, repr(fault))]):
                    return None
                request = None
            else:
                body = encoded
        if request is None:
            # Monitor mode, or a fault that the failure mode tolerates: what was not understood
            # goes on as it came, in a head of our own.
            lines = _lines(head, codec.framing)
        if self._digests:
            record.notes["sha256"] = sha256(body).hexdigest()
        return self._upstream_request(visit, head, lines, body)

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

    def _refuses(self, visit: Visit, findings: Sequence[Reason]) -> bool:
        record = visit.record
        record.decision = visit.endpoint.policy.decide(findings, record.client, self._wall())
        record.fault = next((found.rule.id for found in findings if is_fault(found.rule)), "")
        return record.decision.enforced in _REFUSED

    def _upstream_request(
        self, visit: Visit, head: Head, lines: bytes = b"", body: bytes = b""
    ) -> UpstreamRequest:
        forwarded = _lines(head, self._forward)
        if visit.record.decision.enforced is Action.SHAPE:
            forwarded = _lines(head, self._forward_plain) + b"accept-encoding: identity\r\n"
        return UpstreamRequest(
            head.method.encode(),
            visit.route.target,
            b"%b%b%b%b"
            % (
                lines,
                forwarded,
                _trace_lines(head) if b"traceparent" in head.headers else b"",
                _id_line(visit.record),
            ),
            body,
        )

    def _record(self, head: Head | None) -> Record:
        record = Record(self._request_id(), 0.0, 0.0)
        record.configuration = self._configuration
        if head is not None:
            record.method, record.target = head.method, head.target
        return record

    async def _answer(self, exchange: Exchange, visit: Visit) -> None:
        """Sends the refusal that was decided on."""
        reply = self._reply(visit.endpoint, visit.record)
        if self._audit.waits and not visit.recorded:
            await self._recorded(visit)  # a refusal is sent even if it could not be recorded
        exchange.reply(reply)

    async def _fail(self, exchange: Exchange, visit: Visit, refusal: Refusal) -> None:
        """Answers a fault that no failure mode tolerates: there is nothing else to answer with."""
        record = visit.record
        record.decision = _blocked(refusal)
        if record.decided and not record.answered:
            record.answered = self._clock()  # the time until now was the upstream's
        if not exchange.status:
            await self._answer(exchange, visit)

    async def _recorded(self, visit: Visit) -> bool:
        """Puts the record on disk before its answer leaves; False if that refuses the answer."""
        record = visit.record
        record.finished = self._clock()
        visit.recorded = True
        ticket = self._audit.append(record)
        if ticket is not None and await self._audit.released(ticket):
            return True
        findings = [
            *record.decision.reasons,
            Reason(rules.AUDIT_FAULT, "the record is not on disk"),
        ]
        return not self._refuses(visit, findings)

    def _reply(self, endpoint: Endpoint, record: Record) -> Reply:
        """The refusal in the shape that the endpoint's clients expect."""
        reason = record.decision.reasons[0]
        # A client that is throttled for a pattern reads the words of an ordinary limit.
        rule = rules.PACED if reason.action is Action.THROTTLE else reason.rule
        content_type, body = endpoint.codec.refuse(Refusal(rule, reason.detail))
        headers = [(b"x-request-id", record.id.encode())]
        if reason.retry_after is not None:
            headers.append((b"retry-after", b"%d" % reason.retry_after))
        if rule is rules.METHOD:
            headers.append((b"allow", b"POST" if record.target.endswith("/infer") else b"GET"))
        record.status = rule.status
        record.response_bytes = len(body)
        return Reply(record.status, body, content_type, tuple(headers))


def _score(scorer: Scorer, rows: Rows, record: Record, *, inline: bool) -> Floats:
    """Scores (n, d) rows, notes the worst of them and how many are flagged, and returns the (n,)
    p-values."""
    if inline and len(rows) == 1:
        record.score, record.p_value, flagged = scorer.score_row(rows)
        record.signals = scorer.row_p_values()
        record.flagged_rows = int(flagged)
        return np.array((record.p_value,))
    verdicts = scorer.score(rows)
    worst = int(verdicts.merged.argmax())
    record.worst_row = worst
    record.score = float(verdicts.merged[worst])
    record.p_value = float(verdicts.p_values[worst])
    record.signals = dict(
        zip(verdicts.names, verdicts.detector_p_values[worst].tolist(), strict=True)
    )
    record.flagged_rows = int(verdicts.flagged.sum())
    return verdicts.p_values


def _id_line(record: Record) -> bytes:
    return b"x-request-id: %b\r\n" % record.id.encode()


def _blocked(refusal: Refusal) -> Decision:
    return Decision(Action.BLOCK, Action.BLOCK, (Reason.of(refusal),))


def _lines(head: Head, wanted: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The header lines of those wanted headers that the client sent."""
    headers = head.headers
    return b"".join([line % headers[name] for name, line in wanted if name in headers])


def _trace_lines(head: Head) -> bytes:
    """The trace context, if it is valid."""
    parent = traceparent(head.get(b"traceparent"))
    if parent is None:
        return b""
    state = tracestate(head.get(b"tracestate"))
    return b"traceparent: %b\r\n%b" % (parent, b"tracestate: %b\r\n" % state if state else b"")
