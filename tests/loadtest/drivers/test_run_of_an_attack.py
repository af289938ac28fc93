"""One attack from its means to its result: counted, recognised, resumed; faults are told."""

import json
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
from attacked_in_process import Pair, means, refused

from loadtest.drivers import recognition
from loadtest.drivers.asked import TryLog
from loadtest.drivers.base import Outcome, Spent, Try
from loadtest.drivers.journal import JournalError
from loadtest.drivers.judging import Judge
from loadtest.drivers.recognition import TELLING, AuditReader, recognised
from loadtest.drivers.registry import DRIVERS
from loadtest.drivers.run import attack, shared_out
from loadtest.evidence.results import Results, Share
from loadtest.evidence.store import dump
from loadtest.targets.base import Reply, Said


@dataclass
class Walk:
    """Asks for own rows in turn, one of them not its own; what else it does is up to the test."""

    name: ClassVar[str] = "walk"
    family: ClassVar[str] = "evasion"
    atlas: ClassVar[tuple[str, ...]] = ("AML.T0040",)
    goal: ClassVar[str] = "g"
    words: ClassVar[str] = "w"
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    queries: int = 5
    error: Exception | None = None
    at: int = 3

    def run(self, oracle, judge, given):
        tries = []
        for number in range(given.tries):
            if number:
                oracle.next_try()
            order = given.random(number).permutation(len(given.own))
            for count, index in enumerate(order[: self.queries]):
                if self.error is not None and count == self.at:
                    raise self.error
                oracle.ask(given.own[index], given.accounts[0], own=count > 0)
            tries.append(Try(number == 0, oracle.queries))
        return Outcome(tries, details={"x": 1})


def audit_line(name, *rules, kind="exchange"):
    reasons = [{"rule": rule, "atlas": [], "detail": ""} for rule in rules]
    return json.dumps({"type": kind, "id": name, "reasons": reasons}).encode() + b"\n"


def test_a_result_tells_what_was_asked_and_reached():
    pair = Pair()
    result = attack(Walk(), pair, "firewall", means())
    assert (result.driver, result.side, result.seed, result.fault) == ("walk", "firewall", 1, "")
    assert result.success == Share(1, 2)
    assert (result.queries, result.distinct) == (10, len({row.tobytes() for row, _ in
                                                         pair.firewall.asked}))  # fmt: skip
    assert result.to_success == [5]
    assert result.said == {"answered": 10}
    assert (result.recognised, result.to_recognition) == (None, [])
    assert result.details == {"x": 1}
    assert not pair.direct.asked


def test_tries_get_accounts_of_their_own():
    pair = Pair()
    attack(Walk(), pair, "firewall", means(accounts=("a", "b", "c", "d", "e")))
    assert [client for _, client in pair.firewall.asked] == 5 * ["a"] + 5 * ["c"]
    result = attack(Walk(), Pair(), "firewall", means(accounts=("a",)))
    assert "share" in result.details["accounts"]


@pytest.mark.parametrize("accounts", range(6))
@pytest.mark.parametrize("tries", range(1, 5))
def test_accounts_are_dealt_out_evenly(accounts, tries):
    given = means(accounts=tuple("abcdef"[:accounts]), tries=tries)
    mine, dealt = shared_out(given)
    used = [real for turn in dealt for real in turn.values()]
    assert len(used) == len(set(used))
    assert all(set(turn) == set(mine.accounts) for turn in dealt)
    assert mine.accounts


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Spent(), "budget was used up"),
        (ValueError("the knobs"), "the knobs"),
        (ImportError("art"), r"pip install '\.\[attacks\]'"),
        (ZeroDivisionError("x"), "ZeroDivisionError: x"),
        (RecursionError("deep"), "RecursionError: deep"),
    ],
)
def test_what_goes_wrong_within_is_a_fault(error, words):
    import re

    result = attack(Walk(error=error), Pair(), "direct", means())
    assert re.search(words, result.fault)
    assert result.success == Share(0, 0)
    assert result.queries == 3


@pytest.mark.parametrize("said", [Said.INVALID, Said.SHED])
def test_an_attack_that_nobody_met_does_not_count(said):
    def answer(_row, _client, number):
        return Reply(said, 404)

    result = attack(Walk(), Pair(answer), "firewall", means())
    assert result.success == Share(0, 0)
    assert f"10 {said.value}" in result.fault
    assert result.queries == 10
    once = attack(
        Walk(), Pair(lambda *at: None if at[2] == 7 else answer(*at)), "firewall", means()
    )
    assert (once.success, once.fault) == (Share(1, 2), "")
    for decided in (Said.REFUSED, Said.LIMITED):
        kept = attack(Walk(), Pair(lambda *_, d=decided: Reply(d, 403)), "firewall", means())
        assert (kept.success, kept.fault) == (Share(1, 2), "")


