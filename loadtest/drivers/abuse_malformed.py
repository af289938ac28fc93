"""Requests that a strict reader refuses, and what an endpoint makes of each."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain
from random import Random
from typing import Annotated, Any, Final

from pydantic import Field

from loadtest.drivers.abuse_bodies import body_cases
from loadtest.drivers.abuse_http import Case, http_cases
from loadtest.drivers.abuse_probe import alive, honest_requests
from loadtest.drivers.abuse_reading import Reading, read
from loadtest.drivers.abuse_wire import End, Heard, Raw, exchange, parts, raw_of
from loadtest.drivers.base import Asked, Means, Outcome, Spent, Try
from loadtest.drivers.knobs import read as read_knobs
from loadtest.targets.base import Oracle
from loadtest.targets.http_oracle import said_of
from proxy.settings.section import Section

_NAMED: Final = 25  # cases of each outcome that are named in the report
_GROUP: Final = 25  # cases after which an honest request is asked at the latest
_WATCH: Final = 0.05  # seconds that a second answer is listened for
_PROPER: Final = frozenset({501, 505})
"""Statuses above 499 that refuse a request for what it is (RFC 9110, 15.6)."""


class Ended(Enum):
    """What became of a malformed request."""

    REFUSED = "refused"
    SHED = "shed"
    LEFT = "left without an answer, once we had said that nothing more would come"
    ANSWERED = "answered as if it were well-formed"
    FAULT = "a fault of the server"
    BROKEN = "a connection broken without an answer"
    SECOND = "an answer to a request that was not sent"
    GARBLED = "an answer that is no HTTP"
    SILENT = "neither an answer nor an end"
    STOPPED = "the endpoint answers no honest request afterwards"


HARMLESS: Final = frozenset({Ended.REFUSED, Ended.SHED, Ended.LEFT})


def judged(reading: Reading, heard: Heard) -> Ended:
    """What became of one.

    Args:
        reading: of what was sent, by the strict reader.
    """
    allowed = reading.may_answer if reading.complete else (*reading.may_answer, False)
    if 0 in heard.statuses:
        return Ended.GARBLED
    if len(heard.statuses) > len(allowed):
        return Ended.SECOND
    for right, status in zip(allowed, heard.statuses, strict=False):
        if 200 <= status < 300 and not right:
            return Ended.ANSWERED
        if status >= 500 and status != 503 and status not in _PROPER:
            return Ended.FAULT
    if heard.statuses and not heard.whole and heard.end is End.RESET:
        return Ended.BROKEN
    if heard.statuses:
        return Ended.SHED if heard.statuses[-1] == 503 else Ended.REFUSED
    if heard.end is End.CLOSED_AFTER_US:
        return Ended.LEFT
    return Ended.SILENT if heard.end in (End.SILENT, End.OPEN) else Ended.BROKEN


@dataclass(slots=True)
class _Found:
    """What was found so far.

    Attributes:
        well_formed: cases that were made, and turned out not to be malformed.
        stopped: where the endpoint was gone, and for how long; the last for good if ``gone``.
    """

    tries: list[Try] = field(default_factory=list)
    ended: dict[Ended, list[str]] = field(default_factory=lambda: defaultdict(list))
    groups: dict[str, Counter[Ended]] = field(default_factory=lambda: defaultdict(Counter))
    well_formed: int = 0
    untried: int = 0
    stopped: list[str] = field(default_factory=list)
    note: str = ""

    def add(self, case: Case, reading: Reading, ended: Ended, heard: Heard) -> None:
        """One more case."""
        self.tries.append(Try(ended not in HARMLESS, 1))
        self.groups[case.group][ended] += 1
        rule = reading.refused_by
        words = f"{case.group}: {case.name} ({rule.id if rule else ''}): {_words(heard)}"
        self.ended[ended].append(words)

    def details(self) -> Mapping[str, Any]:
        """For the report."""
        worst = {
            ended.value: names[:_NAMED] + ([f"and {len(names) - _NAMED} more"]
                                           if len(names) > _NAMED else [])
            for ended, names in self.ended.items()
            if ended not in HARMLESS
        }  # fmt: skip
        groups = {
            group: {ended.value: count for ended, count in counts.items()}
            for group, counts in self.groups.items()
        }
        return {
            "outcomes": {ended.value: len(names) for ended, names in self.ended.items()},
            "by group": groups,
            "worst": worst,
            "stopped": list(self.stopped),
            "made, but well-formed": self.well_formed,
            "not tried": self.untried,
            **({"note": self.note} if self.note else {}),
        }


def _words(heard: Heard) -> str:
    return " ".join([*map(str, heard.statuses), heard.end.value])


class Knobs(Section):
    """Knobs of this driver."""

    head_mutations: Annotated[int, Field(ge=0, le=100_000)] = 100
    """Random mutations of the head."""
    body_mutations: Annotated[int, Field(ge=0, le=100_000)] = 50
    """Random mutations of the body."""
    deadline: Annotated[float, Field(gt=0, le=600)] = 5.0
    """Seconds that one request may take."""
    recovery: Annotated[float, Field(gt=0, le=600)] = 10.0
    """Seconds that the endpoint may be gone for before the attack ends."""


@dataclass(frozen=True)
class Malformed:
    """The driver ``abuse-malformed``."""

    name: str = "abuse-malformed"
    family: str = "abuse"
    atlas: tuple[str, ...] = ("AML.T0029", "AML.T0043.003")
    goal: str = "malformed requests that are answered, or that break something"
    words: str = (
        "malformed requests, of HTTP and of the endpoint's protocol, made from a valid one "
        "(RFC 9112; Kettle, HTTP Desync Attacks, 2019; Seriot, Parsing JSON is a Minefield, 2016)"
    )
    needs: frozenset[str] = frozenset()

    def run(self, oracle: Asked, judge: Oracle | None, means: Means) -> Outcome:
        """Sends every case once, on a connection of its own. One case is one try.

        Raises:
            ValueError: if the endpoint is not asked over HTTP/1.1, answers no honest request, or a
                knob is wrong.
        """
        chosen = read_knobs(Knobs, means.knobs)
        attack = _Attack(oracle, raw_of(oracle), means, chosen)
        random = Random(f"{means.seed} malformed")
        valid = parts(attack.raw.request(means.own[:1], attack.attacker))
        cases = chain(
            http_cases(valid, random, chosen.head_mutations),
            body_cases(valid, random, chosen.body_mutations),
        )
        try:
            asyncio.run(attack.run(cases))
        except Spent:
            attack.found.note = "the budget was spent before the last case"
        return Outcome(tuple(attack.found.tries), details=attack.found.details())


class _Attack:
    """One endpoint, and what was found of it."""

    def __init__(self, oracle: Asked, raw: Raw, means: Means, chosen: Knobs) -> None:
        self.raw = raw
        self.attacker, self._honest = means.accounts[0], means.accounts[-1]
        self.found = _Found()
        self._oracle = oracle
        self._own = means.own
        self._deadline = chosen.deadline
        self._recovery = chosen.recovery
        self._requests: list[bytes] = []
        self._patience = 0.0

    async def run(self, cases: Iterable[Case]) -> None:
        """Sends every case, until the endpoint is gone for good."""
        self._requests = await honest_requests(self.raw, self._honest, self._own, 8)
        usual = await alive(self.raw, self._honest, self._requests, self._recovery)
        self._patience = max(0.25, 10 * (usual or 0.0))  # an honest answer never takes so long
        group, since = "", 0
        remaining = iter(cases)
        for case in remaining:
            reading = read(case.data, self.raw.codec)
            if reading.refused_by is None:
                self.found.well_formed += 1
                continue
            if since and (case.group != group or since >= _GROUP):
                since = 0
                if not await self._still_there(f"group {group}"):
                    self.found.untried = 1
                    break
            group = case.group
            since += 1
            if not await self._send(case, reading):
                break
        else:
            if since:
                await self._still_there(f"group {group}")
        self.found.untried += sum(1 for _ in remaining)

    async def _send(self, case: Case, reading: Reading) -> bool:
        """Sends one case; whether the endpoint is still there."""
        heard = await exchange(
            self.raw,
            self.attacker,
            case.data,
            answers=len(reading.may_answer),
            patience=self._patience,
            deadline=self._deadline,
            watch=_WATCH if case.framed else 0.0,
        )
        ended = judged(reading, heard)
        there = True
        if ended not in HARMLESS and ended is not Ended.ANSWERED:
            gone = len(self.found.stopped)
            there = await self._still_there(f"{case.group}: {case.name}")
            if len(self.found.stopped) > gone:
                ended = Ended.STOPPED
        self.found.add(case, reading, ended, heard)
        self._oracle.count(said_of(heard.statuses[0] if heard.statuses else 0))
        return there

    async def _still_there(self, after: str) -> bool:
        """Whether the endpoint answers honest requests, at once or later; notes it if not."""
        seconds = self._recovery
        heard = await exchange(
            self.raw, self._honest, self._requests[0], patience=seconds, deadline=seconds
        )
        if heard.statuses and 0 < heard.statuses[0] < 500:
            return True
        back = await alive(self.raw, self._honest, self._requests, seconds)
        how = "for good" if back is None else f"for {back + heard.seconds:.1f} s"
        self.found.stopped.append(f"after {after}: {how} ({_words(heard)})")
        return back is not None
