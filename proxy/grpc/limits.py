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
        calls: at once over all connections; more are refused.
        message_seconds: from a call's begin to the end of its message.
        idle_seconds: without a call on a connection, or without a message on a stream.
        age_seconds: after which a connection takes no more calls.
        grace_seconds: for those under way then.
        ping_seconds: the least between two pings.
    """

    message_bytes: int = 16 * 2**20
    metadata_bytes: int = 16 * 2**10
    connections: int = 1024
    streams: int = 128
    calls: int = 1024
    message_seconds: float = 60.0
    idle_seconds: float = 300.0
    age_seconds: float = 3600.0
    grace_seconds: float = 30.0
    ping_seconds: float = 20.0
