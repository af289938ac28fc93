"""What loads come to: overhead, goodput, honest refusals, and whether the generator kept up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from loadtest.evidence import measured
from loadtest.evidence.loads import (
    Pair,
    Pooled,
    enough,
    is_alone,
    is_closed,
    names,
    pairs,
    pool,
)
from loadtest.evidence.measured import Measured
from loadtest.evidence.results import LoadResult, Results, Share

Measure = Callable[[Results, str], Sequence[Measured]]
Value = Callable[[Pair], float]

_SPEAK_FOR_ALL: Final = 0.5
"""The share of a round that must have been answered, if the answers' latency is to say anything."""


_FAILING: Final = 0.05
"""The share of a closed loop's requests that may fail, if its rate is to say anything."""


class _Missing(Exception):  # noqa: N818 - said, not raised to anyone outside
    """A round that does not carry a value."""


def _through(results: Results, selector: str) -> list[LoadResult]:
    return [
        load
        for load in results.loads
        if load.kind == "honest"
        and load.side == "firewall"
        and not is_closed(load)
        and selector in ("", load.name)
    ]


def honest_refusals(results: Results, selector: str) -> Sequence[Measured]:
    """Honest requests that the firewall refused, all loads together."""
    group = pool(_through(results, selector))
    return [measured.share(selector or "all loads", group.refusals, "honest requests refused")]


def honest_refusals_during_attacks(results: Results, selector: str) -> Sequence[Measured]:
    """The same, while an attack was under way."""
    loads = [
        load
        for load in results.loads
        if load.kind == "honest"
        and load.side == "firewall"
        and load.beside
        and selector in ("", load.name, load.beside)
    ]
    found = pool(loads).refusals
    return [
        measured.share(selector or "all attacks", found, "honest requests refused during attacks")
    ]


def hostile_refusals(results: Results, selector: str) -> Sequence[Measured]:
    """Hostile requests of a mix that the firewall refused."""
    group = pool(
        load
        for load in results.loads
        if load.kind == "hostile" and load.side == "firewall" and selector in ("", load.name)
    )
    return [measured.share(selector or "all loads", group.refusals, "hostile requests refused")]


def overhead(percent: float, *, ratio: bool = False) -> Measure:
    """What the firewall adds to a percentile of latency, within a round of a pair."""

    def value(pair: Pair) -> float:
        direct, firewall = (_percentile(side, percent) for side in (pair.direct, pair.firewall))
        if not ratio:
            return firewall - direct
        if direct <= 0:
            raise _Missing("the model server answers within a microsecond")
        return firewall / direct

    return _per_pair(value)


def latency(percent: float) -> Measure:
    """A percentile of latency through the firewall, in each round."""

    def measure(results: Results, selector: str) -> Sequence[Measured]:
        loads = [
            load
            for load in results.loads
            if is_alone(load) and load.side == "firewall" and selector in ("", load.name)
        ]
        return [_rounds_of(name, loads, percent) for name in names(loads)]

    return measure


def _rounds_of(name: str, loads: Sequence[LoadResult], percent: float) -> Measured:
    values = []
    for number in sorted({load.round for load in loads if load.name == name}):
        group = pool(load for load in loads if load.name == name and load.round == number)
        try:
            values.append(_percentile(group, percent))
        except _Missing as missing:
            return Measured(name, None, str(missing))
    return measured.over_rounds(name, values)


def goodput_ratio(results: Results, selector: str) -> Sequence[Measured]:
    """Good answers a second through the firewall, of those from the model server alone."""
    return _per_pair(_goodput)(results, selector)


def ceiling_ratio(results: Results, selector: str) -> Sequence[Measured]:
    """The same in a closed loop; with many failures, a rate is no ceiling."""

    def value(pair: Pair) -> float:
        for side, group in (("direct", pair.direct), ("firewall", pair.firewall)):
            failed = group.failures
            if failed.count > _FAILING * failed.total:
                raise _Missing(f"{side}: {failed.count} of {failed.total} requests failed")
        return _goodput(pair)

    return _per_pair(value, is_closed)(results, selector)


def _goodput(pair: Pair) -> float:
    if not pair.direct.goodput:
        raise _Missing("the model server alone gave no good answer")
    return pair.firewall.goodput / pair.direct.goodput


