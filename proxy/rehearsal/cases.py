"""The file of ``bartizan policy test``: what clients send, and what is to be decided."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from proxy.rules import RULES
from proxy.settings.fields import FilePath
from proxy.settings.section import Faults, Section

_UNITS: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_SLICE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\[[0-9]*(:[0-9]*)?\])?")
_WHAT: Final = ("rows", "request", "advance", "ban", "forgive")
_MOST: Final = 100_000
_FINITE: Final = Field(allow_inf_nan=False)


def _duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    parts = _DURATION.fullmatch(value.strip())
    if parts is None:
        raise ValueError("must be a number and a unit: 100ms, 10s, 5m, 2h or 1d")
    return float(parts[1]) * _UNITS[parts[2]]


def _slice(value: str) -> str:
    if not _SLICE.fullmatch(value):
        raise ValueError("must name data, as in honest, honest[3] or honest[0:5]")
    return value


def _rule(value: str) -> str:
    if value not in RULES:
        raise ValueError("is no rule: see docs/rules.md")
    return value


Duration = Annotated[float, BeforeValidator(_duration), Field(gt=0, le=366 * 86_400.0)]
RuleId = Annotated[str, AfterValidator(_rule)]
Slice = Annotated[str, AfterValidator(_slice)]
Row = tuple[Annotated[float, _FINITE], ...]
Action = Literal["allow", "shape", "throttle", "block"]


class Generated(Section):
    """Rows that are made: one of ``around``, ``between`` and ``uniform``."""

    around: Slice | None = None
    """These rows, each time with other noise."""
    noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """The standard deviation of that noise."""
    between: tuple[Slice, Slice] | None = None
    """One row on the line between two: with each repetition a step further."""
    uniform: tuple[Annotated[float, _FINITE], Annotated[float, _FINITE]] | None = None
    """Each value drawn evenly from this range."""
    count: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Rows of ``uniform`` in each request."""

    @model_validator(mode="after")
    def _check(self) -> Generated:
        faults = Faults()
        given = [name for name in ("around", "between", "uniform") if getattr(self, name)]
        if len(given) != 1:
            faults.add("needs one of around, between and uniform")
        faults.report()
        return self


Rows: TypeAlias = Slice | tuple[Row, ...] | Generated


class Answer(Section):
    """What the model says."""

    output: str = "output"
    """The name of the tensor."""
    row: Row | None = None
    """What it holds for each row: probabilities, logits, a label's index or values."""
    body: str | None = None
    """The answer's bytes as they are, in place of a tensor."""
    content_type: str = "application/json"
    """Of the body."""
    status: Annotated[int, Field(ge=100, le=599)] = 200
    """Its status."""


class Request(Section):
    """A request as it comes, to be read by the protocol."""

    method: str = "POST"
    """The method."""
    path: str
    """The target."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Its headers."""
    body: str = ""
    """Its body."""


class Expectation(Section):
    """What is to be decided. Of a step that is repeated, of every request, where neither
    ``within`` nor a number says otherwise."""

    action: Action | None = None
    """What is decided: in monitor mode, too."""
    enforced: Action | None = None
    """What is done."""
    would_block: bool | None = None
    """Whether the two differ."""
    rule: RuleId | None = None
    """A rule that is among the reasons."""
    status: Annotated[int, Field(ge=100, le=599)] | None = None
    """What the client is answered."""
    shaped: bool | None = None
    """Whether the answer was made coarse."""
    within: Annotated[int, Field(ge=1)] | None = None
    """It comes so at the latest with this request, the first being 1."""
    at_least: Annotated[int, Field(ge=1)] | None = None
    """So many requests at least end so."""
    at_most: Annotated[int, Field(ge=0)] | None = None
    """So many at most."""
    never: Action | None = None
    """No request ends with this action."""

    @model_validator(mode="after")
    def _check(self) -> Expectation:
        faults = Faults()
        if self.never is None and not self.wanted:
            faults.add("expects nothing: give action, enforced, would_block, rule, status or never")
        faults.report()
        return self

    @property
    def wanted(self) -> dict[str, Any]:
        """What each request is held against."""
        names = ("action", "enforced", "would_block", "rule", "status", "shaped")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}


