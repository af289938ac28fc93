"""The report as JUnit's XML: a test case for each threshold, attack and load."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree

from loadtest.evidence import attack_metrics, figures
from loadtest.evidence.loads import Pooled, pool, title
from loadtest.evidence.results import Results

_SUITES: Final = ("thresholds", "attacks", "loads")


@dataclass(frozen=True, slots=True)
class _Case:
    suite: str
    name: str
    seconds: float
    output: str
    failure: str = ""
    error: str = ""


def render(results: Results) -> bytes:
    """The file. A threshold that does not hold is a failure, what could not be measured an error.

    An attack that succeeds and a load that is refused are no failures in themselves: thresholds
    judge them. That one broke is an error, and so is a run that was interrupted.
    """
    cases = [*_thresholds(results), *_attacks(results), *_loads(results)]
    root = ElementTree.Element("testsuites", _counts(cases, results.seconds))
    root.set("name", figures.printable(results.scenario or "load test"))
    for suite in _SUITES:
        members = [case for case in cases if case.suite == suite]
        if not members:
            continue
        seconds = sum(case.seconds for case in members)
        element = ElementTree.SubElement(root, "testsuite", _counts(members, seconds))
        element.set("name", f"bartizan.{suite}")
        # Readers' schemas want it without a zone; it is UTC.
        element.set("timestamp", figures.printable(results.started)[:19])
        for case in members:
            _write(element, case)
    ElementTree.indent(root)
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _counts(cases: list[_Case], seconds: float) -> dict[str, str]:
    return {
        "tests": str(len(cases)),
        "failures": str(sum(bool(case.failure) for case in cases)),
        "errors": str(sum(bool(case.error) for case in cases)),
        "skipped": "0",
        "time": f"{seconds:.3f}",
    }


def _write(suite: ElementTree.Element, case: _Case) -> None:
    attributes = {
        "classname": f"bartizan.{case.suite}", "name": case.name, "time": f"{case.seconds:.3f}",
    }  # fmt: skip
    element = ElementTree.SubElement(suite, "testcase", attributes)
    for kind, message in (("failure", case.failure), ("error", case.error)):
        if message:
            fault = ElementTree.SubElement(element, kind, {"message": message, "type": case.suite})
            fault.text = case.output
    if not case.failure and not case.error:
        ElementTree.SubElement(element, "system-out").text = case.output


def _thresholds(results: Results) -> Iterator[_Case]:
    if not results.complete:
        words = "the run was interrupted"
        yield _Case("thresholds", "the run is complete", 0.0, words, error=words)
    for check in results.checks:
        name = figures.printable(f"{check.metric} {check.bound}")
        why = figures.printable(check.why)
        if check.passed:
            yield _Case("thresholds", name, 0.0, f"{check.observed}: {why}")
        elif check.observed is None:
            yield _Case("thresholds", name, 0.0, why, error=why or "not measured")
        else:
            yield _Case("thresholds", name, 0.0, why, failure=f"{check.observed:.6g}, {why}")


def _attacks(results: Results) -> Iterator[_Case]:
    for attack in results.attacks:
        name = figures.printable(f"{attack_metrics.name(attack)}, {attack.side}")
        output = f"{attack.goal}: success {figures.share(attack.success)}; {attack.queries} queries"
        if attack.recognised is not None:
            output += f"; recognised {figures.share(attack.recognised)}"
        fault = figures.printable(attack.fault)
        yield _Case("attacks", name, attack.seconds, figures.printable(output), error=fault)


def _loads(results: Results) -> Iterator[_Case]:
    for key in dict.fromkeys((title(load), load.part, load.side) for load in results.loads):
        group = pool(load for load in results.loads if (title(load), load.part, load.side) == key)
        name = figures.printable(", ".join(key))
        fault = "" if group.sent else "nothing was sent"
        yield _Case("loads", name, group.seconds, _told(group), error=fault)


def _told(group: Pooled) -> str:
    said = ", ".join(f"{word} {count}" for word, count in group.said.items())
    return figures.printable(f"sent {group.sent} of {group.offered}, good {group.good}; {said}")
