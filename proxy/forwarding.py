"""What is sent upstream for a client's request: built from scratch, of what was understood."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.decision import Mode, UpstreamRequest
from proxy.http.messages import Head
from proxy.telemetry.trace import traceparent, tracestate
from proxy.visit import Visit


class Forwarding:
    """Writes requests to the model server.

    Args:
        forward: lower-case names of the request headers that are passed on as they are.
    """

    def __init__(self, forward: Sequence[str]) -> None:
        self._forward = tuple((name.encode(), f"{name}: %b\r\n".encode()) for name in forward)
        self._plain = tuple(pair for pair in self._forward if pair[0] != b"accept-encoding")
        self._dull = tuple(pair for pair in self._plain if pair[0] != b"accept")

    def request(
        self, visit: Visit, head: Head, lines: bytes = b"", body: bytes = b""
    ) -> UpstreamRequest:
        """One request, with the client's headers as far as they are passed on.

        Args:
            lines: header lines that describe the body, each ended by CRLF.
        """
        further = visit.binding.codec.forwarded
        if further:
            lines += chosen_lines(head, further)
        if visit.reads or visit.meter is not None:
            wanted = self._dull if visit.reads and not _is_understood(visit, head) else self._plain
            forwarded = chosen_lines(head, wanted) + b"accept-encoding: identity\r\n"
        else:
            forwarded = chosen_lines(head, self._forward)
        return UpstreamRequest(
            visit.route.method.encode(),
            visit.route.target,
            b"%b%b%b%b"
            % (
                lines,
                forwarded,
                _trace_lines(head) if b"traceparent" in head.headers else b"",
                id_line(visit.record.id),
            ),
            body,
        )


def _is_understood(visit: Visit, head: Head) -> bool:
    """Whether the client's wish for a kind of answer leads to one that is understood. A monitored
    endpoint grants any: it changes nothing that its clients could see."""
    wish = head.headers.get(b"accept")
    return (
        wish is None
        or wish.strip().lower() in visit.binding.codec.accepts
        or visit.endpoint.policy.mode is Mode.MONITOR
    )


def id_line(request_id: str) -> bytes:
    """The header line of a request id."""
    return b"x-request-id: %b\r\n" % request_id.encode()


def chosen_lines(head: Head, wanted: Sequence[tuple[bytes, bytes]]) -> bytes:
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
