"""What has to hold before an endpoint enforces: each with its figure, its bound, and what is
missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from proxy.promotion.evidence import Evidence
from proxy.promotion.intervals import lower, needed, two_sided, upper
from proxy.promotion.verdict import Kind

MOST_DRIFT = 0.01
"""The p-value of the two halves' difference below which it is no chance."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is demanded.

    Attributes:
        budget: the share of honest rows that may be flagged; None: nothing is scored.
        client_budget: the share of honest client-days that may alarm; None: no patterns.
        hours: with traffic, and from the first request to the last.
        clients: distinct ones.
        share: the most of all requests that one client may have sent.
        refusals: the share of requests that limits, or the contract, may refuse.
        shown: whether the upper end of the interval of alarmed client-days must lie within the
            budget, and not only the lower one.
    """

    budget: float | None
    client_budget: float | None
    hours: int = 24
    clients: int = 10
    share: float = 0.5
    refusals: float = 0.001
    shown: bool = False


@dataclass(frozen=True, slots=True)
class Requirement:
    """One of them.

    Attributes:
        name: in a word or two.
        figure, bound: in words.
        met: whether it holds.
        missing: what is missing, or may be done about it; "" if it is met.
    """

    name: str
    figure: str
    bound: str
    met: bool
    missing: str = ""


def requirements(evidence: Evidence, bounds: Bounds, *, pseudonyms: bool) -> list[Requirement]:
    """All of them.

    Args:
        pseudonyms: whether clients' pseudonyms outlive a process.
    """
    return [
        _intact(evidence),
        _recorded(evidence),
        _traffic(evidence),
        *_rows(evidence, bounds),
        *_client_days(evidence, bounds),
        _refusals(evidence, bounds, "limits", Kind.LIMIT, "raise them, or expect them to bite"),
        _refusals(evidence, bounds, "contract", Kind.CONTRACT, "mend the clients or the contract"),
        _faults(evidence),
        _hours(evidence, bounds),
        _clients(evidence, bounds, pseudonyms=pseudonyms),
        _share(evidence, bounds),
        _drift(evidence),
    ]


def share_words(share: float) -> str:
    """A share for people."""
    return f"{100 * share:.3g} %"


def _intact(evidence: Evidence) -> Requirement:
    reports = evidence.reports
    found = sum(report.found for report in reports.values())
    records = sum(report.records for report in reports.values())
    chains = f"{len(reports)} chain{'s' if len(reports) != 1 else ''}"
    return Requirement(
        "log intact",
        f"{found} findings in {records} records of {chains}",
        "none",
        not found,
        "a log that is not as it was written is no evidence: see bartizan audit verify",
    )


def _recorded(evidence: Evidence) -> Requirement:
    unreadable = evidence.events["unreadable"]
    future = evidence.left_out["in the future"]
    jumps = evidence.jumps
    missing = []
    if evidence.dropped or unreadable:
        missing.append("nobody knows what the lost ones were; enforcing refuses such (BZ-901)")
    if future or jumps:
        missing.append("set the clock, and begin the period after its last jump (--since)")
    return Requirement(
        "all recorded",
        f"{evidence.dropped} exchanges lost, {unreadable} unreadable, {future} of the future, "
        f"the clock went back {jumps} times",
        "none",
        not missing,
        "; ".join(missing),
    )


def _traffic(evidence: Evidence) -> Requirement:
    missing = ""
    if not evidence.requests:
        known = evidence.left_out.most_common(1)
        missing = f"exchanges {known[0][0]} do not count" if known else "none is recorded"
        if not known and evidence.others:
            missing += "; this log is of " + ", ".join(sorted(evidence.others)[:10])
    return Requirement(
        "traffic",
        f"{evidence.requests} requests, {evidence.rows} rows",
        "some",
        bool(evidence.requests),
        missing,
    )


def _rows(evidence: Evidence, bounds: Bounds) -> Iterator[Requirement]:
    if bounds.budget is None:
        return
    rows, flagged, requests = evidence.scored_rows, evidence.flagged_rows, evidence.scored_requests
    refused = evidence.refused[Kind.ROWS]
    yield _within(evidence, "flagged rows", (flagged, rows, "rows"), bounds.budget)
    # A request of n rows may be flagged with n times the budget, whatever binds its rows.
    by_request = min(1.0, bounds.budget * rows / requests) if requests else bounds.budget
    yield _within(evidence, "refused for rows", (refused, requests, "requests"), by_request)


def _within(evidence: Evidence, name: str, seen: tuple[int, int, str], bound: float) -> Requirement:
    """That the upper bound of a share (hits, trials, and what they are) lies within a bound."""
    hits, trials, unit = seen
    at_most = upper(hits, trials)
    met = trials > 0 and at_most <= bound
    missing = ""
    if not met:
        enough = needed(hits, trials, bound)
        if enough is None:
            missing = (
                "no more traffic will do at this rate: exclude clients, name the hostile ones, or "
                "fit the bundle anew"
            )
        else:
            more = max(1, enough - trials)
            missing = f"{more} more {unit}{_duration(evidence, more, trials)}"
    return Requirement(
        name,
        f"{hits} of {trials} {unit}: {share_words(hits / trials) if trials else 'none'}, "
        f"at most {share_words(at_most)}",
        f"<= {share_words(bound)}",
        met,
        missing,
    )


def _duration(evidence: Evidence, more: int, seen: int) -> str:
    if not seen or evidence.seconds <= 0:
        return ""
    hours = more / seen * evidence.seconds / 3600
    return f", {f'{hours / 24:.1f} days' if hours > 48 else f'{hours:.1f} hours'} at the rate seen"


def _client_days(evidence: Evidence, bounds: Bounds) -> Iterator[Requirement]:
    if bounds.client_budget is None:
        return
    days, alarmed, budget = len(evidence.client_days), len(evidence.alarmed), bounds.client_budget
    low, high = lower(alarmed, days), upper(alarmed, days)
    end = high if bounds.shown else low
    missing = ""
    if not days or end > budget:
        enough = needed(alarmed, days, budget)
        if enough is None or (low > budget and days):
            missing = "look at these clients: bartizan clients, then --hostile or an exclusion"
        else:
            missing = f"{max(1, enough - days)} more client-days"
    yield Requirement(
        "alarmed client-days",
        f"{alarmed} of {days}: between {share_words(low)} and {share_words(high)}",
        f"<= {share_words(budget)} ({'upper' if bounds.shown else 'lower'} end)",
        not missing,
        missing,
    )


def _refusals(
    evidence: Evidence, bounds: Bounds, name: str, kind: Kind, advice: str
) -> Requirement:
    hits, trials = evidence.refused[kind], evidence.requests
    if not hits:
        # Limits and contracts are no matter of chance: none seen is none.
        return Requirement(name, f"0 of {trials} requests", f"<= {share_words(bounds.refusals)}",
                           met=True)  # fmt: skip
    at_most = upper(hits, trials)
    met = at_most <= bounds.refusals
    return Requirement(
        name,
        f"{hits} of {trials} requests: {share_words(hits / trials)}, "
        f"at most {share_words(at_most)}",
        f"<= {share_words(bounds.refusals)}",
        met,
        "" if met else advice,
    )


def _faults(evidence: Evidence) -> Requirement:
    hits, degraded = evidence.refused[Kind.FAULT], evidence.events["state degraded"]
    missing = []
    if hits:
        missing.append("enforcing refuses these: mend their cause, or state failure_mode: allow")
    if degraded:
        missing.append("meanwhile local limits held: begin the period after it (--since)")
    return Requirement(
        "faults",
        f"{hits} requests, shared state lost {degraded} times",
        "none",
        not missing,
        "; ".join(missing),
    )


def _hours(evidence: Evidence, bounds: Bounds) -> Requirement:
    hours, span = len(evidence.hours), evidence.seconds / 3600
    wanted = bounds.hours
    missing = []
    if hours < wanted:
        missing.append(f"{wanted - hours} more hours with traffic")
    if span < min(wanted, 24) * (1 - 1e-9):
        missing.append(f"{min(wanted, 24) - span:.1f} hours to a day's cycle")
    return Requirement(
        "hours",
        f"{hours} hours with traffic, over {span:.1f}",
        f">= {wanted}",
        not missing,
        "; ".join(missing),
    )


def _clients(evidence: Evidence, bounds: Bounds, *, pseudonyms: bool) -> Requirement:
    # Without client.secret, one client has another pseudonym in every process.
    seen = (
        len(evidence.clients)
        if pseudonyms
        else max((len(clients) for clients in evidence.lives.values()), default=0)
    )
    words = "" if pseudonyms else " in the process that saw most (without client.secret)"
    return Requirement(
        "clients",
        f"{seen}{words}",
        f">= {bounds.clients}",
        seen >= bounds.clients,
        "" if seen >= bounds.clients else f"{bounds.clients - seen} more (or --min-clients)",
    )


def _share(evidence: Evidence, bounds: Bounds) -> Requirement:
    most = max((one.requests for one in evidence.clients.values()), default=0)
    share = most / evidence.requests if evidence.requests else 0.0
    met = share <= bounds.share
    return Requirement(
        "largest client",
        f"{share_words(share)} of requests",
        f"<= {share_words(bounds.share)}",
        met,
        "" if met else "traffic of others (or --max-share)",
    )


def _drift(evidence: Evidence) -> Requirement:
    rows, half = 0, sum(one[0] for one in evidence.buckets.values()) / 2
    first, second = [0, 0], [0, 0]
    for _, (scored, refused) in sorted(evidence.buckets.items()):
        into = first if rows < half else second
        into[0] += scored
        into[1] += refused
        rows += scored
    total = first[1] + second[1]
    p_value = two_sided(second[1], total, second[0] / rows) if total and second[0] else 1.0
    met = p_value >= MOST_DRIFT
    return Requirement(
        "drift",
        f"{first[1]} requests refused for {first[0]} rows, then {second[1]} for {second[0]}: "
        f"p = {p_value:.2g}",
        f"p >= {MOST_DRIFT:g}",
        met,
        "" if met else "what was sent changed: look at rules and clients, or begin later (--since)",
    )
