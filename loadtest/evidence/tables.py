"""What a run found, as tables of text: the same for a terminal, a page and Markdown. Pure.

Cells are printable, and not escaped for any markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from loadtest.evidence import atlas, attack_metrics, figures
from loadtest.evidence.bounds import split
from loadtest.evidence.loads import (
    CLOSED,
    Pooled,
    is_alone,
    is_closed,
    latencies,
    names,
    pool,
    title,
)
from loadtest.evidence.metrics import GENERATOR, KEPT_UP, METRICS
from loadtest.evidence.results import AttackResult, Check, Results, Side
from loadtest.evidence.statistics import pooled, quantile


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a report.

    Attributes:
        key: a word by which a page knows it.
        columns: their heads; the first column names the row.
        rows: cells, as many as columns.
        note: what a reader must know of it, or "".
        numeric: from which column on cells are figures.
    """

    key: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    numeric: int = 1


_ROUNDS = (
    "Direct and firewall: over all rounds. Added: the median over rounds of the difference within "
    "a round, and between which rounds it lies; with fewer than six rounds that is all of them, "
    "and less than 95 %."
)
_WORST = "Intervals are Wilson's, 95 %."


def tables(results: Results) -> list[Table]:
    """All that are not empty, in the order of a report."""
    found = [
        checks(results.checks),
        overhead(results),
        goodput(results),
        honest(results),
        hostile(results),
        attacks(results),
        techniques(results),
        measures(results),
        rules(results),
    ]
    return [table for table in found if table.rows]


def checks(found: Sequence[Check]) -> Table:
    """The thresholds."""
    rows = tuple(
        (
            "passed" if check.passed else "FAILED",
            figures.printable(check.metric),
            figures.printable(check.bound),
            figures.of_unit(check.observed, _unit(check.metric)),
            figures.printable(check.why),
        )
        for check in found
    )
    return Table(
        "checks", "Thresholds", ("", "Metric", "Bound", "Compared", "How"), rows, numeric=9
    )


def _unit(name: str) -> str:
    try:
        metric = METRICS.get(split(name)[0])
    except ValueError:
        return ""
    return metric.unit if metric else ""


def overhead(results: Results) -> Table:
    """Latencies on both sides, and what the firewall adds."""
    rows = []
    histograms = latencies(results)
    for name in names(load for load in results.loads if is_alone(load)):
        for percent in (50.0, 99.0, 99.9):
            direct, firewall = (
                figures.seconds(histograms[name, side].percentile(percent))
                if (name, side) in histograms
                else figures.NONE
                for side in ("direct", "firewall")
            )
            text = f"p{percent:g}"
            added, ratio = (
                _measured(results, f"overhead_{text.replace('.', '')}_{unit}", name)
                for unit in ("seconds", "ratio")
            )
            rows.append((figures.printable(name), text, direct, firewall, added, ratio))
    columns = ("Load", "Latency", "Direct", "Firewall", "Added", "Ratio")
    return Table(
        "overhead", "Latency, direct and through the firewall", columns, tuple(rows), _ROUNDS
    )


def goodput(results: Results) -> Table:
    """Good answers a second on both sides."""
    rows = []
    loads = [load for load in results.loads if load.kind == "honest" and not load.beside]
    for name in names(loads):
        of_name = [load for load in loads if load.name == name]
        closed = is_closed(of_name[0])
        direct, firewall = (
            pool(load for load in of_name if load.side == side) for side in ("direct", "firewall")
        )
        metric = "ceiling_ratio" if closed else "goodput_ratio"
        rows.append(
            (
                figures.printable(name),
                figures.printable(of_name[0].arrivals or (CLOSED if closed else "open loop")),
                *(
                    figures.number(round(side.goodput, 1)) if side else figures.NONE
                    for side in (direct, firewall)
                ),
                _measured(results, metric, name),
            )
        )
    columns = ("Load", "Arrivals", "Direct /s", "Firewall /s", "Ratio")
    return Table("goodput", "Good answers a second", columns, tuple(rows), numeric=2)


