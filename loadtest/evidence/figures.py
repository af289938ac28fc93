"""Figures and foreign text, as a report shows them. Pure."""

from __future__ import annotations

import math
import unicodedata
from typing import Final

from loadtest.evidence.results import Estimate, Share
from loadtest.evidence.statistics import of_share

NONE: Final = "-"
_LONGEST: Final = 400
# Controls, formats (bidirectional overrides among them), surrogates, private use, unassigned.
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: object, longest: int = _LONGEST) -> str:
    """Text of unknown origin, so that it shows what it holds and does nothing.

    What a terminal would obey, XML forbids or a reader does not see is spelt out; what is too long
    is cut. It is not escaped for any markup.
    """
    given = str(text)
    shown = "".join(_spelt(one) for one in given[: longest + 1])
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def _spelt(one: str) -> str:
    if one in "\n\t":
        return " "
    return f"\\u{ord(one):04x}" if unicodedata.category(one) in _HIDDEN else one


def seconds(value: float | None) -> str:
    """``1.34 ms``: three digits, in the unit that fits."""
    if value is None or not math.isfinite(value):
        return NONE
    size = abs(value)
    for least, factor, unit in ((100, 1, "s"), (1, 1, "s"), (1e-3, 1e3, "ms")):
        if size >= least:
            return f"{_digits(value * factor)} {unit}"
    return f"{_digits(value * 1e6)} µs" if size else "0 s"


def percent(value: float | None) -> str:
    """``0.37 %``."""
    if value is None or not math.isfinite(value * 100):
        return NONE
    return f"{_digits(value * 100)} %"


def number(value: float | None) -> str:
    """Three digits; whole numbers as they are."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "never"
    if value == int(value):
        return f"{int(value):,}".replace(",", "\N{THIN SPACE}")
    return _digits(value)


def _digits(value: float) -> str:
    if abs(value) < 1e-9:  # what is left of a sum of floats that is nothing
        return "0"
    if not math.isfinite(value):
        return NONE
    whole = math.floor(math.log10(abs(value))) + 1
    return f"{value:.{min(6, max(0, 3 - whole))}f}"


_OF_UNIT: Final = {"seconds": seconds, "share": percent}


def of_unit(value: float | None, unit: str) -> str:
    """A metric's value, as its unit is shown."""
    return _OF_UNIT.get(unit, number)(value)


def estimate(found: Estimate | None, unit: str) -> str:
    """``1.34 ms (1.2 ms to 1.5 ms)``."""
    if found is None:
        return NONE
    value = of_unit(found.value, unit)
    if found.low == found.high:
        return value
    return f"{value} ({of_unit(found.low, unit)} to {of_unit(found.high, unit)})"


def share(found: Share | None) -> str:
    """``4/20: 20.0 % (8.07 % to 41.6 %)``."""
    if found is None or not found.total:
        return NONE
    return f"{found.count}/{found.total}: {estimate(of_share(found), 'share')}"
