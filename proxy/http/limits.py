"""The bounds of the wire, as plain numbers: what one connection may take of time and memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """What a client may take. Every bound has its own rule in :mod:`proxy.rules`.

    Attributes:
        head_bytes: request line and headers.
        header_count: header lines.
        head_seconds: from the first byte of a request to the end of its head; also from the
            connection to its first byte, and the longest TLS handshake.
        body_seconds: from the end of the head to the end of the body.
        body_rate: least bytes a second of a body, once ``body_grace_seconds`` are over.
        body_grace_seconds: how long a body may be slower than that.
        framing_bytes: bytes of a chunked body that are neither data nor 16 bytes a chunk:
            extensions and padded sizes.
        send_seconds: how long a client may take none of its answer.
        idle_seconds: between two requests of a connection.
        connections: more are answered 503 and closed; a quarter more, counting those in their TLS
            handshake, are closed at accept.
        pipeline_depth: complete requests that may wait behind the one being answered; beyond it
            nothing more is read (at most one segment of 4096 bytes is parsed further).
        linger_seconds, linger_bytes: how long and how much of a refused request is read and thrown
            away, so that the client gets to read the refusal (RFC 9112, 9.6).
        sweep_seconds: how often deadlines are checked.
    """

    head_bytes: int = 16384
    header_count: int = 64
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    body_rate: int = 1024
    body_grace_seconds: float = 5.0
    framing_bytes: int = 16384
    send_seconds: float = 30.0
    idle_seconds: float = 75.0
    connections: int = 1024
    pipeline_depth: int = 16
    linger_seconds: float = 5.0
    linger_bytes: int = 16 * 1024 * 1024
    sweep_seconds: float = 0.5


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """What the upstreams of one endpoint may take.

    Attributes:
        connections: per address.
        slowdown: how many times its latency without load an address may take, before it is given
            fewer requests at once than it may have connections.
        connect_seconds: to an established connection, TLS included.
        response_seconds: from the request to the head of its answer.
        total_seconds: from the request to the end of its answer.
        queue_seconds: the longest wait while an address has all that it is given at once.
        queue_target_seconds: the longest wait once the queue has not been empty for
            ``queue_seconds``: a standing queue is shed fast, a burst is not. Both are shorter for
            an address that is quick (``proxy.http.line``).
        idle_seconds: after which an unused connection is closed.
        head_bytes, header_count: of an answer.
        buffer_bytes: of an answer that nobody has taken yet; beyond it nothing more is read.
        failures: consecutive ones (no connection, no or an invalid answer, a status of 500 or
            more) that eject an address.
        ejection_seconds: of the first ejection; the nth lasts n times as long.
        ejection_cap_seconds: the longest; also how long an address must do well for its count of
            ejections to begin anew.
        sweep_seconds: how often deadlines are checked.
    """

    connections: int = 256
    slowdown: float = 1.5
    connect_seconds: float = 5.0
    response_seconds: float = 30.0
    total_seconds: float = 60.0
    queue_seconds: float = 1.0
    queue_target_seconds: float = 0.1
    idle_seconds: float = 60.0
    head_bytes: int = 65536
    header_count: int = 128
    buffer_bytes: int = 262144
    failures: int = 5
    ejection_seconds: float = 30.0
    ejection_cap_seconds: float = 300.0
    sweep_seconds: float = 0.1
