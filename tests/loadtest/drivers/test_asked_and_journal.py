"""Queries counted, held to a budget, and kept in a file that a broken run goes on with."""

import json

import numpy as np
import pytest
from attacked_in_process import Model, probabilities, refused

from loadtest.drivers.asked import PATIENCE, Counted, Silent, is_coarse
from loadtest.drivers.base import Spent
from loadtest.drivers.journal import Journal, JournalError
from loadtest.targets.base import Reply, Said

ROWS = np.random.default_rng(7).uniform(0, 1, (8, 6)).astype(np.float32)
ABOUT = {"driver": "d", "side": "direct", "seed": 1}


def test_a_budget_of_n_is_n_queries_of_each_try():
    model = Model("direct")
    asked = Counted(model, budget=3)
    for row in ROWS[:3]:
        asked.ask(row, "a")
    with pytest.raises(Spent):
        asked.ask(ROWS[3], "a")
    asked.next_try()
    asked.ask(ROWS[3], "a")
    assert (asked.queries, asked.total, len(model.asked)) == (1, 4, 4)
    asked.count(Said.INVALID)
    asked.count(Said.INVALID)
    with pytest.raises(Spent):
        asked.count(Said.INVALID)
    assert asked.said == {"answered": 4, "invalid": 2}


def test_own_queries_are_counted_apart_and_repeats_once():
    asked = Counted(Model("direct"), budget=10)
    asked.ask(ROWS[0], "a", own=False)
    asked.ask(ROWS[1], "a")
    asked.ask(ROWS[1], "a")
    asked.ask(ROWS[2], "b")
    assert asked.distinct == 3
    assert asked.tries[0].own == 2
    assert asked.tries[0].exchanges == [("direct-2", 1), ("direct-3", 1), ("direct-4", 2)]


def test_each_try_asks_as_clients_of_its_own():
    model = Model("direct")
    asked = Counted(model, budget=9, accounts=[{"a": "a", "b": "b"}, {"a": "c", "b": "d"}])
    asked.ask(ROWS[0], "b")
    asked.next_try()
    asked.ask(ROWS[0], "a")
    asked.ask(ROWS[0], "b")
    asked.next_try()  # more tries than clients: they are shared
    asked.ask(ROWS[0], "a")
    assert [client for _, client in model.asked] == ["b", "c", "d", "a"]


@pytest.mark.parametrize(
    ("scores", "coarse"),
    [
        ([0.3, 0.3, 0.4], True),
        ([0.0, 1.0, 0.0], True),
        ([0.125, 0.375, 0.5], True),
        ([0.1234, 0.8766], False),
        ([1.0, 1e-20], False),
        ([np.float32(0.3), np.float32(0.7)], True),
    ],
)
def test_scores_that_are_visibly_coarse(scores, coarse):
    assert is_coarse(np.array(scores, np.float64)) is coarse


def test_coarse_answers_count_only_after_fine_ones():
    answers = [[0.5, 0.5], [0.123456, 0.876544], [0.1, 0.9], [0.0, 1.0]]

    def answer(_row, _client, number):
        return Reply(Said.ANSWERED, 200, np.array(answers[number - 1]), 0)

    asked = Counted(Model("firewall", answer), budget=9)
    for row in ROWS[:4]:
        asked.ask(row, "a")
    assert asked.coarse == 2


def test_a_dead_endpoint_ends_the_attack():
    def dead(_row, _client, number):
        return None if number == 5 else Reply(Said.FAILED, 0, body="Connection refused")

    asked = Counted(Model("direct", dead), budget=10**6)
    with pytest.raises(Silent, match="Connection refused"):
        for _ in range(10**6):
            asked.ask(ROWS[0], "a")
    assert asked.total == 5 + PATIENCE
    tireless = Counted(Model("direct", refused), budget=100)
    for _ in range(100):
        tireless.ask(ROWS[0], "a")


def asked_with(path, model, resume=True, about=ABOUT):
    journal = Journal.open(path, about, resume=resume)
    return Counted(model, budget=100, journal=journal), journal


def run(path, model, rows, **keys):
    asked, journal = asked_with(path, model, **keys)
    try:
        replies = [asked.ask(row, "a") for row in rows]
    finally:
        journal.close()
    return replies, journal.resumed


def same(one, other):
    assert (one.said, one.status, one.label, one.request_id, one.retry_after, one.body) == (
        other.said, other.status, other.label, other.request_id, other.retry_after, other.body,
    )  # fmt: skip
    if one.scores is not None:
        np.testing.assert_array_equal(one.scores, other.scores)


def test_a_journal_answers_what_was_asked_before_and_then_the_endpoint_does(tmp_path):
    def answer(_row, _client, number):
        if number == 2:
            return Reply(Said.LIMITED, 429, None, -1, "id", 7.0, 0.1, "é\ud800 no"[:2])
        return None

    path = tmp_path / "journal"
    first, resumed = run(path, Model("direct", answer), ROWS[:5])
    assert resumed == 0
    later = Model("direct")
    second, resumed = run(path, later, ROWS)
    assert resumed == 5
    assert len(later.asked) == 3
    for one, other in zip(first, second, strict=False):
        same(one, other)
    np.testing.assert_array_equal(second[6].scores, probabilities(ROWS[6]))
    _, resumed = run(path, later, ROWS)
    assert resumed == 8


