"""The report as SARIF 2.1.0: what a code host lists as findings.

OASIS, "Static Analysis Results Interchange Format (SARIF) Version 2.1.0" (2020).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final
from urllib.parse import quote

import orjson

from loadtest.evidence import atlas, attack_metrics, figures
from loadtest.evidence.bounds import split
from loadtest.evidence.metrics import METRICS
from loadtest.evidence.results import AttackResult, Check, Results

_SCHEMA: Final = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_FINGERPRINT: Final = "bartizan/v1"
Json = dict[str, Any]


def render(results: Results, scenario: str) -> bytes:
    """The file.

    Thresholds that do not hold are errors. An attack that succeeds through the firewall is a
    warning: whether so much success is too much, thresholds say. A finding keeps its rule and its
    fingerprint from run to run, so that it is followed and not found anew.

    Args:
        scenario: the path of the scenario's file from the root of its repository: the place of
            every finding.
    """
    found = [*_checks(results, scenario), *_attacks(results, scenario)]
    rules: dict[str, Json] = {}
    for rule, _ in found:
        rules.setdefault(rule["id"], rule)
    order = list(rules)
    for rule, result in found:
        result["ruleIndex"] = order.index(rule["id"])
    run = {
        "tool": {
            "driver": {
                "name": "Bartizan load test",
                "semanticVersion": _version(),
                "rules": list(rules.values()),
            }
        },
        "automationDetails": {"id": f"bartizan-loadtest/{_safe(results.scenario)}/"},
        "invocations": [{
            "executionSuccessful": results.complete,
            "commandLine": figures.printable(results.command, 1000),
            "toolExecutionNotifications": [
                {"level": "note", "message": {"text": figures.printable(note)}}
                for note in results.notes
            ],
        }],
        "artifacts": [{"location": {"uri": _uri(scenario)}}],
        "results": [result for _, result in found],
        "columnKind": "unicodeCodePoints",
        "properties": {"seed": results.seed, "scenarioSha256": figures.printable(results.digest)},
    }  # fmt: skip
    if results.digest and re.fullmatch(r"[0-9a-f]{64}", results.digest):
        run["artifacts"] = [
            {"location": {"uri": _uri(scenario)}, "hashes": {"sha-256": results.digest}}
        ]
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return orjson.dumps(log, option=orjson.OPT_INDENT_2) + b"\n"


def _checks(results: Results, scenario: str) -> Iterator[tuple[Json, Json]]:
    for check in results.checks:
        if check.passed:
            continue
        name, selector = _split(check)
        known = METRICS.get(name)
        words = known.words if known else name
        rule = _rule(f"threshold/{name}", f"Threshold on {name}", words, ("threshold",))
        observed = "not measured" if check.observed is None else f"{check.observed:.6g}"
        text = f"{check.metric} is to be {check.bound}: {observed}. {check.why}"
        yield rule, _result(rule, "error", text, scenario, (name, selector))
    if not results.complete:
        words = "The run was interrupted: no threshold passes."
        rule = _rule("threshold/complete", "The run is complete", words, ("threshold",))
        yield rule, _result(rule, "error", words, scenario, ("complete",))


def _split(check: Check) -> tuple[str, str]:
    try:
        return split(check.metric)
    except ValueError:
        return _safe(check.metric), ""


def _attacks(results: Results, scenario: str) -> Iterator[tuple[Json, Json]]:
    for attack in results.attacks:
        if attack.side != "firewall" or not (attack.success.count or attack.fault):
            continue
        name = attack_metrics.name(attack)
        tags = ("attack", _safe(attack.family), *(_safe(one) for one in attack.atlas))
        about = ", ".join(atlas.title(one) for one in attack.atlas)
        words = f"{attack.driver} ({attack.family}): {attack.goal}. {about}"
        rule = _rule(f"attack/{_safe(attack.driver)}", f"Attack {attack.driver}", words, tags)
        if attack.fault:
            text = f"{name} does not count: {attack.fault}"
            yield rule, _result(rule, "note", text, scenario, (name, "fault"))
        else:
            yield rule, _result(rule, "warning", _told(name, attack), scenario, (name, "success"))


def _told(name: str, attack: AttackResult) -> str:
    text = f"{name} reaches its goal through the firewall: {figures.share(attack.success)}."
    if attack.recognised is not None:
        text += f" Recognised: {figures.share(attack.recognised)}."
    return text


def _rule(identity: str, name: str, words: str, tags: tuple[str, ...]) -> Json:
    return {
        "id": identity,
        "name": "".join(part.capitalize() for part in re.split(r"[^A-Za-z0-9]+", identity)),
        "shortDescription": {"text": figures.printable(name)},
        "fullDescription": {"text": figures.printable(words)},
        "help": {"text": figures.printable(words)},
        "properties": {"tags": sorted({"security", *tags})},
    }


def _result(
    rule: Mapping[str, Any], level: str, text: str, scenario: str, identity: tuple[str, ...]
) -> Json:
    known = "\n".join((rule["id"], *identity)).encode(errors="replace")
    return {
        "ruleId": rule["id"],
        "level": level,
        "message": {"text": figures.printable(text, 2000)},
        "locations": [{
            "physicalLocation": {
                "artifactLocation": {"uri": _uri(scenario), "index": 0},
                "region": {"startLine": 1},
            }
        }],
        "partialFingerprints": {_FINGERPRINT: hashlib.sha256(known).hexdigest()},
    }  # fmt: skip


def _uri(path: str) -> str:
    """A relative reference: a code host shows findings at files of the repository alone."""
    steps = [step for step in figures.printable(path).split("/") if step not in {"", ".", ".."}]
    return quote("/".join(steps) or "scenario.yaml")


def _safe(text: str) -> str:
    return _UNSAFE.sub("-", text)[:100].strip("-") or "unnamed"


def _version() -> str:
    try:
        return version("bartizan")
    except PackageNotFoundError:
        return "0.0.0"
