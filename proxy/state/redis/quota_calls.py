"""The calls of quota.lua: what it is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from proxy.state.base import Quota
from proxy.state.redis.client import Call, Script

_QUOTA: Final = Script.load("quota.lua")

ServerTime = Callable[[], int]


class Rest(NamedTuple):
    """What is left of a lease.

    Attributes:
        rows: unspent.
        piece: nanoseconds of the rate's debt that they still are.
        at: when it was granted, in the server's microseconds of the epoch.
        lasts: nanoseconds from then until it is worth nothing to a rate.
        day: the day that its rows count for.
    """

    rows: int = 0
    piece: int = 0
    at: int = 0
    lasts: int = 0
    day: int = 0


class Ask(NamedTuple):
    """Rows to be granted.

    Attributes:
        need: of the take that waits the longest: fewer are not granted. 0: none are asked for.
        asked: of all takes that wait.
        wanted: that may be of use soon.
        divisor: of what there is, only this part is granted ahead.
    """

    need: int = 0
    asked: int = 0
    wanted: int = 0
    divisor: int = 1


@dataclass(frozen=True, slots=True)
class Charge:
    """Rows that were admitted without the server.

    Attributes:
        id: by which it is made once.
        debt: nanoseconds of the rate.
        rows, day: rows of that day.
    """

    id: str
    debt: int
    rows: int
    day: int


class Grant(NamedTuple):
    """What was granted.

    Attributes:
        rows: 0 if fewer than needed were there.
        at, lasts, day: as in ``Rest``.
        midnight: microseconds from ``at`` to the end of the day.
        rate_wait: nanoseconds until the rate has as many as were needed.
        day_wait: microseconds until the day has, 0 if it has.
    """

    rows: int
    at: int
    lasts: int
    day: int
    midnight: int
    rate_wait: int
    day_wait: int

    @classmethod
    def of(cls, reply: Sequence[bytes]) -> Grant:
        """The script's reply, read."""
        return cls(*map(int, reply))


def quota_call(
    key: str,
    quota: Quota,
    server_time: ServerTime | None,
    *,
    ask: Ask = Ask(),  # noqa: B008 - a value
    rest: Rest = Rest(),  # noqa: B008 - a value
    charge: Charge | None = None,
) -> Call:
    """One run of the script: first the charge, then the rest, then the ask.

    Args:
        server_time: what it is to take for its own time, in microseconds of the epoch; None: its
            own. With another the keys do not expire.
    """
    return Call(
        _QUOTA,
        key,
        (
            server_time() if server_time else 0,
            quota.interval, quota.burst, quota.per_day,
            *ask, *rest,
            *((charge.debt, charge.rows, charge.day) if charge else (0, 0, 0)),
        ),
        (f"{key}:{charge.id}",) if charge else (),
    )  # fmt: skip
