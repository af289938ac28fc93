"""The bounds of gRPC connections and calls, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GrpcLimits:
    """What clients may take.

    Attributes:
        message_bytes: of a message, as sent and decompressed.
        metadata_bytes: of a call's metadata.
        connections: at once; more are closed at accept.
        streams: calls at once on a connection; more wait.
        calls: at once over all connections, from their begin until their answers were taken; more
            are refused. Times ``message_bytes``, it is what clients can take of memory.
        message_seconds: from a call's begin to the end of its message.
        send_seconds: how long a client may take for an answer.
        idle_seconds: without a call on a connection, or without a message on a stream.
        age_seconds: after which a connection takes no more calls.
        grace_seconds: for those under way then.
        ping_seconds: the least between two pings.
    """

    message_bytes: int = 4 * 2**20
    metadata_bytes: int = 16 * 2**10
    connections: int = 1024
    streams: int = 32
    calls: int = 256
    message_seconds: float = 10.0
    send_seconds: float = 30.0
    idle_seconds: float = 300.0
    age_seconds: float = 3600.0
    grace_seconds: float = 30.0
    ping_seconds: float = 20.0