def _expectation(value: object) -> object:
    return {"action": value} if isinstance(value, str) else value


class Step(Section):
    """One thing that happens: rows or a request sent, time that passes, a client banned or
    forgiven."""

    client: str | None = None
    """Who sends it: an API key's name, or a pseudonym; none: as the request's headers tell."""
    subnet: str = ""
    """The subnet that it comes from; "": none that is counted."""
    rows: Rows | None = None
    """Rows in the endpoint's own protocol."""
    request: Request | None = None
    """A request as it comes."""
    answer: Answer | None = None
    """What the model says to it; none: as the file says."""
    repeat: Annotated[int, Field(ge=1, le=_MOST)] = 1
    """How often it is sent."""
    every: Duration = 0.001
    """The time from one to the next."""
    expect: Annotated[Expectation, BeforeValidator(_expectation)] | None = None
    """What is to be decided: an action, or more."""
    advance: Duration | None = None
    """Time passes."""
    ban: str | None = None
    """The operator bans this client for a day."""
    forgive: str | None = None
    """The operator forgives this client."""

    @model_validator(mode="after")
    def _check(self) -> Step:
        faults = Faults()
        given = [name for name in _WHAT if getattr(self, name) is not None]
        if len(given) != 1:
            faults.add(f"needs one of {', '.join(_WHAT)}")
        elif given[0] not in ("rows", "request") and self.expect is not None:
            faults.add("there is nothing to expect of a step that sends nothing", "expect")
        if self.rows is not None and self.client is None:
            faults.add("rows are sent by a client", "rows")
        if self.expect is not None:
            self._check_counts(self.expect, faults)
        faults.report()
        return self

    def _check_counts(self, expect: Expectation, faults: Faults) -> None:
        """A count that nothing could miss, or nothing reach, asserts nothing."""
        for name in ("within", "at_least"):
            if (getattr(expect, name) or 0) > self.repeat:
                faults.add(f"only {self.repeat} are sent: see repeat", "expect", name)
        if expect.at_most is not None and expect.at_most >= self.repeat:
            faults.add(f"holds whatever happens: only {self.repeat} are sent", "expect", "at_most")


class Test(Section):
    """A sequence of steps. Nothing is known of anybody when it begins."""

    name: str
    """What it shows."""
    endpoint: str | None = None
    """The endpoint; none: the file's."""
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]
    """In their order."""

    @model_validator(mode="after")
    def _check(self) -> Test:
        faults = Faults()
        if all(step.expect is None for step in self.steps):
            faults.add("expects nothing: it could not fail", "steps")
        faults.report()
        return self


class PolicyTests(Section):
    """A file of tests."""

    configuration: FilePath
    """The gateway's configuration."""
    endpoint: str | None = None
    """The endpoint that is tested; none: the only one."""
    data: dict[str, FilePath] = Field(default_factory=dict)
    """Files of rows by name: .npy, .npz, .csv, .tsv or .parquet."""
    answer: Answer = Answer()
    """What the model says where no step says otherwise."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Of all that is drawn."""
    begins: Annotated[float, Field(ge=0, le=4e9)] = 1_893_456_000.0
    """When each test begins, in seconds since 1970; none: 2030-01-01."""
    tests: Annotated[tuple[Test, ...], Field(min_length=1)]
    """The tests."""

    @model_validator(mode="after")
    def _check(self) -> PolicyTests:
        faults = Faults()
        seen: set[str] = set()
        for index, test in enumerate(self.tests):
            if test.name in seen:
                faults.add("another test has this name", "tests", index, "name")
            seen.add(test.name)
        faults.report()
        return self
