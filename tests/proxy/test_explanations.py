"""The ring of what can be explained: what is kept, for how long, and what it costs."""

import numpy as np
import pytest
from explained_exchanges import BLOCKED, DISAGREED, LIMITED, WALL, odd_row, record

from detectors.agreement.base import Answers
from proxy import rules
from proxy.decision import ALLOWED, Action, Decision, Reason
from proxy.explanations import Explanations


def ring(most=8, **options):
    return Explanations(most, wall=lambda: WALL, **options)


def test_a_refused_exchange_is_kept_with_its_worst_row_alone():
    kept, rows = ring(), np.vstack([odd_row(value=value) for value in range(5)])
    answers = Answers.of_probabilities(np.tile([0.25, 0.75], (5, 1)))
    given = record(worst_row=3, rows=5, answer_score=7.0, answer_row=1)
    given.answer_signals = {"squeezing": 0.5}
    kept.keep(given, rows, answers)
    found = kept.find("one")
    assert (found.worst.index, found.worst.row.tolist()) == (3, rows[3:4].tolist())
    assert (found.doubted.index, found.doubted.row.tolist()) == (1, rows[1:2].tolist())
    assert found.doubted.answer.probabilities.tolist() == [[0.25, 0.75]]
    assert (found.id, found.endpoint, found.client) == ("one", "digits", given.client)
    assert (found.at, found.status, found.rows, found.flagged_rows) == (WALL, 403, 5, 1)
    assert (found.score, found.bundle) == (9.0, given.bundle)
    assert found.decision is BLOCKED
    assert found.signals == {"squeezing": 0.5}


def test_what_is_kept_does_not_keep_the_request_alive():
    kept, rows = ring(), np.zeros((4, 6), np.float32)
    answers = Answers.of_probabilities(np.tile([0.25, 0.75], (4, 1)))
    kept.keep(record(answer_score=1.0, answer_row=2), rows, answers)
    found = kept.find("one")
    for array in (found.worst.row, found.doubted.row, found.doubted.answer.probabilities):
        assert array.base is None
    rows += 1
    assert not found.worst.row.any()


@pytest.mark.parametrize(
    ("decision", "is_kept", "has_row"),
    [
        (ALLOWED, False, False),
        (Decision(Action.ALLOW, Action.ALLOW, (Reason(rules.OUTLIER),)), False, False),
        (BLOCKED, True, True),
        (DISAGREED, True, True),
        (Decision(Action.BLOCK, Action.ALLOW, (Reason(rules.OUTLIER),)), True, True),
        (Decision(Action.SHAPE, Action.SHAPE, (Reason(rules.PROBING_CLIENT),)), True, True),
        (LIMITED, True, False),
        (Decision(Action.BLOCK, Action.BLOCK, (Reason(rules.SHAPE),)), True, False),
    ],
)
def test_what_is_kept_of_a_decision(decision, is_kept, has_row):
    kept = ring()
    kept.keep(record(decision=decision), odd_row(), None)
    found = kept.find("one")
    assert (found is not None) == is_kept == bool(len(kept))
    if is_kept:
        assert (found.worst is not None) == has_row


def test_an_exchange_that_was_not_understood_is_kept_without_a_row():
    kept = ring()
    kept.keep(record(score=None, p_value=None), None, None)
    assert kept.find("one").worst is None


def test_nothing_is_kept_where_nothing_is_to_be():
    kept = ring(0)
    kept.keep(record(), odd_row(), None)
    assert len(kept) == 0
    assert kept.find("one") is None


def test_the_oldest_goes_first():
    kept = ring(3)
    for number in range(5):
        kept.keep(record(f"id{number}", client=f"c{number}"), odd_row(), None)
    assert [kept.find(f"id{number}") is not None for number in range(5)] == [False] * 2 + [True] * 3


def test_limits_push_out_nothing_that_a_detector_refused():
    kept = ring(4)
    kept.keep(record("odd"), odd_row(), None)
    for number in range(100):
        kept.keep(record(f"id{number}", LIMITED, client=f"c{number}"), odd_row(), None)
    assert kept.find("odd") is not None
    assert len(kept) == 5


def test_one_client_pushes_out_no_other():
    kept = ring(16)
    kept.keep(record("honest", client="honest"), odd_row(), None)
    for number in range(100):
        kept.keep(record(f"id{number}", client="flood"), odd_row(), None)
    assert kept.find("honest") is not None
    assert [number for number in range(100) if kept.find(f"id{number}")] == [96, 97, 98, 99]


def test_an_id_that_comes_twice_counts_once():
    kept = ring()
    for _ in range(3):
        kept.keep(record(), odd_row(), None)
    assert len(kept) == 1


def test_bytes_are_bounded():
    kept = ring(1000, most_bytes=200_000)
    for number in range(100):
        rows = np.zeros((1, 10_000), np.float32)
        kept.keep(record(f"id{number}", client=f"c{number}"), rows, None)
    assert len(kept) == 200_000 // 42_048
    # What is larger than all that may be kept is not, and pushes nothing out.
    kept.keep(record("large"), np.zeros((1, 60_000), np.float32), None)
    assert kept.find("large") is None
    assert kept.find("id99") is not None


def test_nothing_is_left_of_what_has_gone():
    kept = ring(4)
    for number in range(40):
        kept.keep(record(f"id{number}", client=f"c{number % 7}"), odd_row(), None)
    inner = kept._scored
    assert len(inner._sizes) == len(inner.entries) == 4
    assert sum(map(len, inner._clients.values())) == 4
    assert all(inner._clients.values())
    assert inner._bytes == sum(inner._sizes.values())


def test_who_listens_hears_of_what_was_kept_with_a_row():
    heard = []
    kept = ring(heard=heard.append)
    kept.keep(record("odd"), odd_row(), None)
    kept.keep(record("limited", LIMITED), odd_row(), None)
    assert [one.id for one in heard] == ["odd"]
