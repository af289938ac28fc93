"""The way of a request, from top to bottom::

    downstream bytes ─ http.downstream ─▶ identity
       ─▶ inspection: protocols.decode ─▶ limits (leased rows) ─▶ detectors ─▶ patterns (client)
       ─▶ policy.decide ─▶ Permit | local reply
       ─▶ protocols.encode ─▶ http.upstream
       ─▶ answer: protocols.decode ─▶ detectors that need the answer ─▶ policy.decide
       ─▶ refuse | shape | pass ─▶ downstream bytes
                                └▶ audit, metrics, what the state is told of the client

Scoring, deciding and enforcing are three steps. A request that nothing refuses is forwarded as the
bytes that were scored, re-serialised from what was understood; an answer that nothing needs is
streamed as it comes. Nothing here awaits anything but the upstream, once per client and lease the
shared state for a few milliseconds, and, where the operator demands that no answer leaves before
its record is on disk, the audit log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from proxy import rules
from proxy.answer import AnswerInspection
from proxy.decision import Action, Decision, Permit, Reason
from proxy.endpoint import Binding, Endpoint, Router
from proxy.explanations import Explanations
from proxy.forwarding import Forwarding, id_line
from proxy.http.application import Intake, Shed
from proxy.http.messages import Head, Peer, Reply
from proxy.identity import Headers, Identifier, Identity
from proxy.inspection import Inspection
from proxy.protocols.base import Call, Meter
from proxy.recording import NOTE, note, unread
from proxy.rules import Refusal, Rule
from proxy.sheds import Sheds
from proxy.telemetry.audit import Audit
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.record import Record
from proxy.transport import Answer, Exchange
from proxy.visit import Visit

_log = structlog.get_logger("bartizan.pipeline")

_NO_HEAD: Final = Head("", "", {}, False)


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
        explanations: keeps what can be explained of the last exchanges.
        replays: whether the audit log holds all that it takes to decide anew.

    Attributes:
        endpoints: as given.
        identify: as given.
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
        explanations: Explanations,
        digests: bool = False,
        values: bool = False,
        replays: bool = False,
    ) -> None:
        self.endpoints = tuple(endpoints)
        self._router = Router(endpoints)
        self.identify: Callable[[Headers, Peer], Identity] = identify
        self._replays = replays
        self._request_id = request_id
        self._metrics = metrics
        self._audit = audit
        self._clock = clock
        self._wall = wall
        self._configuration = configuration
        self._explanations = explanations
        self.sheds = Sheds(audit)
        self._shed_replies: dict[tuple[str, str, Rule], Reply] = {}
        forwarding = Forwarding(forward)
        self._requests = Inspection(
            forwarding,
            audit=audit,
            clock=clock,
            wall=wall,
            executor=executor,
            digests=digests,
            values=values,
        )
        self._answers = AnswerInspection(
            forwarding, clock=clock, wall=wall, executor=executor, values=values
        )

    def rehearse(self, identify: Callable[[Headers, Peer], Identity]) -> None:
        """Takes it as known who a client is, and turns nobody away because others are waiting."""
        self.identify = identify
        self._requests.bounded = False

    def open(self, head: Head, peer: Peer) -> Intake:
        """Finds the route and the client, before any of the body is read."""
        endpoint, binding, route = self._router.find(head.method, head.target)
        if route.call is Call.INFER:
            if binding.pool.crowded:
                raise self._shed(rules.UPSTREAM_QUEUE, endpoint, binding)
            if not self._requests.admits(binding.codec, head, endpoint.body_limit):
                raise self._shed(rules.BUSY, endpoint, binding)
        identity = self.identify(head, peer)
        record = self._record(head)
        record.endpoint = endpoint.name
        if endpoint.bundle is not None:
            record.bundle = endpoint.bundle.digest
        record.client = identity.client
        return Intake(endpoint.body_limit, Visit(endpoint, binding, route, identity, record))

    def shed(self, head: Head) -> Reply | None:
        """As ``Application``: everything but what asks how a model does."""
        try:
            endpoint, binding, route = self._router.find(head.method, head.target)
        except Refusal:  # a flood of these is shed as any other
            self.sheds.count("", rules.BUSY, self._metrics.unrouted)
            return self._shed_reply(self._router.nearest(head.method, head.target)[1], rules.BUSY)
        if route.call is not Call.INFER:
            return None
        return self._shed(rules.BUSY, endpoint, binding).reply

    def _shed(self, rule: Rule, endpoint: Endpoint, binding: Binding) -> Shed:
        self.sheds.count(endpoint.name, rule, endpoint.metrics)
        return Shed(rule, self._shed_reply(binding, rule))

    def _shed_reply(self, binding: Binding, rule: Rule) -> Reply:
        """The refusal in the shape that the protocol's clients expect, made once."""
        key = (binding.codec.name, binding.match, rule)
        reply = self._shed_replies.get(key)
        if reply is None:
            content_type, body, further = binding.codec.refuse(Refusal(rule, retry_after=1))
            headers = ((b"retry-after", b"1"), *further)
            self._shed_replies[key] = reply = Reply(rule.status, body, content_type, headers)
        return reply

    async def handle(self, exchange: Exchange) -> None:
        """One exchange, from its whole request to its finished answer."""
        visit: Visit = exchange.context
        endpoint, record = visit.endpoint, visit.record
        record.received, record.read = exchange.received, exchange.read
        record.request_bytes = len(exchange.body)
        if self._replays:
            visit.heard = []
        response: Answer | None = None
        try:
            request = await self._requests.inspect(visit, exchange.head, exchange.body)
            record.decided = self._clock()
            if request is None:
                await self._answer(exchange, visit)
                return
            upstream = exchange.upstream or visit.binding.pool
            response = await upstream.send(Permit(record.decision, request))
            record.answered = self._clock()
            record.status = response.status
            if response.status >= 400:
                visit.meter = None  # the model did nothing
            shaped = None
            if visit.reads and 200 <= response.status < 400 and not response.bodiless:
                shaped = await self._answers.inspect(visit, exchange.head, response)
            whole = response.complete
            if visit.refused or (self._audit.waits and not await self._recorded(visit, exchange)):
                await self._answer(exchange, visit)
                return
            if shaped is not None:
                sent = exchange.replace(response, *shaped, id_line(record.id))
                shaped = None  # its memory is free while the client takes it
            else:
                sent = await exchange.relay(response, id_line(record.id), visit.tap)
            record.response_bytes = sent
            response = None
            if not whole:
                record.answered = self._clock()  # streaming waits for upstream and client, not us
            self._sample(visit)
        except Refusal as refusal:
            await self._fail(exchange, visit, refusal)  # the upstream's fault
        except Exception as fault:
            _log.exception("fault", endpoint=endpoint.name, request=record.id)
            await self._fail(exchange, visit, Refusal(rules.INTERNAL, repr(fault)))
        finally:
            if response is not None:
                response.discard()  # nobody takes it, and its connection is to be free
            record.finished = self._clock()
            if visit.meter is not None:
                self._charge(visit, visit.meter)
            if not exchange.status:
                record.status = 0  # the client left first
            endpoint.metrics.observe(record)
            if not visit.recorded:
                self._note(visit, exchange)
                self._audit.append(record)
            if record.decision.reasons:
                self._explanations.keep(record, visit.rows, visit.answers)
            if visit.held:
                await self._taken(exchange, visit)

    def _charge(self, visit: Visit, meter: Meter) -> None:
        """Charges what only the answer, as far as it came, could tell that it cost. The answer has
        left: a fault lets that pass uncharged, and the record says so."""
        record, fault = visit.record, visit.meter_fault
        if not fault:
            try:
                owed = meter.units() - record.rows
                if owed > 0:
                    visit.endpoint.limiter.charge(visit.identity, owed, record.finished)
                    record.rows += owed
            except Exception as error:
                fault = repr(error)
            else:
                return
        found = Reason(rules.INTERNAL, f"not charged: {fault}")
        record.decision = replace(record.decision, reasons=(*record.decision.reasons, found))
        record.fault = record.fault or rules.INTERNAL.id
        _log.error("fault", endpoint=visit.endpoint.name, request=record.id, uncharged=fault)

    async def _taken(self, exchange: Exchange, visit: Visit) -> None:
        """Waits until the client has taken a large answer, which counts as held so long."""
        visit.request = visit.response = visit.answers = visit.scored = None
        try:
            if exchange.answered:
                await exchange.drained()
        finally:
            self._answers.release(visit)

    def _sample(self, visit: Visit) -> None:
        """Offers an exchange that was answered, and not shaped by decision, to the sample of live
        traffic."""
        capture, decision = visit.endpoint.capture, visit.record.decision
        rows, response = visit.rows, visit.response
        if capture is None or rows is None or response is None:
            return
        if decision.enforced is not Action.ALLOW:
            return
        try:
            capture.offer(visit.identity, rows, response, self._wall(), decision)
        except Exception:  # the client has its answer: the record is to say so
            capture.left_out["faults"] += len(rows)
            _log.exception("fault", endpoint=visit.endpoint.name, request=visit.record.id)

    def refuse(self, refusal: Refusal, head: Head | None, peer: Peer, received: float) -> Reply:
        """Answers what never reached :meth:`handle`: counted and audited like any other."""
        record = self._record(head)
        record.received = record.read = received
        record.decision = _blocked(refusal)
        record.client = self.identify(head or _NO_HEAD, peer).client
        metrics = self._metrics.unrouted
        method, target = ("", "") if head is None else (head.method, head.target)
        _, binding = self._router.nearest(method, target)
        if head is not None:
            with suppress(Refusal):
                endpoint, binding, _ = self._router.find(method, target)
                record.endpoint, metrics = endpoint.name, endpoint.metrics
        reply = self._reply(binding, record)
        record.finished = self._clock()
        if self._replays:
            record.notes[NOTE] = unread(received)
        metrics.observe(record)
        self._audit.append(record)
        self._explanations.keep(record, None, None)
        return reply

    def _record(self, head: Head | None) -> Record:
        record = Record(self._request_id(), 0.0, 0.0)
        record.configuration = self._configuration
        if head is not None:
            record.method, record.target = head.method, head.target
        return record

    async def _answer(self, exchange: Exchange, visit: Visit) -> None:
        """Sends the refusal that was decided on."""
        reply = self._reply(visit.binding, visit.record)
        if self._audit.waits and not visit.recorded:
            await self._recorded(visit, exchange)  # a refusal is sent even if that failed
        exchange.reply(reply)

    async def _fail(self, exchange: Exchange, visit: Visit, refusal: Refusal) -> None:
        """Answers a fault that no failure mode tolerates: there is nothing else to answer with."""
        record = visit.record
        record.decision = _blocked(refusal)
        if record.decided and not record.answered:
            record.answered = self._clock()  # the time until now was the upstream's
        if not exchange.status:
            await self._answer(exchange, visit)

    def _note(self, visit: Visit, exchange: Exchange) -> None:
        """Adds to the record what it takes to decide anew, where that is wanted."""
        if visit.heard is not None:
            told = note(visit, exchange.head, exchange.body, self._wall())
            visit.record.notes[NOTE] = told

    async def _recorded(self, visit: Visit, exchange: Exchange) -> bool:
        """Puts the record on disk before its answer leaves; False if that refuses the answer."""
        record = visit.record
        record.finished = self._clock()
        visit.recorded = True
        self._note(visit, exchange)
        ticket = self._audit.append(record)
        if ticket is not None and await self._audit.released(ticket):
            return True
        findings = [*visit.findings, Reason(rules.AUDIT_FAULT, "the record is not on disk")]
        return not visit.refuses(findings, self._wall())

    def _reply(self, binding: Binding, record: Record) -> Reply:
        """The refusal in the shape that the protocol's clients expect."""
        reason = record.decision.reasons[0]
        # A client that is throttled for a pattern reads the words of an ordinary limit.
        rule = rules.PACED if reason.action is Action.THROTTLE else reason.rule
        content_type, body, further = binding.codec.refuse(Refusal(rule, reason.detail))
        headers = [(b"x-request-id", record.id.encode()), *further]
        if reason.retry_after is not None:
            headers.append((b"retry-after", b"%d" % reason.retry_after))
        if rule is rules.METHOD and (allowed := self._router.allowed(record.target)):
            headers.append((b"allow", allowed.encode()))
        record.status = rule.status
        record.response_bytes = len(body)
        return Reply(record.status, body, content_type, tuple(headers))


def _blocked(refusal: Refusal) -> Decision:
    return Decision(Action.BLOCK, Action.BLOCK, (Reason.of(refusal),))
