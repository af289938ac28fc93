"""A scenario's thresholds: ``overhead_p99_seconds[steady]: "<= 2 ms"``. Pure."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

_COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
}
# What may follow the number, by the metric's own unit.
_UNITS: Final[Mapping[str, Mapping[str, float]]] = {
    "seconds": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6},
    "share": {"%": 0.01},
}
_MEASURED: Final = "measured"
_BOUND: Final = re.compile(
    r"\s*(?P<compare><=|>=|<|>)\s*(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"\s*(?P<unit>[A-Za-zµ%]*?)(?:\s*\b(?P<measured>measured))?\s*",
    re.ASCII,
)
_NAME: Final = re.compile(r"(?P<metric>[a-z][a-z0-9_]*)(?:\[(?P<selector>[^\[\]]+)\])?")


@dataclass(frozen=True, slots=True)
class Bound:
    """What a metric has to keep to.

    Attributes:
        compare: ``<=``, ``<``, ``>=`` or ``>``.
        limit: in the metric's own unit.
        measured: whether the measured value is compared, and not that end of its interval which is
            worse.
        words: as it is written in the scenario.
    """

    compare: str
    limit: float
    measured: bool
    words: str

    @property
    def upper(self) -> bool:
        """Whether small values pass."""
        return self.compare.startswith("<")

    def holds(self, value: float) -> bool:
        """Whether a value keeps to it. NaN does not."""
        return _COMPARE[self.compare](value, self.limit)


@dataclass(frozen=True, slots=True)
class Threshold:
    """One line of a scenario's thresholds.

    Attributes:
        name: as it is written: ``metric[selector]``.
        selector: the load, driver or family that it is about; "": all of them.
    """

    name: str
    metric: str
    selector: str
    bound: Bound


def split(name: str) -> tuple[str, str]:
    """``attack_success[square]`` as metric and selector; the selector is "" if there is none.

    Raises:
        ValueError: if it is no such name.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a metric, or of one as metric[load]")
    return match["metric"], match["selector"] or ""


def bound(text: str, unit: str) -> Bound:
    """Reads ``<= 0.01``, ``<= 1 %``, ``<= 2 ms``, ``<= 0.2 measured``.

    Raises:
        ValueError: if it is no such text; says what is expected.
    """
    match = _BOUND.fullmatch(text)
    units = _UNITS.get(unit, {})
    if match is None:
        raise ValueError(f'{text!r} is not a bound, as "<= 0.01": {_expected(units)}')
    factor = 1.0
    if match["unit"]:
        if match["unit"] not in units:
            raise ValueError(f"{match['unit']!r} is no unit here: {_expected(units)}")
        factor = units[match["unit"]]
    limit = float(match["number"]) * factor
    if not math.isfinite(limit):
        raise ValueError(f"{text!r} bounds nothing: the number is too large")
    return Bound(match["compare"], limit, bool(match["measured"]), " ".join(text.split()))


def _expected(units: Mapping[str, float]) -> str:
    expected = "one of <= < >= >, then a number"
    if units:
        expected += ", then a unit if need be (" + ", ".join(sorted(units)) + ")"
    return f"{expected}, then {_MEASURED!r} if not the interval's worse end is to be compared"
