"""What changed from one run to another, and whether it is more than chance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Final, Literal

import orjson

from loadtest.evidence import figures
from loadtest.evidence.markdown import escape, table_lines
from loadtest.evidence.measured import Measured
from loadtest.evidence.metrics import METRICS, Metric
from loadtest.evidence.results import Estimate, Results
from loadtest.evidence.statistics import LEVEL, difference, difference_of_means
from loadtest.evidence.tables import Table

Verdict = Literal["better", "worse", "unchanged", "not comparable"]
# What must be the same of two targets; bundles, modes and configurations are what one compares.
_SAME: Final = ("protocol", "endpoint")
# A run in which nothing is refused any more has no time in which it refuses.
_MAY_END: Final = frozenset({"refusal_p99_seconds"})


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of one load or driver.

    Attributes:
        of: the load or the driver.
        before, after: its values; None if it was not measured.
        difference: after less before, with its interval at 95 %; None if it cannot be told.
        verdict: ``unchanged`` also where the interval holds no change, and where it is worse by
            less than is tolerated.
        why: how it was compared, or why it cannot be.
    """

    metric: str
    of: str
    before: float | None
    after: float | None
    difference: Estimate | None
    verdict: Verdict
    why: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs.

    Attributes:
        faults: why nothing of them can be compared; none: it can.
        notes: what differs, and is no obstacle.
    """

    changes: tuple[Change, ...]
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether something was compared, nothing of it is worse and nothing went missing."""
        compared = [change for change in self.changes if change.verdict != "not comparable"]
        lost = any(
            change.before is not None and change.after is None and change.metric not in _MAY_END
            for change in self.changes
        )
        return not self.faults and bool(compared) and not lost and all(
            change.verdict != "worse" for change in compared
        )  # fmt: skip


def compare(before: Results, after: Results, tolerance: float = 0.0) -> Comparison:
    """What changed.

    A metric is worse or better if the interval of the difference leaves no change out, and worse
    only if it is so by more than ``tolerance`` of its value before, with all of the interval.
    Rounds are compared by Welch's t, everything else by its own interval; no correction is made
    for how many metrics there are: at 95 %, one of twenty changes by chance.

    Raises:
        ValueError: if the tolerance is negative or no number.
    """
    if not (tolerance >= 0 and math.isfinite(tolerance)):
        raise ValueError("a tolerance is a share of the value before, as 0.05")
    faults, notes = tuple(_faults(before, after)), tuple(_notes(before, after))
    changes = []
    for name, metric in METRICS.items():
        old = {one.of: one for one in metric.measure(before, "")}
        new = {one.of: one for one in metric.measure(after, "")}
        for of in dict.fromkeys((*old, *new)):
            one, other = old.get(of), new.get(of)
            if (one and one.estimate) or (other and other.estimate):
                fault = faults[0] if faults else _machines(metric, before, after)
                changes.append(_change(name, of, one, other, tolerance=tolerance, fault=fault))
    return Comparison(tuple(changes), faults, notes, tolerance)


def _faults(before: Results, after: Results) -> Iterator[str]:
    if before.digest != after.digest:
        yield "the scenarios differ"
    if before.seed != after.seed:
        yield f"the seeds differ: {before.seed} and {after.seed}"
    for key in _SAME:
        one, other = (figures.printable(run.target.get(key, "")) for run in (before, after))
        if one != other:
            yield f"the targets differ: {key} {one!r} and {other!r}"
    for name, run in (("first", before), ("second", after)):
        if not run.complete:
            yield f"the {name} run was interrupted"


def _notes(before: Results, after: Results) -> Iterator[str]:
    groups: tuple[tuple[str, Mapping[str, str], Mapping[str, str]], ...] = (
        ("target", before.target, after.target),
        ("machine", before.machine, after.machine),
        ("version", before.versions, after.versions),
    )
    for group, old, new in groups:
        for key in dict.fromkeys((*old, *new)):
            if old.get(key) != new.get(key) and not (group == "target" and key in _SAME):
                one, other = (figures.printable(of.get(key, "none"), 80) for of in (old, new))
                yield f"{group}: {figures.printable(key)} was {one}, is {other}"