def test_an_endpoint_that_answers_now_and_then_was_not_attacked():
    def answering(most):
        return Pair(lambda *at: None if at[2] <= most else Reply(Said.FAILED, 500))

    assert not attack(Walk(), answering(5), "firewall", means()).fault
    result = attack(Walk(), answering(4), "firewall", means())
    assert result.fault == "most queries had no answer that can be read: 6 of 10"
    assert result.success == Share(0, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**64, object()])
def test_what_cannot_be_told_is_a_fault_and_loses_nothing_else(value):
    class Odd(Walk):
        def run(self, oracle, judge, given):
            return replace(super().run(oracle, judge, given), details={"deep": [{"er": value}]})

    result = attack(Odd(), Pair(), "direct", means())
    assert "details.deep[0].er" in result.fault
    assert (result.success, result.details, result.queries) == (Share(0, 0), {}, 10)
    dump(Results("s", "", "", 0.0, 0, "", {}, {}, {}, attacks=(result,)))


def test_abuse_may_be_all_malformed():
    class Abuse(Walk):
        family = "abuse"

    pair = Pair(lambda *_: Reply(Said.INVALID, 400))
    assert not attack(Abuse(), pair, "firewall", means()).fault


class Judging(Walk):
    """Asks the judge about each row after the oracle."""

    def run(self, oracle, judge, given):
        found = super().run(oracle, judge, given)
        for row in given.own[:5]:
            judge.ask(row, given.accounts[0])
        return found


@pytest.fixture
def at_once(monkeypatch):
    pauses = []
    monkeypatch.setattr(Judge.__init__, "__defaults__", (pauses.append,))
    return pauses


@pytest.mark.parametrize("said", [Said.FAILED, Said.SHED, Said.LIMITED, Said.REFUSED])
def test_a_judge_that_falls_silent_is_a_fault_and_no_defence(at_once, said):
    pair = Pair()
    pair.direct.answer = lambda _row, _client, n: Reply(said, 0, body="gone") if n > 3 else None
    result = attack(Judging(), pair, "firewall", means())
    assert (result.success, result.side) == (Share(0, 0), "firewall")
    assert result.fault == "the model that judges success does not answer: gone"
    assert at_once == [0.2, 1.0]
    assert len(pair.direct.asked) == 6


def test_a_judge_may_stumble(at_once):
    pair = Pair()
    pair.direct.answer = lambda _row, _client, n: Reply(Said.FAILED, 0) if n in {2, 3} else None
    result = attack(Judging(), pair, "firewall", means())
    assert (result.success, result.fault) == (Share(1, 2), "")
    assert at_once == [0.2, 1.0]


def test_a_judge_to_whom_everything_is_malformed_is_none():
    pair = Pair()
    pair.direct.answer = lambda *_: Reply(Said.INVALID, 404)
    result = attack(Judging(), pair, "firewall", means())
    assert "judges success" in result.fault
    assert result.success == Share(0, 0)
    pair.direct.answer = lambda _row, _client, n: Reply(Said.INVALID, 400) if n > 8 else None
    assert not attack(Judging(), pair, "firewall", means()).fault


