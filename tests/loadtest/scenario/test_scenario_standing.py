"""What is found out before a run, what is read from an audit log, and what people are told."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from fake_ground import attack_result, load_result
from rich.console import Console

from loadtest.drivers.base import Means, Spent
from loadtest.evidence.results import Share
from loadtest.load.plan import Progress
from loadtest.scenario.about import machine, versions
from loadtest.scenario.ledger import Entry
from loadtest.scenario.load_settings import Load
from loadtest.scenario.refusals import AuditTail, pseudonym, rules_of
from loadtest.scenario.rehearsal import objection, queries
from loadtest.scenario.settings import Attack
from loadtest.scenario.steps import AttackStep, LoadStep
from loadtest.scenario.watch import Told, attack_line, load_line
from loadtest.targets.base import Reply, Said


def means(**changed):
    rows = np.zeros((3, 2), np.float32)
    given = {"own": rows, "low": rows[0], "high": rows[0] + 1, "test": rows, "accounts": ["a"]}
    return Means(**(given | {"budget": 5, "tries": 1, "seed": 0} | changed))


class Driver:
    """Asks about its own rows, over and over."""

    name = "stub"
    needs = frozenset()

    def __init__(self, fault=None, needs=(), asks=True):
        self.fault = fault
        self.needs = frozenset(needs)
        self.asks = asks

    def run(self, oracle, judge, means):
        if self.fault is not None:
            raise self.fault
        while self.asks:
            for row in means.own:
                oracle.ask(row + oracle.queries, means.accounts[0])
        raise Spent


class Model:
    """An oracle that answers everything."""

    name, features, classes, raw = "direct", 2, 3, None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def ask(self, row, client):
        return Reply(Said.ANSWERED, 200, np.ones(3) / 3, 0)


ENDPOINT = SimpleNamespace(sides=("direct",), oracle=lambda side: Model())


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (Driver(), ""),
        (Driver(ValueError("the knob is loose")), "the knob is loose"),
        (Driver(ImportError("no art")), ".[attacks]"),
        (Driver(RuntimeError()), "RuntimeError"),
        (Driver(needs=["members"]), "stub needs members"),
    ],
)
def test_objections_are_heard_before_the_run(driver, words):
    found = objection(driver, means(), 2, 3)
    assert (found == "") if not words else (words in found)


def test_a_driver_that_only_uses_the_wire_or_the_judge_is_stopped_there():
    class Raw(Driver):
        def run(self, oracle, judge, means):
            return oracle.raw

    class Judged(Driver):
        def run(self, oracle, judge, means):
            try:
                judge.ask(means.own[0], "a")
            except Exception as error:  # a driver that swallows what it can
                raise AssertionError("swallowed") from error

    assert objection(Raw(), means(), 2, 3) == ""
    assert objection(Judged(), means(), 2, 3) == ""


def test_a_driver_s_queries_are_recorded_up_to_its_budget():
    found = queries(Driver(), ENDPOINT, means())
    assert found.shape == (5, 2) and found.dtype == np.float32
    assert found[:, 0].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="sends no rows"):
        queries(Driver(asks=False), ENDPOINT, means())
    with pytest.raises(ValueError, match="needs labels"):
        queries(Driver(needs=["labels"]), ENDPOINT, means())


def record(name, client, status=200, rule="", **fields):
    reasons = [{"rule": rule, "detail": ""}] if rule else []
    return {"type": "exchange", "id": name, "client": client, "status": status} | {
        "reasons": reasons,
        **fields,
    }


def lines(*records):
    return "".join(json.dumps(one, separators=(",", ":")) + "\n" for one in records)


def test_only_what_comes_from_now_on_is_read(tmp_path):
    log, worker = tmp_path / "audit.jsonl", tmp_path / "audit.worker-1.jsonl"
    log.write_text(lines(record("old", "a")))
    tail = AuditTail(log, clock=iter(range(100)).__next__, sleep=lambda _: None)
    with log.open("a") as file:
        file.write(lines({"type": "event", "id": "x"}, record("new", "a")) + '{"type":"exchange"')
    worker.write_text(lines(record("other", "b")))
    assert [one["id"] for one in tail.records(lambda found: len(found) == 2)] == ["new", "other"]


def test_records_are_waited_for_but_not_for_ever(tmp_path):
    log = tmp_path / "audit.jsonl"
    log.touch()
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            log.write_text(lines(record("one", "a")))

    times = iter(np.arange(0, 100, 0.5))
    tail = AuditTail(log, clock=lambda: next(times), sleep=sleep)
    assert len(tail.records(lambda found: len(found) == 1)) == 1
    assert len(slept) == 2
    assert len(tail.records(lambda found: len(found) == 2)) == 1


def test_a_log_that_was_begun_anew_is_read_from_its_beginning(tmp_path):
    log = tmp_path / "audit.jsonl"
    log.write_text(lines(*(record(f"old{n}", "a") for n in range(50))))
    tail = AuditTail(log, clock=iter(range(100)).__next__, sleep=lambda _: None)
    log.write_text(lines(record("new", "a")))
    assert [one["id"] for one in tail.records(bool)] == ["new"]


def test_refusals_are_counted_by_the_rule_that_decided_and_by_client():
    records = [
        record("1", "a", 403, "BZ-300"),
        record("2", "a", 403, "BZ-300"),
        record("3", "b", 429, "BZ-602"),
        record("4", "c", 403, "BZ-300"),
        record("5", "a", 200, "BZ-300"),
        record("6", "a", 502, fault="BZ-700"),
        record("7", "a", 503),
    ]
    assert rules_of(records, {"a", "b"}) == {"BZ-300": 2, "BZ-602": 1, "BZ-700": 1, "none": 1}
    assert pseudonym(records, "3") == "b"
    assert pseudonym(records, "9") is None


def told(*, terminal=False):
    out = io.StringIO()
    times = iter(range(10_000))
    return Told(Console(file=out, width=200, force_terminal=terminal), lambda: next(times)), out


STEP = AttackStep(Attack(driver="square", tries=2, budget=50), "firewall")
LOADING = Progress(
    "steady", "direct", 0, 2.0, 10.0, 200, 198, 2, 0, {"answered": 190, "refused": 8}, 1, 0.001, 1.5
)


def test_one_line_of_what_is_under_way():
    assert load_line(LOADING) == (
        "steady direct  2/10 s  99/s  p50 1.0 ms  p99 1.50 s  refused 8  dropped 2  errors 1"
    )
    assert attack_line(STEP, 7, {"answered": 5, "limited": 2}) == (
        "square firewall  7 of at most 100 queries  limited 2"
    )
    assert "p50 -" in load_line(Progress("a", "direct", 0, 0.0, 1.0, 0, 0, 0, 0, {}, 0))


@pytest.mark.parametrize("terminal", [False, True])
def test_a_run_is_told_from_step_to_step(terminal):
    watch, out = told(terminal=terminal)
    load = LoadStep(Load(name="steady", rate=1, seconds=1, rounds=2), "direct", 1)
    with watch:
        watch.begin(load, 1, 3)
        watch.loading(LOADING)
        watch.end(load, Entry((load_result(percentiles={"50": 0.002, "99": 0.01}),)), kept=False)
        watch.begin(STEP, 2, 3)
        watch.asking(STEP, 7, {"refused": 3})
        failed = attack_result(side="firewall", said={"refused": 3})
        watch.end(STEP, Entry(attack=failed, notes=("beside it, something",)), kept=False)
        watch.end(STEP, Entry(attack=attack_result(fault="no [bold]answer[/]")), kept=True)
    text = out.getvalue()
    for words in (
        "[1/3] load steady, direct, round 2 of 2",
        "honest: 10 of 10 good  p50 2.0 ms  p99 10.0 ms",
        "[2/3] attack square, firewall",
        "a goal: 2 of 2  recognised 1 of 2  20 queries in 0.0 s  refused 3",
        "note: beside it, something",
        "attack square, firewall (from before) FAULT: no [bold]answer[/]",
    ):
        assert words in text, words


def test_plain_lines_come_some_seconds_apart():
    watch, out = told()
    with watch:
        for _ in range(12):
            watch.asking(STEP, 7, {})
    assert out.getvalue().count("7 of at most 100") == 3
    assert "\x1b" not in out.getvalue()


def test_the_machine_is_described_without_its_name():
    assert set(machine()) == {"processor", "memory", "system"}
    assert "cores" in machine()["processor"]
    assert {"python", "numpy", "bartizan"} <= set(versions())


def test_a_share_of_nobody_is_told_too():
    watch, out = told()
    step = AttackStep(Attack(driver="square"), "direct")
    watch.end(step, Entry(attack=attack_result(success=Share(0, 0))), kept=False)
    assert "a goal: 0 of 0" in out.getvalue()