def _machines(metric: Metric, before: Results, after: Results) -> str:
    if metric.unit == "seconds" and dict(before.machine) != dict(after.machine):
        return "the machines differ: times do not compare, their ratios do"
    return ""


def _change(
    name: str,
    of: str,
    old: Measured | None,
    new: Measured | None,
    *,
    tolerance: float,
    fault: str,
) -> Change:
    metric = METRICS[name]
    before = old.estimate if old else None
    after = new.estimate if new else None
    values = (_finite(before), _finite(after))
    if fault or before is None or after is None:
        lacking = "first" if before is None else "second"
        told = fault or f"not measured in the {lacking} run"
        return Change(name, of, *values, None, "not comparable", told)
    assert old is not None
    assert new is not None
    if min(old.level, new.level) < LEVEL:
        told = "too few tries for an interval at 95 %"
        return Change(name, of, *values, None, "not comparable", told)
    if not all(map(math.isfinite, (*_ends(before), *_ends(after)))):
        return _unreached(name, of, before, after)
    if old.rounds and new.rounds:
        change = difference_of_means(new.rounds, old.rounds)
        how = f"means of {len(old.rounds)} and {len(new.rounds)} rounds, Welch's t"
        if change is None:
            told = "a single round tells nothing of how much rounds differ"
            return Change(name, of, *values, None, "not comparable", told)
    else:
        change = difference(after, before)
        how = f"from their own intervals; before: {old.how}; after: {new.how}"
    verdict = _verdict(change, metric.better == "lower", tolerance * abs(before.value))
    return Change(name, of, *values, change, verdict, how)


def _verdict(change: Estimate, lower: bool, tolerated: float) -> Verdict:
    # Turned round where more is better: then worse is always up.
    low, high = (change.low, change.high) if lower else (-change.high, -change.low)
    if low > tolerated:
        return "worse"
    return "better" if high < 0 else "unchanged"


def _unreached(name: str, of: str, before: Estimate, after: Estimate) -> Change:
    """Of queries until recognition, where too few tries were: an order, and no difference."""
    values = (_finite(before), _finite(after))
    told = "in one of them not reached within the interval"
    verdict: Verdict = "unchanged"
    if before.high < after.low:
        verdict = "worse"
    elif after.high < before.low:
        verdict = "better"
    return Change(name, of, *values, None, verdict, told)


def _ends(found: Estimate) -> tuple[float, float, float]:
    return found.low, found.value, found.high


def _finite(found: Estimate | None) -> float | None:
    return found.value if found and math.isfinite(found.value) else None


def table(found: Comparison) -> Table:
    """As a table, what is worse first."""
    order = ("worse", "better", "not comparable", "unchanged")
    rows = tuple(
        (
            change.verdict,
            figures.printable(f"{change.metric}[{change.of}]"),
            figures.of_unit(change.before, METRICS[change.metric].unit),
            figures.of_unit(change.after, METRICS[change.metric].unit),
            figures.estimate(change.difference, METRICS[change.metric].unit),
            figures.printable(change.why),
        )
        for change in sorted(found.changes, key=lambda change: order.index(change.verdict))
    )
    columns = ("", "Metric", "Before", "After", "Difference", "How")
    return Table("changes", "What changed", columns, rows, "Intervals at 95 %.", 9)


def verdict(found: Comparison) -> str:
    """One line: how it ended."""
    if found.faults:
        return f"Not comparable: {'; '.join(found.faults)}."
    counts = {word: sum(c.verdict == word for c in found.changes) for word in ("worse", "better")}
    if not found.passed and not counts["worse"]:
        return "Nothing was compared, or the second run did not measure all that the first did."
    return f"{counts['worse']} worse, {counts['better']} better, of {len(found.changes)}."


def as_json(found: Comparison) -> bytes:
    """All of it, for machines."""
    plain = {**asdict(found), "passed": found.passed}
    return orjson.dumps(plain, option=orjson.OPT_INDENT_2) + b"\n"


def as_markdown(found: Comparison) -> str:
    """For the summary of a CI job."""
    lines = [f"**{escape(verdict(found))}**", ""]
    lines += [*(f"- {note}" for note in map(escape, found.notes)), "", *table_lines(table(found))]
    return "\n".join(lines) + "\n"
