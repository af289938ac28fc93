"""What the outcome of a load amounts to: counts, percentiles, and a series of seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from loadtest.evidence.results import PERCENTILES, LoadResult, Slice
from loadtest.load.hdr import Histogram
from loadtest.load.outcome import ERRORS, UNSENT, Mask, Outcome, said_of, text_of
from loadtest.load.plan import LATE_SECONDS, Part, Plan, Times
from loadtest.targets.base import Said

_REFUSALS: Final = (Said.REFUSED, Said.LIMITED, Said.SHED)


def results(plan: Plan, outcome: Outcome) -> list[LoadResult]:
    """One of each part of the plan, in its order."""
    return [
        result(plan, part, outcome.of(plan.which == number))
        for number, part in enumerate(plan.parts)
    ]


def result(plan: Plan, part: Part, outcome: Outcome) -> LoadResult:
    """Of one part: everything that is told of it."""
    said = _said(outcome)
    answered, tried = said[Said.ANSWERED], outcome.status != UNSENT
    waited = outcome.done - outcome.intended
    good = answered if plan.deadline is None else answered & (waited <= plan.deadline)
    refused = np.logical_or.reduce([said[one] for one in _REFUSALS])
    latency, refusal = Histogram(), Histogram()
    latency.add(waited[answered])
    refusal.add((outcome.done - outcome.sent)[refused])
    found = np.unique(outcome.status, return_counts=True)
    counts = {int(s): int(n) for s, n in zip(*found, strict=True)}
    return LoadResult(
        name=plan.name, part=part.name, kind=part.kind, side=plan.side,
        arrivals=plan.arrivals, round=plan.round,
        seconds=_seconds(outcome),
        offered=len(outcome.status),
        sent=int(tried.sum()),
        late=int((outcome.sent[tried] - outcome.intended[tried] > LATE_SECONDS).sum()),
        dropped=int((~tried).sum()),
        statuses={text_of(s): n for s, n in counts.items() if s > 0},
        said={one.value: int(mask.sum()) for one, mask in said.items() if mask.any()},
        errors={ERRORS[s]: n for s, n in counts.items() if s < 0},
        good=int(good.sum()),
        latency=latency.encode(), refusal_latency=refusal.encode(),
        percentiles=_percentiles(latency), refusal_percentiles=_percentiles(refusal),
        series=_series(outcome, said, good),
    )  # fmt: skip


def _said(outcome: Outcome) -> dict[Said, Mask]:
    """Which replies said what. Errors are none."""
    masks = {one: np.zeros(len(outcome.status), np.bool_) for one in Said}
    for status in np.unique(outcome.status):
        if status > 0:
            masks[said_of(int(status))] |= outcome.status == status
    return masks


def _seconds(outcome: Outcome) -> float:
    if not len(outcome.intended):
        return 0.0
    ends = outcome.done[~np.isnan(outcome.done)]
    last = max(float(ends.max()) if len(ends) else 0.0, float(outcome.intended[-1]))
    return last - float(outcome.intended[0])


def _percentiles(histogram: Histogram) -> dict[str, float]:
    found = {f"{percent:g}": histogram.percentile(percent) for percent in PERCENTILES}
    return {name: value for name, value in found.items() if value is not None}


def _series(outcome: Outcome, said: Mapping[Said, Mask], good: Mask) -> tuple[Slice, ...]:
    """By the second in which requests were due, to the last of them."""
    if not len(outcome.intended):
        return ()
    second = outcome.intended.astype(np.int64)
    number = int(second[-1]) + 1
    failed = (outcome.status < 0) | said[Said.FAILED]

    def counted(mask: Mask) -> npt.NDArray[np.int64]:
        return np.bincount(second[mask], minlength=number)

    goods, fails, invalids = counted(good), counted(failed), counted(said[Said.INVALID])
    offered = np.bincount(second, minlength=number)
    answered = said[Said.ANSWERED]
    waited = (outcome.done - outcome.intended)[answered]
    median, worst = (_by_second(second[answered], waited, number, q) for q in (50.0, 99.0))
    refused, limited, shed = (counted(said[one]) for one in _REFUSALS)
    return tuple(
        Slice(
            float(at), int(offered[at]), int(goods[at]), int(refused[at]), int(limited[at]),
            int(shed[at]), int(fails[at]), int(invalids[at]), median[at], worst[at],
        )
        for at in range(number)
    )  # fmt: skip


def _by_second(
    second: npt.NDArray[np.int64], waited: Times, number: int, percent: float
) -> list[float | None]:
    """A percentile, by nearest rank, of each second's values; None where there are none."""
    order = np.lexsort((waited, second))
    sizes = np.bincount(second, minlength=number)
    begins = np.concatenate([[0], np.cumsum(sizes)])[:-1]
    ranks = np.maximum(np.ceil(sizes * (percent / 100) - 1e-9).astype(np.int64), 1) - 1
    return [
        float(waited[order[begin + rank]]) if size else None
        for begin, rank, size in zip(begins, ranks, sizes, strict=True)
    ]
