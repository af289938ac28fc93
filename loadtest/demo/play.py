"""The demonstration's course: what is sent, in which order, and what is expected of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from loadtest.demo.expectations import (
    Climbs,
    Expectation,
    Outcome,
    Recognised,
    Refused,
    WithinBudget,
    quota,
)
from loadtest.demo.report import Check, Latency, Line, Report
from loadtest.demo.site import BUDGET, BURST, MAX_ROWS, MODEL, RATE, TARGET, Site, Stage
from loadtest.demo.traffic import adversarial, malformed, outliers, probes
from loadtest.mlp import Floats
from loadtest.payloads import infer_request
from loadtest.process import BARTIZAN
from loadtest.wire import Response, Session

FLOOD: Final = 1200
LATENCY_PAIRS: Final = 400
PROBES: Final = 60
MOST_PROBES: Final = 25
EPSILONS: Final = {0.05: Expectation(), 0.1: Recognised(0.5), 0.2: Recognised(0.8)}
_SEED: Final = 7
_AUDIT_SECONDS: Final = 10.0


def perform(site: Site, stage: Stage, say: Callable[[str], None]) -> Report:
    """Sends all traffic and judges what became of it.

    Raises:
        DemoError, OSError, ValueError: if an exchange goes wrong below HTTP.
    """
    report, play = Report(), _Play(site, stage)
    started = time.monotonic()
    predicted = stage.model.probabilities(stage.images).argmax(axis=1)
    report.accuracy = float((predicted == stage.labels).mean())
    say("honest images")
    passed = play.images(report, "honest", "honest images", stage.images, WithinBudget(BUDGET))
    # First, as its client has the address of all others, whose evidence would count for it too.
    say("a black-box attack")
    play.probing(report, stage.images[passed])
    say("outliers")
    some = stage.images[:150]
    for kind, rows in outliers(some, _SEED).items():
        play.images(report, "outliers", kind, rows, Recognised(0.95))
    say("adversarial images")
    for turn, (epsilon, expectation) in enumerate(EPSILONS.items()):
        # Other images for each size: the same ones again would be a pattern.
        own = slice(turn, None, len(EPSILONS))
        rows = adversarial(stage.model, stage.images[own], stage.labels[own], epsilon)
        play.images(report, "crafted", f"FGSM {epsilon:g}", rows, expectation)
    say("malformed requests")
    image = stage.images[passed][:1]
    header = site.header("malformed")
    for bad in malformed(image, MODEL, site.host, header, MAX_ROWS):
        play.requests(report, bad.name, [bad.request], Refused(bad.refused_by))
    say("latency")
    report.latency = play.latency(stage.images[passed])
    say("a flood")
    play.flood(report, stage.images[passed])
    say("the audit log")
    _audit(report, site, play)
    report.seconds = time.monotonic() - started
    return report


class _Play:
    """Sends the traffic; remembers which answers belong to which line of the table."""

    def __init__(self, site: Site, stage: Stage) -> None:
        self._site = site
        self._stage = stage
        self.ids: list[tuple[Outcome, list[str]]] = []

    def images(
        self, report: Report, client: str, kind: str, rows: Floats, expectation: Expectation
    ) -> npt.NDArray[np.bool_]:
        """Sends (n, d) images one by one; tells which were allowed."""
        own = self._stage.model.probabilities(rows)
        labels = own.argmax(axis=1)
        requests = [self._site.request(client, row[None]) for row in rows]
        responses = self.requests(report, kind, requests, expectation)
        outcome = report.lines[-1].outcome
        for response, label, probabilities in zip(responses, labels, own, strict=True):
            if response.status == 200:
                outcome.wrong += bool(label_of(response.body) != label)
                told = output_of(response.body, "probabilities")
                outcome.coarse += not bool(np.allclose(told, probabilities, atol=1e-3))
        return np.array([response.status == 200 for response in responses], bool)

    def probing(self, report: Report, images: Floats) -> None:
        """Steps around a point between two images of different classes."""
        classes = self._stage.model.probabilities(images).argmax(axis=1)
        other = images[np.flatnonzero(classes != classes[0])[0]]
        rows = probes(images[0], other, PROBES, _SEED)
        self.images(report, "prober", "black-box probing", rows, Climbs(MOST_PROBES))

    def requests(
        self, report: Report, kind: str, requests: Sequence[bytes], expectation: Expectation
    ) -> list[Response]:
        """Sends requests over one connection and adds a line to the report."""
        with Session(self._site.address) as session:
            responses = [self._site.exchange(session, request) for request in requests]
        self._add(report, kind, responses, expectation)
        return responses

    def _add(
        self, report: Report, kind: str, responses: Sequence[Response], expectation: Expectation
    ) -> None:
        outcome = Outcome(kind)
        for response in responses:
            outcome.statuses[response.status] += 1
        self.ids.append((outcome, [response.headers["x-request-id"] for response in responses]))
        report.lines.append(Line(outcome, expectation))

    def latency(self, rows: Floats) -> Latency:
        """Direct and through the firewall in turn, on one connection each."""
        site, direct, through = self._site, [], []
        with Session(site.upstream) as there, Session(site.address) as here:
            for i in range(LATENCY_PAIRS + 20):
                row = rows[i % len(rows)][None]
                request = site.request("latency", row)
                plain = infer_request(row, "{}:{}".format(*site.upstream), TARGET)
                begun = time.perf_counter()
                there.exchange(plain)
                between = time.perf_counter()
                response = here.exchange(request)
                ended = time.perf_counter()
                site.seen[response.headers["x-request-id"]] = response.status
                if i >= 20:  # the first ones warm both sides up
                    direct.append(between - begun)
                    through.append(ended - between)
        return Latency.of(direct, through)

    def flood(self, report: Report, rows: Floats) -> None:
        """More than the quota of one client, as fast as one connection goes."""
        site = self._site
        requests = [site.request("flood", rows[i % len(rows)][None]) for i in range(FLOOD)]
        times, responses = [], []
        with Session(site.address) as session:
            for request in requests:
                begun = time.monotonic()
                responses.append(site.exchange(session, request))
                times.append((begun, time.monotonic()))
        shortest = times[-1][0] - times[0][1]
        longest = times[-1][1] - times[0][0]
        expectation = quota(BURST, RATE, shortest, longest)
        self._add(report, "flood", responses, expectation)
        waits = {r.headers.get("retry-after", "") for r in responses if r.status == 429}
        report.checks.append(self._retry(waits, requests[0]))

    def _retry(self, waits: set[str], request: bytes) -> Check:
        what = "after Retry-After the client is admitted again"
        if not waits or not all(wait.isdecimal() and 0 < int(wait) <= 60 for wait in waits):
            return Check(what, False, f"Retry-After was {sorted(waits)}")
        seconds = max(map(int, waits))
        time.sleep(seconds)
        with Session(self._site.address) as session:
            status = self._site.exchange(session, request).status
        return Check(what, status == 200, f"{status} after {seconds} s")


def label_of(body: bytes) -> int:
    """The class that a v2 answer names.

    Raises:
        ValueError: if it names none.
    """
    return int(output_of(body, "label")[0])


def output_of(body: bytes, name: str) -> list[Any]:
    """The data of one tensor of a v2 answer.

    Raises:
        ValueError: if it has none of this name.
    """
    document: Any = json.loads(body)
    for output in document["outputs"]:
        if output["name"] == name:
            return list(output["data"])
    raise ValueError(f"the answer has no {name}")


def read_audit(path: Path) -> dict[str, dict[str, Any]]:
    """The records of an audit log by request id; other lines are left out."""
    records = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            record = json.loads(text)
            if isinstance(record, dict) and "id" in record:
                records[record["id"]] = record
    return records


def _audit(report: Report, site: Site, play: _Play) -> None:
    """Looks every answer up in the audit log, and has the log verified."""
    deadline = time.monotonic() + _AUDIT_SECONDS
    records = read_audit(site.audit)
    while not site.seen.keys() <= records.keys() and time.monotonic() < deadline:
        time.sleep(0.05)  # records are committed in groups
        records = read_audit(site.audit)
    for outcome, ids in play.ids:
        for name in ids:
            record = records.get(name)
            if record is not None and site.seen[name] != 200:
                outcome.refused_by[deciding_rule(record)] += 1
    missing = [name for name in site.seen if name not in records]
    report.checks.append(
        Check("every answer's request id is in the audit log", not missing,
              f"{len(site.seen) - len(missing)} of {len(site.seen)}")
    )  # fmt: skip
    other = sum(
        records[name].get("status") != status
        for name, status in site.seen.items() if name in records
    )  # fmt: skip
    report.checks.append(
        Check("the audit log has the status that the client saw", not other, f"{other} differ")
    )
    done = subprocess.run(  # noqa: S603 - our own program
        [*BARTIZAN, "audit", "verify", str(site.audit)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    said = (done.stdout + done.stderr).strip().splitlines()
    report.checks.append(
        Check("the audit log verifies", done.returncode == 0, said[-1] if said else "")
    )


def deciding_rule(record: dict[str, Any]) -> str:
    """The id of the rule that decided a refusal, or ""."""
    reasons = record.get("reasons") or []
    if not reasons:
        return ""
    first = reasons[0]
    return str(first.get("rule", "")) if isinstance(first, dict) else str(first)
