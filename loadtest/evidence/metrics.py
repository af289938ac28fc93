"""What thresholds can be set on, and how they are judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from loadtest.evidence import attack_metrics, bounds, load_metrics
from loadtest.evidence.bounds import Bound, Threshold
from loadtest.evidence.measured import Measured
from loadtest.evidence.results import Check, Results

Need = Literal["open", "closed", "pairs", "hostile", "beside", "audit"]

KEPT_UP: Final = 0.01
"""The share of a load that the generator may send late, or not at all, and still be believed."""


@dataclass(frozen=True, slots=True)
class Metric:
    """Something that is measured of a run.

    Attributes:
        words: what it is, in a line.
        unit: ``seconds``, ``share`` (0 to 1), ``ratio``, ``queries``, ``count`` or ``auc``.
        better: which direction is.
        selects: what a selector in brackets names; without one all are meant, and the worst of
            them has to keep to the bound, or all requests together where ``words`` say so.
        needs: what a scenario must do for it to be measured.
        measure: one value for each load or driver, of those that the selector means.
        families: of the attacks that it is measured of; none: of every one but abuse.
        late: the share of a load that the generator may send late, or not at all, before it is
            void; None: it does not matter.
        least: the least value that there can be, of what is no plain share.
    """

    words: str
    unit: str
    better: Literal["lower", "higher"]
    selects: Literal["load", "attack", "load or attack"]
    needs: frozenset[Need]
    measure: Callable[[Results, str], Sequence[Measured]]
    families: frozenset[str] = frozenset()
    late: float | None = None
    least: float = 0.0

    @property
    def most(self) -> float:
        """The largest value that there can be."""
        return 1.0 if self.unit in {"share", "auc"} else math.inf


def _overhead(percent: float, name: str) -> dict[str, Metric]:
    words = f"{name} of honest latency through the firewall"
    pairs: frozenset[Need] = frozenset({"open", "pairs"})
    text = f"p{percent:g}".replace(".", "")
    # Late ones move a percentile's rank by as many: by half of what lies above it, it is another.
    late = min(KEPT_UP, (1 - percent / 100) / 2)
    return {
        f"overhead_{text}_seconds": Metric(
            f"{words}, less the model server's alone, within a round",
            "seconds", "lower", "load", pairs, load_metrics.overhead(percent),
            late=late, least=-math.inf,
        ),
        f"overhead_{text}_ratio": Metric(
            f"{words}, as a multiple of the model server's alone, within a round",
            "ratio", "lower", "load", pairs, load_metrics.overhead(percent, ratio=True),
            late=late,
        ),
        f"latency_{text}_seconds": Metric(
            words, "seconds", "lower", "load", frozenset({"open"}), load_metrics.latency(percent),
            late=late,
        ),
    }  # fmt: skip


def _of_attacks(
    words: str,
    unit: str,
    better: Literal["lower", "higher"],
    measure: Callable[[Results, str], Sequence[Measured]],
    *needs: Need,
    families: frozenset[str] = frozenset(),
    least: float = 0.0,
) -> Metric:
    return Metric(words, unit, better, "attack", frozenset(needs), measure, families, least=least)


_OPEN: Final[frozenset[Need]] = frozenset({"open"})

METRICS: Final[Mapping[str, Metric]] = {
    "honest_refusals": Metric(
        "honest requests that the firewall refused, limited or called malformed, of all decided",
        "share", "lower", "load", _OPEN, load_metrics.honest_refusals,
    ),
    "honest_refusals_during_attacks": Metric(
        "the same, of those sent while an attack was under way",
        "share", "lower", "load or attack", frozenset({"beside"}),
        load_metrics.honest_refusals_during_attacks,
    ),
    **_overhead(50, "the median"),
    **_overhead(99, "the 99th percentile"),
    **_overhead(99.9, "the 99.9th percentile"),
    "goodput_ratio": Metric(
        "good answers a second through the firewall, of the model server's alone, in a round",
        "ratio", "higher", "load", frozenset({"open", "pairs"}), load_metrics.goodput_ratio,
    ),
    "ceiling_ratio": Metric(
        "the same at the ceiling: in a closed loop",
        "ratio", "higher", "load", frozenset({"closed", "pairs"}), load_metrics.ceiling_ratio,
    ),
    "failures": Metric(
        "honest requests that had no answer that can be read, or were never sent, of all",
        "share", "lower", "load", _OPEN, load_metrics.failures,
    ),
    "shed": Metric(
        "honest requests that the firewall shed, of all replies",
        "share", "lower", "load", _OPEN, load_metrics.shed,
    ),
    "refusal_p99_seconds": Metric(
        "the 99th percentile of the time in which the firewall refuses, limits or sheds",
        "seconds", "lower", "load", _OPEN, load_metrics.refusal_latency(99), late=KEPT_UP,
    ),
    "hostile_refusals": Metric(
        "hostile requests of a mix that the firewall refused, of all decided",
        "share", "higher", "load", frozenset({"hostile"}), load_metrics.hostile_refusals,
    ),
    "late": Metric(
        "honest requests that the load generator sent more than a millisecond after their time",
        "share", "lower", "load", _OPEN, load_metrics.late,
    ),
    "dropped": Metric(
        "honest requests that were never sent, as too many waited for a connection",
        "share", "lower", "load", _OPEN, load_metrics.dropped,
    ),
    "attack_success": _of_attacks(
        "tries of an attack that reach its goal through the firewall",
        "share", "lower", attack_metrics.success,
    ),
    "attack_success_reduction": _of_attacks(
        "success without the firewall less success with it, where it succeeds without",
        "share", "higher", attack_metrics.reduction, "pairs", least=-1.0,
    ),
    "recognised": _of_attacks(
        "tries of an attack that the firewall recognised, by its audit log",
        "share", "higher", attack_metrics.recognised, "audit",
    ),
    "queries_to_recognition_median": _of_attacks(
        "the attack's own queries until it was recognised: median over all tries",
        "queries", "lower", attack_metrics.recognition_median, "audit",
    ),
    "queries_to_recognition_p95": _of_attacks(
        "the same: 95th percentile over all tries",
        "queries", "lower", attack_metrics.recognition_p95, "audit",
    ),
    "surrogate_fidelity_gain": _of_attacks(
        "fidelity of a surrogate stolen through the firewall, less that of asking nothing",
        "share", "lower", attack_metrics.fidelity_gain, families=frozenset({"extraction"}),
        least=-1.0,
    ),
    "membership_auc": _of_attacks(
        "area under the curve of membership inference through the firewall; 0.5 is guessing",
        "auc", "lower", attack_metrics.membership_auc, families=frozenset({"membership"}),
    ),
    "abuse_findings": _of_attacks(
        "faults that abuse of the protocol brought to light in the firewall, all together",
        "count", "lower", attack_metrics.abuse_findings, families=frozenset({attack_metrics.ABUSE}),
    ),
}  # fmt: skip

GENERATOR: Final = ("late", "dropped")
"""What is checked by default of every load whose latency is judged: else its latency is void."""


def threshold(name: str, text: str) -> Threshold:
    """One line of a scenario's thresholds.

    Raises:
        ValueError: if there is no such metric, or the bound is none, or one that no value, however
            bad, would miss; says what is expected.
    """
    metric, selector = bounds.split(name)
    if metric not in METRICS:
        raise ValueError(f"there is no metric {metric!r}: {', '.join(METRICS)}")
    found = bounds.bound(text, METRICS[metric].unit)
    _check_fails(metric, found)
    return Threshold(name, metric, selector, found)


def _check_fails(name: str, bound: Bound) -> None:
    """Refuses what must be meant otherwise: the wrong way round, or beyond all values."""
    metric = METRICS[name]
    if bound.upper != (metric.better == "lower"):
        sign = "<=" if metric.better == "lower" else ">="
        raise ValueError(f"{bound.words!r}: {metric.better} is better for {name}: write {sign}")
    if bound.limit > metric.most:
        raise ValueError(f"{bound.words!r}: {name} is at most {metric.most:g}")
    if bound.limit < metric.least:
        raise ValueError(f"{bound.words!r}: {name} is at least {metric.least:g}")


@dataclass(frozen=True, slots=True)
class Given:
    """What a scenario does, as far as metrics need it.

    Attributes:
        open, closed: names of its loads with honest parts, by their loop.
        hostile: names of loads with hostile parts.
        beside: names of loads that run while an attack is under way, and of those attacks.
        attacks: family of each attack on the firewall, by its name and by its driver's.
        pairs: whether the model server is met alone too.
        audit: whether the firewall's audit log can be read.
    """

    open: frozenset[str] = frozenset()
    closed: frozenset[str] = frozenset()
    hostile: frozenset[str] = frozenset()
    beside: frozenset[str] = frozenset()
    attacks: Mapping[str, str] = field(default_factory=dict)
    pairs: bool = False
    audit: bool = False


_LACKS: Final[Mapping[Need, str]] = {
    "open": "no load with honest traffic in an open loop",
    "closed": "no load in a closed loop",
    "hostile": "no load with hostile traffic",
    "beside": "no load that runs during an attack",
    "pairs": "no way to the model server alone",
    "audit": "no audit log of the firewall to read",
}


def missing(one: Threshold, given: Given) -> str:
    """Why a scenario cannot measure what a threshold is set on, or ""."""
    metric = METRICS[one.metric]
    has: dict[Need, object] = {
        "open": given.open, "closed": given.closed, "hostile": given.hostile,
        "beside": given.beside, "pairs": given.pairs, "audit": given.audit,
    }  # fmt: skip
    for need in sorted(metric.needs):
        if not has[need]:
            return f"the scenario has {_LACKS[need]}"
    if metric.selects == "attack":
        return _lacks_attack(one, metric, given.attacks)
    known: set[str] = set()
    for group in (given.open, given.closed, given.hostile, given.beside):
        known |= group
    wanted = [has[need] for need in ("open", "closed", "hostile", "beside") if need in metric.needs]
    if one.selector and not any(one.selector in group for group in wanted):  # type: ignore[operator]  # sets all
        what = "no such load" if one.selector not in known else "no such load of that kind"
        return f"the scenario has {what}: {one.selector!r}"
    return ""


def _lacks_attack(one: Threshold, metric: Metric, attacks: Mapping[str, str]) -> str:
    fitting = {
        word
        for name, family in attacks.items()
        if (family in metric.families if metric.families else family != attack_metrics.ABUSE)
        for word in (name, family)
    }
    if not fitting:
        return "the scenario has no attack that it is measured of"
    if one.selector and one.selector not in fitting:
        return f"the scenario has no such attack: {one.selector!r}"
    return ""


def judge(results: Results, thresholds: Iterable[Threshold]) -> tuple[Check, ...]:
    """What became of each threshold; and of :data:`GENERATOR`, for loads whose latency is judged.

    That end of an interval is compared that speaks against the run: the upper one with ``<=``. What
    could not be measured fails, and so does everything in a run that was interrupted.
    """
    stated = list(thresholds)
    names = {one.name for one in stated}
    borne: dict[str, float] = {}
    for one in stated:
        late = METRICS[one.metric].late
        if late is None:
            continue
        for metric in GENERATOR:
            name = f"{metric}[{one.selector}]" if one.selector else metric
            if name not in names and metric not in names:
                borne[name] = min(late, borne.get(name, late))
    stated += [threshold(name, f"<= {late:g} measured") for name, late in borne.items()]
    return tuple(_judged(results, one) for one in stated)


def _judged(results: Results, one: Threshold) -> Check:
    found = METRICS[one.metric].measure(results, one.selector)
    failed = [f"{each.of}: {each.how}" for each in found if each.estimate is None]
    if not found:
        failed = ["nothing in this run measures it"]
    if failed:
        return Check(one.name, one.bound.words, None, False, "not measured: " + "; ".join(failed))
    compared = [(_compared(each, one), each) for each in found]
    worst = (max if one.bound.upper else min)(compared, key=lambda pair: pair[0])
    value, each = worst
    why = _why(each, one, len(found))
    if math.isinf(value):
        return Check(one.name, one.bound.words, None, False, f"never reached: {why}")
    passed = one.bound.holds(value) and results.complete
    if not results.complete:
        why = f"the run was interrupted; {why}"
    return Check(one.name, one.bound.words, value, passed, why)


def _compared(each: Measured, one: Threshold) -> float:
    estimate = each.estimate
    assert estimate is not None
    if one.bound.measured:
        return estimate.value
    return estimate.high if one.bound.upper else estimate.low


def _why(each: Measured, one: Threshold, of: int) -> str:
    estimate = each.estimate
    assert estimate is not None
    if one.bound.measured:
        end = "measured value"
    elif estimate.low == estimate.high:
        end = "value"
    else:
        end = "upper end of the interval" if one.bound.upper else "lower end of the interval"
    which = f"the worst of {of}: {each.of}" if of > 1 else each.of
    return f"{end}, {which}: {each.how}"
