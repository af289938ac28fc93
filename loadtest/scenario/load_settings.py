"""The scenario's section ``load``: how many requests come when, and whose they are."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from proxy.settings.fields import FilePath, Matching
from proxy.settings.section import Faults, Section

Name = Annotated[
    str,
    Matching(
        "[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?",
        "at most 64 lower-case letters, digits, dots, hyphens and underscores, "
        "with a letter or digit at either end",
    ),
]
Sides = Annotated[tuple[Literal["direct", "firewall"], ...], Field(min_length=1, max_length=2)]
BOTH: Final = ("direct", "firewall")
Rate = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Stretch = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=100_000)]

_OWN_KEYS: Final = {
    "constant": ("rate", "seconds"),
    "poisson": ("rate", "seconds"),
    "steps": ("steps",),
    "recorded": ("recorded",),
    "ceiling": ("seconds",),
}
_MOST_REQUESTS: Final = 10_000_000


class Step(Section):
    """One stretch of a stepped load."""

    rate: Rate
    """Requests a second."""
    seconds: Stretch
    """How long."""


class Mixed(Section):
    """One part of a load's traffic: whose requests they are, and what they carry."""

    name: Name
    """What the part is called in the report."""
    share: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)] = 1.0
    """Its weight among the parts: of two with 9 and 1, the first sends nine requests in ten."""
    send: Literal["honest", "noise", "inverted", "shuffled", "driver", "file"] = "honest"
    """``honest``: rows of ``data``. Hostile: ``noise`` (uniform over the box), ``inverted`` or
    ``shuffled`` honest rows, the queries that a ``driver`` makes, recorded from the model server
    before the load begins, or rows of a ``file``."""
    driver: Name | None = None
    """The attack whose queries are sent, as ``bartizan attack --list`` has it."""
    queries: Annotated[int, Field(ge=1, le=1_000_000)] = 500
    """How many queries of the driver are recorded."""
    file: FilePath | None = None
    """Rows that are sent."""
    clients: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Clients that send them, in turn."""

    @model_validator(mode="after")
    def _check(self) -> Mixed:
        faults = Faults()
        for key in ("driver", "file"):
            stated = getattr(self, key) is not None
            if self.send == key and not stated:
                faults.add(f"send: {key} needs {key} beside it", "send")
            elif stated and self.send != key:
                faults.add(f"send is {self.send}: it would do nothing", key)
        if self.send != "driver" and "queries" in self.model_fields_set:
            faults.add(f"send is {self.send}: it would do nothing", "queries")
        faults.report()
        return self


class Load(Section):
    """Requests over time, sent open loop: each at its time, whatever became of those before."""

    name: Name
    """What the load is called in the report."""
    arrivals: Literal["constant", "poisson", "steps", "recorded", "ceiling"] = "poisson"
    """``constant`` or ``poisson`` at ``rate`` for ``seconds``; ``steps``; ``recorded`` times; or
    ``ceiling``: closed loop, to find the most that can be answered."""
    rate: Rate | None = None
    """Requests a second."""
    seconds: Stretch | None = None
    """How long; of a ceiling, each of its measurements."""
    steps: tuple[Step, ...] = ()
    """Stretches of a rate each, one after the other."""
    recorded: FilePath | None = None
    """When requests came: seconds in a .npy, or the times of an audit log (.jsonl)."""
    rows_per_request: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Rows in one request."""
    connections: Count = 16
    """Connections, over all processes."""
    processes: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that send."""
    cores: tuple[Annotated[int, Field(ge=0, le=4095)], ...] = ()
    """The core of each process in turn, so that the load generator and the firewall do not share
    one; none: any."""
    queue: Annotated[int, Field(ge=0, le=10_000_000)] = 10_000
    """Requests that may wait for a connection; any more are dropped, and counted so."""
    sides: Sides = BOTH
    """``direct``: the model server alone; ``firewall``: through it."""
    rounds: Annotated[int, Field(ge=1, le=1000)] = 1
    """How often the sides take turns, the first being another each time: so that what the machine
    does meanwhile falls on both."""
    deadline: Stretch | None = None
    """Seconds from a request's time after which its answer is not good any more."""
    mix: tuple[Mixed, ...] = (Mixed(name="honest"),)
    """The parts of the traffic."""

    @model_validator(mode="after")
    def _check(self) -> Load:
        faults = Faults()
        own = _OWN_KEYS[self.arrivals]
        for key in ("rate", "seconds", "steps", "recorded"):
            stated = bool(getattr(self, key))
            if key in own and not stated:
                faults.add(f"arrivals: {self.arrivals} needs {key} beside it", "arrivals")
            elif stated and key not in own:
                faults.add(f"arrivals is {self.arrivals}: it would do nothing", key)
        if self.requests > _MOST_REQUESTS:
            faults.add(
                f"{self.requests:,.0f} requests are more than {_MOST_REQUESTS:,}: make it shorter",
                "steps" if self.steps else "seconds",
            )
        if len(set(self.sides)) < len(self.sides):
            faults.add("a side is listed twice", "sides")
        if self.arrivals == "ceiling" and self.deadline is not None:
            faults.add("a closed loop has no intended times: it would do nothing", "deadline")
        if self.arrivals == "ceiling" and len(self.mix) > 1:
            faults.add("a ceiling is found with one part alone", "mix")
        if self.connections < self.processes:
            key = "connections" if "connections" in self.model_fields_set else "processes"
            faults.add(f"{self.processes} processes need as many connections", key)
        if not self.mix:
            faults.add("must hold at least 1 item", "mix")
        names = [part.name for part in self.mix]
        for index, name in enumerate(names):
            if name in names[:index]:
                faults.add(f"the name {name!r} is taken", "mix", index, "name")
        faults.report()
        return self

    @property
    def requests(self) -> float:
        """How many requests a round on one side offers, as far as the scenario tells."""
        if self.steps:
            return sum(step.rate * step.seconds for step in self.steps)
        return (self.rate or 0.0) * (self.seconds or 0.0)

    @property
    def honest(self) -> bool:
        """Whether any part is honest."""
        return any(part.send == "honest" for part in self.mix)

    @property
    def hostile(self) -> bool:
        """Whether any part is hostile."""
        return any(part.send != "honest" for part in self.mix)
