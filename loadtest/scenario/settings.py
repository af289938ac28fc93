"""A scenario as immutable values: what is run against what, and what must come of it.

Every key is documented where it is declared; the JSON Schema is made from these declarations.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from loadtest.scenario.data_settings import Data
from loadtest.scenario.load_settings import BOTH, Load, Name, Sides
from loadtest.targets.settings import Target
from proxy.settings.fields import FilePath
from proxy.settings.section import Faults, Section


def _plain(value: object) -> object:
    if value is not None and not isinstance(value, str | int | float | bool):
        raise ValueError("must be a number, a word, true or false")
    return value


Knob = Annotated[
    Any,
    PlainValidator(_plain),
    WithJsonSchema({"type": ["string", "number", "boolean", "null"]}),
]
Format = Literal["json", "html", "junit", "sarif", "markdown"]

TITLE: Final = "Bartizan load test scenario"


class Attack(Section):
    """One attack, carried out on each side."""

    driver: Name
    """Which, as ``bartizan attack --list`` has it."""
    name: Name | None = None
    """What it is called in the report, where a driver is used more than once; none: the driver's
    name."""
    sides: Sides = BOTH
    """``direct``: the model server alone, which shows that the attack works at all; ``firewall``:
    through it."""
    budget: Annotated[int, Field(ge=1, le=10_000_000)] = 1000
    """Queries of one try, refused ones, warm-up and padding included."""
    tries: Annotated[int, Field(ge=1, le=10_000)] = 5
    """How often it is tried, each on another row, or with another seed."""
    accounts: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Clients that one try uses. Every try has its own: what is known of one does not fall on the
    next."""
    during: Name | None = None
    """The load that is under way while the firewall is attacked, over and over until the attack
    ends; it is reported apart. None: none."""
    knobs: dict[str, Knob] = Field(default_factory=dict)
    """What else this driver can be told."""

    @property
    def title(self) -> str:
        """What it is called in the report."""
        return self.name or self.driver


class Report(Section):
    """Where the report is written, and as what."""

    folder: FilePath | None = None
    """The folder, which also keeps what ``--resume`` goes on with; none: ``report``, where the
    command is run. ``--out`` says otherwise."""
    formats: tuple[Format, ...] = ("json", "html")
    """``json`` (``results.json``, always written), ``html`` (``report.html``), ``junit``
    (``junit.xml``), ``sarif`` (``results.sarif``) and ``markdown`` (``report.md``)."""


class Served(Section):
    """How the demonstration's firewall is set up, with ``serve: demo``."""

    rows_per_second: Annotated[float, Field(ge=1e-4, le=1e7, allow_inf_nan=False)] = 1000.0
    """The sustained rate of one client's rows."""
    burst_rows: Annotated[int, Field(ge=64, le=10**9)] = 5000
    """Rows that one client may send at once."""
    anew: bool = True
    """Whether the firewall begins anew, knowing no client, before each attack: otherwise what one
    attack asked is evidence against the next that starts from the same rows."""


class Scenario(Section):
    """What is run, against what, and what must come of it."""

    name: Name
    """What the run is called."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of everything random: the same seed asks the same."""
    serve: Literal["demo"] | None = None
    """``demo``: the demonstration's model server and a firewall before it are started, loaded and
    attacked. None: ``target`` says what is."""
    served: Served = Served()
    """How ``serve: demo`` sets up its firewall."""
    target: Target | None = None
    """The model that is loaded and attacked, alone and behind the firewall."""
    data: Data | None = None
    """Honest rows; with ``serve: demo``, none: the demonstration's."""
    load: tuple[Load, ...] = ()
    """Loads, in this order."""
    attacks: tuple[Attack, ...] = ()
    """Attacks, after the loads: all of them on the model server, then all through the firewall."""
    thresholds: dict[str, str] = Field(default_factory=dict)
    """What must hold, as ``honest_refusals: "<= 0.01"``; ``bartizan loadtest metrics`` lists what
    can be bounded. One that does not hold makes the exit status 1."""
    audit: FilePath | None = None
    """The firewall's audit log, by which it is known what it recognised and which rules refused
    what; none: that of ``target.configuration``, if it has one and can be read."""
    report: Report = Report()
    """The report's folder and formats."""

    @model_validator(mode="after")
    def _check(self) -> Scenario:
        faults = Faults()
        self._check_target(faults)
        self._check_loads(faults)
        self._check_attacks(faults)
        if not self.load and not self.attacks:
            faults.add("there is neither load nor attacks: nothing would be run")
        faults.report()
        return self

    def _check_target(self, faults: Faults) -> None:
        if self.serve is None and self.target is None:
            faults.add("say either serve: demo, or target")
        if self.serve is not None:
            for key in ("target", "audit"):
                if getattr(self, key) is not None:
                    faults.add(f"serve: {self.serve} brings its own: it would do nothing", key)
        elif "served" in self.model_fields_set:
            faults.add("nothing is served: it would do nothing", "served")
        if self.serve is None and self.data is None:
            faults.add("say data: the honest rows that are sent")
        target = self.target
        if target is None or target.configuration is not None:
            return
        have = {side for side in BOTH if getattr(target, side) is not None}
        for section in ("load", "attacks"):
            for index, entry in enumerate(getattr(self, section)):
                for place, side in enumerate(entry.sides):
                    if side not in have:
                        stated = "sides" in entry.model_fields_set
                        where = ("sides", place) if stated else ()
                        faults.add(f"target has no {side}", section, index, *where)

    def _check_loads(self, faults: Faults) -> None:
        names = [load.name for load in self.load]
        for index, name in enumerate(names):
            if name in names[:index]:
                faults.add(f"the name {name!r} is taken", "load", index, "name")

    def _check_attacks(self, faults: Faults) -> None:
        loads = {load.name: load for load in self.load}
        titles = [attack.title for attack in self.attacks]
        for index, attack in enumerate(self.attacks):
            if attack.title in titles[:index]:
                key = "driver" if attack.name is None else "name"
                words = ": give it a name of its own" if attack.name is None else ""
                faults.add(f"the name {attack.title!r} is taken{words}", "attacks", index, key)
            if len(set(attack.sides)) < len(attack.sides):
                faults.add("a side is listed twice", "attacks", index, "sides")
            if attack.during is None:
                continue
            where = ("attacks", index, "during")
            load = loads.get(attack.during)
            if load is None:
                faults.add(f"there is no load {attack.during!r}", *where)
            elif load.arrivals == "ceiling":
                faults.add("a search for a ceiling leaves nothing for anyone beside it", *where)
            elif not load.honest:
                faults.add(f"the load {attack.during!r} has no honest part", *where)
            elif "firewall" not in attack.sides:
                faults.add("only the firewall is attacked under load: add it to sides", *where)

    @property
    def accounts(self) -> int:
        """The clients that all parts and attacks take together."""
        return sum(self.pools.values()) + sum(one.accounts * one.tries for one in self.attacks)

    @property
    def pools(self) -> dict[str, int]:
        """The clients of each part, by its name: parts of one name are the same clients."""
        pools: dict[str, int] = {}
        for load in self.load:
            for part in load.mix:
                pools[part.name] = max(part.clients, pools.get(part.name, 0))
        return pools


def canonical(scenario: Scenario) -> str:
    """The scenario as JSON, defaults filled in: the same for equal scenarios."""
    values: Any = scenario.model_dump(mode="json")
    return json.dumps(values, sort_keys=True)
