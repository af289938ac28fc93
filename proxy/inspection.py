"""A request on its way in: decoded, metered, scored and decided on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from hashlib import sha256
from typing import Any, Final

import structlog

from detectors.scorer import ScoreFault
from proxy import rules
from proxy.decision import Action, Reason, UpstreamRequest
from proxy.forwarding import Forwarding, chosen_lines
from proxy.http import coding
from proxy.http.line import Line
from proxy.http.messages import Head
from proxy.protocols.base import Call, Codec, Holds, InferRequest
from proxy.rules import Refusal
from proxy.scoring import found_in
from proxy.state.base import LeaseNeeded
from proxy.telemetry.audit import Audit
from proxy.visit import Visit

_log = structlog.get_logger("bartizan.pipeline")

INSPECTIONS: Final = 256
"""Exchanges that may be, or wait to be, inspected in a thread; beyond it the answer is "busy". That
bounds their memory; what bounds their wait is time:"""
_BURST: Final = (0.1, 8)
_STANDING: Final = (0.03, 2)
"""How long one may wait for a thread in a burst, and while others always wait: so many seconds, or
inspections as they have been of late, if they take longer."""
_INTERVAL: Final = 0.5
"""Seconds of long waits until they are no burst any more."""
_COMING: Final = 0.5
"""Seconds after which the body of a request that was let in is not waited for any more."""
_AT_ONCE: Final = 2  # that do not wait: threads of the executor

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

    Attributes:
        bounded: whether large requests are turned away while too many wait.
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
        self.bounded = True
        self._line = Line(clock())
        self._coming: deque[float] = deque()  # when heavy requests were let in, not here yet
        self._digests = digests
        self._values = values

    def admits(self, codec: Codec, head: Head, limit: int) -> bool:
        """Whether a request with this head is to be read: not if it would wait too long for a
        thread then, as far as its head tells that it needs one. One that says to be longer than
        ``limit`` does not: it is refused unread."""
        length = head.headers.get(b"content-length")
        if length is None or (
            (size := int(length)) < codec.inline_bytes and b"content-encoding" not in head.headers
        ):
            return True
        if size > limit:
            return True
        now, coming = self._clock(), self._coming
        while coming and now - coming[0] > _COMING:
            coming.popleft()
        if self._crowded(len(coming), now):
            return False
        coming.append(now)
        return True

    def _crowded(self, coming: int, now: float) -> bool:
        if not self.bounded:
            return False
        if self._waiting + coming >= INSPECTIONS:
            return True
        ahead = self._waiting + coming - _AT_ONCE
        if ahead <= 0:
            return False
        pace = self._line.pace
        burst, standing = (max(least, count * pace) for least, count in (_BURST, _STANDING))
        return self._line.refuses(ahead, now, burst, standing, _INTERVAL)

    async def inspect(self, visit: Visit, head: Head, body: bytes) -> UpstreamRequest | None:
        """Inspects on the loop, or in a thread if that would hold the loop; and once more after
        each lease of quota that had to be fetched.

        Returns:
            What to send upstream, or None: the decision in the record refuses.

        Raises:
            Refusal: BUSY.
        """
        # A compressed body may grow.
        visit.light = (
            len(body) < visit.binding.codec.inline_bytes and b"content-encoding" not in head.headers
        )
        for _ in range(_REFILLS):
            try:
                if visit.light:
                    if visit.heard is None:
                        return self._inspect(visit, head, body)
                    with visit.endpoint.clients.turn:  # no thread comes in between
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
        now = self._clock()
        expected = bool(self._coming)
        if expected:
            self._coming.popleft()  # perhaps another's: they are only counted
        if self._crowded(0, now) and (not expected or self._waiting >= INSPECTIONS):
            raise Refusal(rules.BUSY, "too many large requests wait to be inspected", retry_after=1)
        if self._waiting < _AT_ONCE:
            self._line.empty(now)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._executor, self._inspect, visit, head, body
            )
        finally:
            self._waiting -= 1
            if self._waiting >= _AT_ONCE:
                self._line.left(self._clock())

    def _inspect(self, visit: Visit, head: Head, body: bytes) -> UpstreamRequest | None:
        """Decodes, meters, scores and decides. What to send upstream, or None to refuse.

        Raises:
            LeaseNeeded: if quota has to be fetched first; the decoded request stays in ``visit``.
        """
        endpoint, record, identity = visit.endpoint, visit.record, visit.identity
        codec = visit.binding.codec  # of one contract from here to the end
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

            limited = self._take(visit, request.n)
            record.admitted = self._clock()
            if limited is not None:
                findings.append(Reason.of(limited))

            if request.options and endpoint.judge is not None and _ranks(request.options):
                findings.append(Reason(rules.TENSOR_NAME, _RANKED))

            bundle = endpoint.bundle if request.answer is Holds.TENSORS else None
            if bundle is not None and not (findings and visit.refuses(findings, self._wall())):
                findings += found_in(visit, request.rows, bundle, visit.taken)
                record.scored = self._clock()
        except Refusal as refusal:
            findings.append(Reason.of(refusal))
            if request is None:
                # What cannot be read costs its sender a row: trying is not free.
                limited = self._take(visit, 1)
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
        else:
            visit.meter = request.meter
            if _reads(visit, request):
                visit.reads = True
            elif not record.decision.reasons:
                visit.request = None  # its memory is free while the model works
        if self._digests:
            record.notes["sha256"] = sha256(body).hexdigest()
        return self._forwarding.request(visit, head, lines, body)

    def _take(self, visit: Visit, rows: int) -> Refusal | None:
        """Takes rows from the quotas: None if they were there.

        Raises:
            LeaseNeeded: if quota has to be fetched first.
        """
        endpoint = visit.endpoint
        if visit.heard is not None and not visit.light:
            with endpoint.clients.turn:
                visit.taken = self._clock()
                return endpoint.limiter.take(visit.identity, rows, visit.taken)
        visit.taken = self._clock()
        return endpoint.limiter.take(visit.identity, rows, visit.taken)


def _reads(visit: Visit, request: InferRequest) -> bool:
    """Whether the answer is to be understood."""
    endpoint = visit.endpoint
    if request.answer is Holds.TEXT:
        return False
    if request.answer is Holds.ROWS and endpoint.bundle is not None:
        return True
    return endpoint.reads_answers or visit.record.decision.enforced is Action.SHAPE


def _ranks(options: Mapping[str, Any]) -> bool:
    """Whether a request asks for rankings in place of an output. Their strings do not tell what the
    output would have said: of a single column, each ranks index 0 first."""
    return any(
        "classification" in output.get("parameters", ()) for output in options.get("outputs", ())
    )
