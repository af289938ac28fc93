"""The bounds of external processing, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExtProcLimits:
    """What Envoy, and its clients behind it, may take.

    Attributes:
        head_bytes, header_count: of a request's head, and of an answer's.
        exchanges: at once; more are refused.
        message_seconds: from a stream's begin to its first message.
        body_seconds: from a request's head to its whole body.
        answer_seconds: from the request to the head of its answer, and from there to its body; of a
            body that is watched as it passes, from part to part.
        send_seconds: how long Envoy may take for a message of ours.
    """

    head_bytes: int = 16384
    header_count: int = 100
    exchanges: int = 1024
    message_seconds: float = 10.0
    body_seconds: float = 60.0
    answer_seconds: float = 300.0
    send_seconds: float = 30.0
