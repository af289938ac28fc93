"""What became of every request of a plan.

A process that sends notes three numbers for each of its requests, and nothing else. So what several
processes saw goes back into the places of the one plan, and is merged exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from loadtest.load.plan import Times
from loadtest.targets.base import Said

Statuses = npt.NDArray[np.int16]
Mask = npt.NDArray[np.bool_]

UNSENT: Final = 0
CONNECT: Final = -1
RESET: Final = -2
TRUNCATED: Final = -3
INVALID: Final = -4
TIMEOUT: Final = -5
ERRORS: Final[Mapping[int, str]] = {
    CONNECT: "connect",
    RESET: "reset",
    TRUNCATED: "truncated",
    INVALID: "invalid",
    TIMEOUT: "timeout",
}
"""Requests without a reply that can be read: no connection could be made for it; it ended before
the answer, or within it; what came is no answer; none came in time."""

GRPC: Final = 1000
"""Added to the number of a gRPC status, which is to stand beside those of HTTP."""

_GRPC_NAMES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
    "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
# As the HTTP statuses that they stand for; what is not here is a server's failure.
_GRPC_SAID: Final = {
    "OK": 200, "PERMISSION_DENIED": 403, "RESOURCE_EXHAUSTED": 429, "UNAVAILABLE": 503,
    "INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "ALREADY_EXISTS": 409, "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400, "UNIMPLEMENTED": 400, "UNAUTHENTICATED": 401,
}  # fmt: skip


def text_of(status: int) -> str:
    """A reply's status as text: a number of HTTP, a name of gRPC."""
    return _grpc_name(status - GRPC) if status >= GRPC else str(status)


def said_of(status: int) -> Said:
    """What a client can tell of a reply by its status."""
    if status >= GRPC:
        status = _GRPC_SAID.get(_grpc_name(status - GRPC), 500)
    if 200 <= status < 300:
        return Said.ANSWERED
    known = {403: Said.REFUSED, 429: Said.LIMITED, 503: Said.SHED}
    return known.get(status, Said.INVALID if 400 <= status < 500 else Said.FAILED)


def _grpc_name(number: int) -> str:
    return _GRPC_NAMES[number] if 0 <= number < len(_GRPC_NAMES) else f"STATUS_{number}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of n requests, in the order of the plan.

    Attributes:
        intended: (n,) seconds from the start at which each was due.
        sent: (n,) at which it was sent, or a connection for it tried; NaN: never.
        done: (n,) at which its reply was complete, or it was given up; NaN: never sent.
        status: (n,) of the reply, a key of ``ERRORS``, or ``UNSENT``.
    """

    intended: Times
    sent: Times
    done: Times
    status: Statuses

    @classmethod
    def empty(cls, intended: Times) -> Outcome:
        """Of requests that nothing became of."""
        number = len(intended)
        never = np.full(number, np.nan)
        return cls(intended, never, never.copy(), np.zeros(number, np.int16))

    def of(self, mask: Mask) -> Outcome:
        """Some of them."""
        return Outcome(self.intended[mask], self.sent[mask], self.done[mask], self.status[mask])