def _measured(results: Results, metric: str, selector: str) -> str:
    known = METRICS[metric]
    found = known.measure(results, selector)
    return figures.estimate(found[0].estimate, known.unit) if found else figures.NONE


def honest(results: Results) -> Table:
    """What became of honest requests on either side, alone and during attacks."""
    rows = []
    groups: dict[tuple[str, Side], list[int]] = {}
    loads = [load for load in results.loads if load.kind == "honest"]
    for i, load in enumerate(loads):
        groups.setdefault((title(load), load.side), []).append(i)
    for (name, side), members in groups.items():
        group = pool(loads[i] for i in members)
        rows.append((figures.printable(name), side, *_became(group)))
    columns = (
        "Load", "Side", "Sent", "Good", "Refused, of those decided", "Shed", "Failed", "Late",
        "Dropped",
    )  # fmt: skip
    note = f"Refused: by a verdict, a limit, or as malformed. {_WORST}"
    return Table("honest", "Honest requests", columns, tuple(rows), note, 2)


def _became(group: Pooled) -> tuple[str, ...]:
    counts = (group.said.get("shed", 0), group.failures.count, group.late, group.dropped)
    return (
        figures.number(group.sent),
        figures.number(group.good),
        figures.share(group.refusals),
        *(figures.number(count) for count in counts),
    )


def hostile(results: Results) -> Table:
    """What became of the hostile parts of mixes."""
    rows = []
    loads = [load for load in results.loads if load.kind == "hostile"]
    for name, part, side in dict.fromkeys((load.name, load.part, load.side) for load in loads):
        group = pool(
            load for load in loads if (load.name, load.part, load.side) == (name, part, side)
        )
        rows.append((
            figures.printable(name), figures.printable(part), side, figures.number(group.sent),
            figures.share(group.refusals),
        ))  # fmt: skip
    columns = ("Load", "Part", "Side", "Sent", "Refused, of those decided")
    return Table("hostile", "Hostile requests of mixes", columns, tuple(rows), _WORST, 3)


def attacks(results: Results) -> Table:
    """Each attack, without and with the firewall side by side."""
    rows = []
    for name, sides in attack_metrics.paired(results.attacks):
        direct, firewall = sides.get("direct"), sides.get("firewall")
        one = firewall or direct
        assert one is not None
        rows.append(
            (
                figures.printable(name, 60),
                figures.printable(one.family),
                figures.printable(one.goal, 80),
                _success(direct),
                _success(firewall),
                _cost(direct),
                _cost(firewall),
                figures.share(firewall.recognised) if firewall else figures.NONE,
                _recognition(firewall),
            )
        )
    columns = (
        "Attack", "Family", "Goal", "Success, direct", "Success, firewall",
        "Queries to success, direct", "Queries to success, firewall",
        "Recognised", "Queries until then, median / p95",
    )  # fmt: skip
    note = f"Queries to success: the median of tries that succeeded. {_WORST}"
    return Table("attacks", "Attacks, without and with the firewall", columns, tuple(rows), note, 3)


def _success(attack: AttackResult | None) -> str:
    if attack is None:
        return figures.NONE
    if attack.fault:
        return f"does not count: {figures.printable(attack.fault, 120)}"
    return figures.share(attack.success)


def _cost(attack: AttackResult | None) -> str:
    found = quantile([float(n) for n in attack.to_success], 0.5) if attack else None
    return figures.number(found.estimate.value) if found else figures.NONE


def _recognition(attack: AttackResult | None) -> str:
    if attack is None or attack.recognised is None or not attack.recognised.total:
        return figures.NONE
    found = [attack_metrics.queries_to_recognition(attack, q).estimate for q in (0.5, 0.95)]
    return " / ".join(figures.number(one.value) if one else figures.NONE for one in found)


