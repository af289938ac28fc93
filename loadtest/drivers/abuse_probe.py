"""Honest requests at a constant rate beside an attack: what those feel who have nothing to do
with it.

Open loop, each on a connection of its own as of a client that begins now, timed from the moment it
was due: a server that stands still is not asked less often for it.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from scipy.stats import binom

from loadtest.drivers.abuse_wire import End, Raw, exchange
from loadtest.evidence.results import Estimate
from loadtest.targets.base import Rows, Said
from loadtest.targets.http_oracle import said_of

_OTHERWISE: Final = {Said.LIMITED.value, Said.REFUSED.value}
"""Answers to honest requests that are verdicts on the client: no answer of the model, and no fault
of the server either."""


@dataclass(frozen=True, slots=True)
class Probes:
    """What became of honest requests.

    Attributes:
        seconds: of those answered 2xx, sorted, from when they were due.
        ended: how many ended in each way, by ``Said.value``, or by ``End.value`` without an answer.
        late: sent more than 10 ms after they were due: we were too busy.
    """

    seconds: tuple[float, ...]
    ended: Mapping[str, int]
    late: int = 0

    @property
    def sent(self) -> int:
        """All of them."""
        return sum(self.ended.values())

    @property
    def failed(self) -> int:
        """Those that got neither an answer nor a verdict."""
        answers = {Said.ANSWERED.value, *_OTHERWISE}
        return sum(count for word, count in self.ended.items() if word not in answers)

    def percentile(self, percent: float) -> Estimate | None:
        """A percentile with the interval, at 95 %, of its order statistics; None without any."""
        n, share = len(self.seconds), percent / 100
        if not n:
            return None
        low_place, high_place = binom.ppf((0.025, 0.975), n, share)
        places = (math.ceil(share * n), low_place, high_place + 1)
        value, low, high = (self.seconds[min(max(int(at), 1), n) - 1] for at in places)
        return Estimate(value, min(low, value), max(high, value))

    def words(self) -> dict[str, float | int | None]:
        """For a report."""
        p99 = self.percentile(99)
        return {
            "sent": self.sent,
            **{word: count for word, count in self.ended.items() if count},
            "p50_seconds": _value(self.percentile(50)),
            "p99_seconds": _value(p99),
            "late": self.late,
        }


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else round(estimate.value, 6)


def slower(before: Probes, during: Probes) -> Estimate | None:
    """How many times the p99 of before that of during is, with a conservative interval; None if
    there is nothing to compare."""
    one, other = before.percentile(99), during.percentile(99)
    if one is None or other is None:
        return None
    return Estimate(other.value / one.value, other.low / one.high, other.high / one.low)


def suffered(before: Probes, during: Probes) -> bool:
    """Whether honest clients feel it: their p99 more than doubles, by the lower end of the
    interval, or more of them fail."""
    ratio = slower(before, during)
    if ratio is None or during.failed * before.sent > before.failed * during.sent:
        return True
    return ratio.low > 2


async def probe(
    raw: Raw,
    client: str,
    requests: Sequence[bytes],
    *,
    rate: float,
    stop: asyncio.Event,
    deadline: float = 10.0,
    clock: Callable[[], float] | None = None,
) -> Probes:
    """Asks ``rate`` times a second until told to stop, at least once; the last answers are awaited.

    Args:
        requests: taken in turn.
        deadline: seconds after which a request is given up.
        clock: seconds; that of the event loop.
    """
    now = clock or asyncio.get_running_loop().time
    began = now()
    seconds: list[float] = []
    ended: Counter[str] = Counter()
    late = 0
    asked: set[asyncio.Task[None]] = set()

    async def ask(request: bytes, due: float) -> None:
        heard = await exchange(raw, client, request, patience=deadline, deadline=deadline)
        status = heard.statuses[0] if heard.statuses and heard.whole else 0
        if status:
            ended[said_of(status).value] += 1
        else:
            ended[End.CLOSED.value if heard.statuses else heard.end.value] += 1
        if 200 <= status < 300:
            seconds.append(now() - due)

    count = 0
    while not count or not stop.is_set():
        due = began + count / rate
        try:
            async with asyncio.timeout(max(0.0, due - now())):
                await stop.wait()
        except TimeoutError:
            pass
        else:
            if count:
                break
        late += now() - due > 0.01
        task = asyncio.ensure_future(ask(requests[count % len(requests)], due))
        asked.add(task)
        task.add_done_callback(asked.discard)
        count += 1
    await asyncio.gather(*asked)
    return Probes(tuple(sorted(seconds)), dict(ended), late)


async def honest_requests(raw: Raw, client: str, rows: Rows, most: int = 32) -> list[bytes]:
    """Requests of one row that are answered, to be asked beside an attack.

    Raises:
        ValueError: if none is.
    """
    answered = []
    heard = ""
    for row in rows[:most]:
        request = raw.request(row[None], client)
        answer = await exchange(raw, client, request, patience=10.0)
        if answer.statuses and 200 <= answer.statuses[0] < 300:
            answered.append(request)
        heard = f"{answer.statuses or ''} {answer.end.value}".strip()
    if not answered:
        raise ValueError(f"the endpoint answers no honest request: {heard}")
    return answered


async def alive(raw: Raw, client: str, requests: Sequence[bytes], seconds: float) -> float | None:
    """Seconds until an honest request is answered in any way again; None: not in time.

    A server that refuses is alive; one that fails or is not there is not.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        heard = await exchange(raw, client, requests[0], patience=seconds, deadline=seconds)
        waited = loop.time() - began
        if heard.statuses and heard.statuses[0] and heard.statuses[0] < 500:
            return waited
        if waited > seconds:
            return None
        await asyncio.sleep(0.1)