def test_means_that_do_not_do_are_refused_before_anything_is_asked():
    pair = Pair()
    for keys, words in (
        ({"labels": None}, "walk needs labels"),
        ({"own": np.zeros((0, 6), np.float32)}, "rows of its own"),
        ({"budget": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            attack(Walk(), pair, "direct", means(**keys))
    assert not pair.direct.asked


def test_what_the_progress_raises_ends_the_attack_and_comes_out():
    clock = iter(range(1000))
    told = []

    def progress(queries, said):
        told.append((queries, dict(said)))
        if queries == 4:
            raise TimeoutError("enough")

    class Swallowing(Walk):
        def run(self, oracle, judge, given):
            try:
                return super().run(oracle, judge, given)
            except Exception:
                return Outcome([])

    with pytest.raises(TimeoutError, match="enough"):
        attack(
            Swallowing(), Pair(), "direct", means(), progress=progress, clock=lambda: next(clock)
        )
    assert told[-1] == (4, {"answered": 4})
    assert all(one[0] < other[0] for one, other in pairwise(told))


def test_a_broken_run_goes_on_where_it_stopped(tmp_path):
    journal = tmp_path / "journal"
    whole = attack(Walk(), Pair(), "firewall", means())
    broken = attack(Walk(error=KeyError("x")), Pair(), "firewall", means(), journal=journal)
    assert broken.fault
    with pytest.raises(JournalError):
        attack(Walk(), Pair(), "firewall", means(), journal=journal)
    pair = Pair()
    resumed = attack(Walk(), pair, "firewall", means(), journal=journal, resume=True)
    assert resumed.resumed == 3
    assert len(pair.firewall.asked) == 7
    for field in ("success", "queries", "distinct", "said", "to_success", "coarse", "details"):
        assert getattr(resumed, field) == getattr(whole, field)
    for keys in ({"seed": 2}, {"budget": 7}, {"accounts": ("z",)}, {"knobs": {"a": 1}}):
        with pytest.raises(JournalError, match=next(iter(keys))):
            attack(Walk(), Pair(), "firewall", means(**keys), journal=journal, resume=True)
    with pytest.raises(JournalError, match="question"):
        attack(Walk(queries=4), Pair(), "firewall", means(), journal=journal, resume=True)


def test_the_audit_log_tells_when_it_was_recognised(tmp_path):
    audit = tmp_path / "audit.jsonl"
    audit.write_bytes(audit_line("firewall-2", "BZ-300"))  # of an earlier run

    def answer(_row, _client, number):
        rules = {1: ("BZ-300",), 3: ("BZ-601",), 4: ("BZ-500", "BZ-503")}.get(number, ())
        with audit.open("ab") as log:
            log.write(audit_line(f"firewall-{number}", *rules))

    result = attack(Walk(), Pair(answer), "firewall", means(), audit=audit)
    # The first query is a warm-up: recognised is the third of its own.
    assert result.recognised == Share(1, 2)
    assert result.to_recognition == [3]
    assert result.details["rules"] == {"BZ-500": 1, "BZ-503": 1, "BZ-601": 1}
    assert attack(Walk(), Pair(answer), "direct", means(), audit=audit).recognised is None


def log_of(*names):
    log = TryLog()
    log.exchanges = [(name, number) for number, name in enumerate(names, 1)]
    return log


def test_the_log_is_awaited_for_a_while_and_read_as_it_grows(tmp_path):
    audit = tmp_path / "audit.jsonl"
    audit.write_bytes(b"")
    reader = AuditReader(audit)
    pieces = [audit_line("a"), audit_line("b", "BZ-400")[:20], audit_line("b", "BZ-400")[20:]]
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if pieces:
            with audit.open("ab") as log:
                log.write(pieces.pop(0))

    assert recognised(reader, [log_of("a", "b")], sleep=sleep)[0] == [2]
    assert len(pauses) == 3
    assert recognised(AuditReader(audit), [log_of("c")], sleep=sleep)[0] == []
    assert sum(pauses[3:]) >= recognition.WAIT


def test_a_rotated_log_and_those_of_several_workers_are_followed(tmp_path):
    audit = tmp_path / "audit.jsonl"
    audit.write_bytes(audit_line("old", "BZ-300"))
    reader = AuditReader(audit)
    with audit.open("ab") as log:
        log.write(audit_line("a"))
    audit.rename(tmp_path / "audit.jsonl.000000000001")
    audit.write_bytes(b"not json\n" + audit_line("b", "BZ-510") + audit_line("x", kind="event"))
    (tmp_path / "audit.worker-2.jsonl").write_bytes(audit_line("c", "BZ-300"))
    until, spoke, singly = recognised(reader, [log_of("old", "a", "b"), log_of("c")], wait=0)
    assert until == [3, 1]
    assert spoke == {"BZ-510": 1, "BZ-300": 1}
    assert singly == 1  # c


def test_what_is_no_record_is_passed_over(tmp_path):
    audit = tmp_path / "audit.jsonl"
    audit.write_bytes(b"")
    reader = AuditReader(audit)
    odd = [
        b"[]", b"5", b"null", b'"x"', b'{"type":"exchange"}', b'{"type":"exchange","id":["a"]}',
        b'{"type":"exchange","id":"a","reasons":5}', b'{"type":"exchange","id":"a","reasons":[5]}',
        b'{"type":"exchange","id":"a","reasons":[{}]}', b"[" * 100_000,
    ]  # fmt: skip
    audit.write_bytes(b"\n".join(odd) + b"\n" + audit_line("b", "BZ-300"))
    assert recognised(reader, [log_of("a", "b")], wait=0) == ([2], {"BZ-300": 1}, 1)


def test_what_recognises_nobody_does_not_count():
    for rule in ("BZ-390", "BZ-490", "BZ-590", "BZ-550", "BZ-503", "BZ-513", "BZ-601", "BZ-200"):
        assert rule not in TELLING
    for rule in ("BZ-300", "BZ-400", "BZ-500", "BZ-501", "BZ-502", "BZ-510", "BZ-520", "BZ-540"):
        assert rule in TELLING


def test_every_refused_query_is_counted():
    result = attack(Walk(), Pair(refused), "firewall", means())
    assert result.said == {"refused": 10}


def test_every_driver_is_what_its_name_says():
    assert len(DRIVERS) == 22
    assert "walk" not in DRIVERS
    with pytest.raises(KeyError):
        DRIVERS["walk"]
    for name in DRIVERS:
        driver = DRIVERS[name]
        assert driver.name == name
        assert driver.family
        assert driver.goal
        assert driver.words
        assert driver.atlas
        assert all(technique.startswith("AML.T") for technique in driver.atlas)
        assert driver.needs <= {"image", "members", "labels", "classes"}