def test_every_cut_of_a_journal_is_gone_on_with(tmp_path):
    path = tmp_path / "journal"
    first, _ = run(path, Model("direct"), ROWS[:4])
    whole = path.read_bytes()
    head = whole.index(b"\n") + 1
    tried = 0
    for end in range(head, len(whole), 7):
        path.write_bytes(whole[:end])
        lines = whole[head:end].count(b"\n")
        again, resumed = run(path, Model("direct"), ROWS[:4])
        assert resumed == lines
        assert path.read_bytes().count(b"\n") == 5
        for one, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(one.scores, other.scores)
        tried += 1
    assert tried > 50


def test_failures_at_the_end_are_asked_again(tmp_path):
    path = tmp_path / "journal"

    def dying(_row, _client, number):
        return Reply(Said.FAILED, 0, body="gone") if number in {2, 4, 5} else None

    run(path, Model("direct", dying), ROWS[:5])
    replies, resumed = run(path, Model("direct"), ROWS[:6])
    assert resumed == 3
    assert [reply.said for reply in replies] == [Said.ANSWERED, Said.FAILED] + 4 * [Said.ANSWERED]


def test_another_question_is_an_error(tmp_path):
    path = tmp_path / "journal"
    run(path, Model("direct"), ROWS[:3])
    with pytest.raises(JournalError, match="question 1 is another"):
        run(path, Model("direct"), ROWS[[0, 2]])
    asked, journal = asked_with(path, Model("direct"))
    with pytest.raises(JournalError, match="question 0"):
        asked.ask(ROWS[0], "b")
    journal.close()


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"seed": 2}, "seed was 1"),
        ({"driver": "e"}, "driver was 'd'"),
        ({"side": "firewall"}, "side was 'direct'"),
        ({"data": "x"}, "data was None"),
    ],
)
def test_a_journal_of_another_attack_is_refused(tmp_path, about, words):
    path = tmp_path / "journal"
    run(path, Model("direct"), ROWS[:1])
    with pytest.raises(JournalError, match=words):
        asked_with(path, Model("direct"), about=ABOUT | about)


def test_a_journal_is_not_overwritten(tmp_path):
    path = tmp_path / "journal"
    run(path, Model("direct"), ROWS[:1], resume=False)
    with pytest.raises(JournalError, match="there already"):
        asked_with(path, Model("direct"), resume=False)


@pytest.mark.parametrize(
    "text",
    [
        b"x",
        b"x\n",
        b"[]\n",
        b'{"kind": "other"}\n',
        b'{"kind": "bartizan attack journal", "version": 2, "driver": "d"}\n',
    ],
)
def test_what_is_no_journal_is_refused(tmp_path, text):
    path = tmp_path / "journal"
    path.write_bytes(text)
    with pytest.raises(JournalError):
        asked_with(path, Model("direct"))
    assert path.read_bytes() == text


@pytest.mark.parametrize("broken", [b"", b"{}", b"[1]", b'[0,"x","said",1,null,0,"",null,0,""]'])
def test_damage_in_the_midst_is_an_error(tmp_path, broken):
    path = tmp_path / "journal"
    run(path, Model("direct"), ROWS[:3])
    lines = path.read_bytes().split(b"\n")
    lines[2] = broken
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(JournalError, match="journal:3: not a reply"):
        asked_with(path, Model("direct"))


def test_lines_in_another_order_are_an_error(tmp_path):
    path = tmp_path / "journal"
    run(path, Model("direct"), ROWS[:3])
    head, one, two, three, end = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join((head, two, one, three, end)))
    with pytest.raises(JournalError, match="number 0 is expected"):
        asked_with(path, Model("direct"))
    assert json.loads(one)[0] == 0


def test_a_journal_has_one_writer(tmp_path):
    path = tmp_path / "journal"
    _, first = asked_with(path, Model("direct"))
    for resume in (True, False):
        with pytest.raises(JournalError, match="another attack writes it"):
            asked_with(path, Model("direct"), resume=resume)
    first.close()
    assert run(path, Model("direct"), ROWS[:1])[1] == 0


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
def test_what_is_no_number_is_no_score(tmp_path, number):
    path = tmp_path / "journal"
    run(path, Model("direct"), ROWS[:2])
    head, one, two, _ = path.read_bytes().split(b"\n")
    before, after = one.split(b",[", 1)
    broken = before + b",[" + number.encode() + b"," + after.split(b",", 1)[1]
    path.write_bytes(b"\n".join((head, broken, two, b"")))
    with pytest.raises(JournalError, match=f"journal:2: not a reply: {number}"):
        asked_with(path, Model("direct"))