def _per_pair(value: Value, which: Callable[[LoadResult], bool] = is_alone) -> Measure:
    def measure(results: Results, selector: str) -> Sequence[Measured]:
        loads = [load for load in results.loads if which(load) and load.kind == "honest"]
        found = []
        for name in names(loads):
            if selector not in ("", name):
                continue
            rounds = pairs([load for load in loads if load.name == name])
            # Without a selector, what was never paired is not meant; with one, it is missing.
            if not rounds and not selector:
                continue
            try:
                found.append(measured.over_rounds(name, [value(pair) for pair in rounds]))
            except _Missing as missing:
                found.append(Measured(name, None, str(missing)))
        return found

    return measure


def _percentile(group: Pooled, percent: float) -> float:
    """A percentile of one side of a round.

    What was never served took for ever: else a server that answers few, soon, would seem fast.
    """
    histogram, unserved = group.latency, group.unserved
    answered = histogram.total
    if not answered or not enough(histogram, percent):
        raise _Missing(f"a round has {answered} answers: too few for p{percent:g}")
    rank = percent / 100 * (answered + unserved)
    if rank > answered + 1e-9:
        lost = f"{unserved} of {group.offered} requests were dropped, shed or failed"
        raise _Missing(f"p{percent:g} is never reached in a round: {lost}")
    if answered < _SPEAK_FOR_ALL * group.offered:
        raise _Missing(f"a round has answers to {answered} of {group.offered} requests only")
    value = histogram.percentile(100 * rank / answered)
    assert value is not None
    return value


def refusal_latency(percent: float) -> Measure:
    """How soon the firewall refuses, limits or sheds, over all rounds of a load."""

    def measure(results: Results, selector: str) -> Sequence[Measured]:
        loads = [
            load
            for load in results.loads
            if load.side == "firewall" and not is_closed(load) and selector in ("", load.name)
        ]
        found = []
        for name in names(loads):
            histogram = pool(load for load in loads if load.name == name).refusal_latency
            if not histogram.total and not selector:
                continue
            estimate = histogram.interval(percent)
            how = f"{histogram.total} refusals"
            found.append(
                Measured(name, estimate, how if estimate else f"{how}: too few for p{percent:g}")
            )
        return found

    return measure


def _generator(count: Callable[[Pooled], int], what: str) -> Measure:
    """The worst round on the worst side of each load: pooled, a bad one would drown."""

    def measure(results: Results, selector: str) -> Sequence[Measured]:
        loads = [load for load in results.loads if is_alone(load) and selector in ("", load.name)]
        return [
            _worst_round([load for load in loads if load.name == name], count, what)
            for name in names(loads)
        ]

    return measure


def _worst_round(
    loads: Sequence[LoadResult], count: Callable[[Pooled], int], what: str
) -> Measured:
    worst: tuple[float, Share, str] | None = None
    for side, number in dict.fromkeys((load.side, load.round) for load in loads):
        group = pool(load for load in loads if (load.side, load.round) == (side, number))
        found = Share(count(group), group.offered)
        share = found.count / found.total if found.total else 0.0
        if worst is None or share > worst[0]:
            worst = share, found, f"{what}, {side}, round {number + 1}"
    assert worst is not None
    return measured.share(loads[0].name, worst[1], worst[2])


late = _generator(lambda group: group.late, "requests sent late")
dropped = _generator(lambda group: group.dropped, "requests never sent")


def failures(results: Results, selector: str) -> Sequence[Measured]:
    """Honest requests that had no answer from the firewall that can be read.

    Those that still waited for a connection when the load ended are among them: a server that
    hangs keeps nearly all of its victims from being sent.
    """
    group = pool(_through(results, selector))
    found = Share(group.failures.count + group.dropped, group.offered)
    return [measured.share(selector or "all loads", found, "honest requests failed or never sent")]


def shed(results: Results, selector: str) -> Sequence[Measured]:
    """Honest requests that the firewall shed."""
    group = pool(_through(results, selector))
    found = Share(group.said.get("shed", 0), sum(group.said.values()))
    return [measured.share(selector or "all loads", found, "honest requests shed")]