def techniques(results: Results) -> Table:
    """By ATLAS technique: an attack counts under each that it names."""
    rows = []
    for technique, by in by_technique(results).items():
        counted = [attack for attack in by if not attack.fault]
        known = [attack.recognised for attack in counted if attack.recognised is not None]
        direct, firewall = (
            pooled([attack.success for attack in counted if attack.side == side])
            for side in ("direct", "firewall")
        )
        drivers = ", ".join(dict.fromkeys(attack_metrics.name(attack) for attack in by))
        rows.append(
            (
                figures.printable(atlas.title(technique)),
                figures.printable(drivers),
                figures.share(direct),
                figures.share(firewall),
                figures.share(pooled(known)) if known else figures.NONE,
            )
        )
    columns = ("Technique", "Attacks", "Success, direct", "Success, firewall", "Recognised")
    note = "Tries of all attacks of a technique together. Those of abuse count faults found."
    return Table("atlas", "By MITRE ATLAS technique", columns, tuple(rows), note, 2)


def by_technique(results: Results) -> Mapping[str, list[AttackResult]]:
    """The attacks under each technique that they name, in the order of its id."""
    found: dict[str, list[AttackResult]] = {}
    for attack in results.attacks:
        for technique in attack.atlas:
            found.setdefault(technique, []).append(attack)
    return dict(sorted(found.items()))


def measures(results: Results) -> Table:
    """What attacks measure beside success."""
    rows = []
    for name, sides in attack_metrics.paired(a for a in results.attacks if a.value is not None):
        one = next(iter(sides.values()))
        rows.append(
            (
                figures.printable(name, 60),
                figures.printable(one.measure, 60),
                *(
                    figures.estimate(attack.value, "") if attack else figures.NONE
                    for attack in (sides.get("direct"), sides.get("firewall"))
                ),
                figures.number(one.baseline),
            )
        )
    columns = ("Attack", "Measure", "Direct", "Firewall", "Without asking")
    return Table("measures", "What attackers gain beside", columns, tuple(rows), numeric=2)


def rules(results: Results) -> Table:
    """By which rules honest and hostile requests were refused."""
    rows = []
    for kind in ("honest", "hostile"):
        counts = pool(load for load in results.loads if load.kind == kind).rules
        rows += [
            (figures.printable(rule), kind, figures.number(count))
            for rule, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        ]
    return Table(
        "rules", "Refusals by rule", ("Rule", "Traffic", "Requests"), tuple(rows), numeric=2
    )


def about(results: Results) -> Table:
    """Scenario, target, machine, versions: all that the figures depend on."""
    groups: Iterable[tuple[str, Mapping[str, str]]] = (
        ("Target", results.target),
        ("Machine", results.machine),
        ("Version", results.versions),
    )
    rows = [
        ("Scenario", results.scenario),
        ("Scenario's SHA-256", results.digest),
        ("Started", results.started),
        ("Took", figures.seconds(results.seconds)),
        ("Seed", str(results.seed)),
        ("Command", results.command),
        *((f"{group}: {key}", value) for group, pairs in groups for key, value in pairs.items()),
    ]
    shown = tuple(
        (figures.printable(key), figures.printable(value)) for key, value in rows if value
    )
    return Table("about", "What it ran on", ("", ""), shown, numeric=9)


def notes(results: Results) -> list[str]:
    """What a reader must know: the run's own notes, and where the generator did not keep up."""
    found = [figures.printable(note) for note in results.notes]
    for metric in GENERATOR:
        found += [
            f"{figures.printable(one.of)}: {one.how}: "
            "what is said of its latency is not to be trusted."
            for one in METRICS[metric].measure(results, "")
            if one.estimate and one.estimate.value > KEPT_UP
        ]
    return found


def verdict(results: Results) -> str:
    """One line: how it ended."""
    if not results.complete:
        return "Interrupted: incomplete, and so no threshold passes."
    failed = sum(not check.passed for check in results.checks)
    if failed:
        return f"{failed} of {len(results.checks)} thresholds failed."
    return (
        f"All {len(results.checks)} thresholds passed."
        if results.checks
        else "No thresholds were set."
    )
