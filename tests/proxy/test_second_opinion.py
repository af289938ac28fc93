"""The budget of second opinions, which rows it is spent on, and their deadline."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judges import scorer

from detectors.agreement.base import Answers
from proxy.second_opinion import BURST_ROWS, Budget, LateOpinion, SecondOpinions, in_time, joined

SAID = Answers.of_labels(np.zeros(9, np.int64))


def opinions(*, share=1.0, **how):
    how = {"random": np.zeros, **how}
    return SecondOpinions(scorer(opinions=True), share=share, **how)


def verdicts(*distances):
    rows = np.zeros((len(distances), 4), np.float32)
    rows[:, 0] = distances
    answers = Answers.of_labels(np.zeros(len(distances), np.int64))
    return scorer(opinions=True).score(rows, answers, np.zeros(len(distances)))


@given(
    st.floats(0.001, 1.0),
    st.integers(1, 8),
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=60),
)
def test_what_is_asked_is_a_share_of_what_clients_asked(share, each, steps):
    budget = Budget(share, burst=16 * each)
    sent = asked = 0
    for rows, wanted in steps:
        budget.earn(rows)
        sent += rows
        paid = budget.spend(wanted, each)
        assert 0 <= paid <= wanted
        asked += paid * each
        assert asked <= share * sent + 1e-6
        assert paid * each <= 16 * each
        assert budget.left >= 0


def test_nothing_is_asked_at_the_start():
    one = opinions()
    assert one.choose(verdicts(6, 7), SAID)[0].size == 0
    one.budget.earn(10**9)
    assert one.budget.left == BURST_ROWS * one.copies == 32


def test_only_suspicious_rows_are_asked_about():
    one = opinions()
    one.budget.earn(10**9)
    rows, wanted = one.choose(
        verdicts(0, 6, 5, 30, 19), SAID
    )  # 30 is flagged without further words
    assert rows.tolist() == [1, 4]
    assert wanted == 2


def test_the_most_suspicious_rows_go_first():
    one = opinions(share=1.0)
    one.budget.earn(5)  # two rows of two copies
    rows, wanted = one.choose(verdicts(6, 19, 7, 18), SAID)
    assert (rows.tolist(), wanted) == ([1, 3], 4)
    assert one.budget.left == 1
    assert one.choose(verdicts(19), SAID)[0].size == 0


def test_who_said_too_little_is_not_asked_again():
    one = opinions()
    one.budget.earn(10**9)
    rows, wanted = one.choose(verdicts(6, 7), Answers(values=np.zeros((2, 1))))
    assert (rows.size, wanted) == (0, 2)
    assert one.budget.left == 32


def test_a_sample_is_drawn_of_those_alone():
    one = opinions(sample=0.5, random=lambda n: np.linspace(0, 0.99, n))
    one.budget.earn(10**9)
    rows, wanted = one.choose(verdicts(6, 7, 8, 9), SAID)
    assert (rows.tolist(), wanted) == ([0, 1], 2)
    assert one.budget.left == 32 - 4


def test_views_and_where_they_came_from():
    one = opinions()
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    views, origins = one.views(rows), one.origins(np.array([5, 9]))
    assert views.tolist() == [
        *(rows[:1] * 2).tolist(),
        *(rows[:1] + 1).tolist(),
        *((rows[1:] * 2).tolist() + (rows[1:] + 1).tolist()),
    ]
    assert origins.tolist() == [5, 5, 9, 9]
    [again] = one.split(Answers.of_labels(np.arange(4)))
    assert again.labels.tolist() == [0, 1, 2, 3]


def test_a_bundle_without_opinions_has_none():
    with pytest.raises(ValueError, match="no second opinions"):
        SecondOpinions(scorer(), share=0.1, random=np.zeros)


def test_answers_are_joined_in_order():
    parts = [Answers.of_probabilities([[0.25, 0.75]]), Answers.of_probabilities([[1.0, 0.0]])]
    assert joined(parts).labels.tolist() == [1, 0]
    assert joined(parts).probabilities.tolist() == [[0.25, 0.75], [1.0, 0.0]]
    mixed = joined([parts[0], Answers.of_labels(np.array([1]))])
    assert mixed.labels.tolist() == [1, 1] and mixed.probabilities is None


async def test_an_answer_in_time_is_heard():
    async def answer():
        await asyncio.sleep(0)
        return Answers.of_labels(np.array([1]))

    assert (await in_time(answer(), 60.0)).labels.tolist() == [1]


async def test_who_is_late_is_cancelled():
    ended = []

    async def never():
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(True)

    with pytest.raises(LateOpinion, match=r"0\.001 s"):
        await in_time(never(), 0.001)
    await asyncio.sleep(0)
    assert ended


async def test_a_fault_is_told():
    async def fail():
        raise ZeroDivisionError("bug")

    with pytest.raises(ZeroDivisionError):
        await in_time(fail(), 60.0)


async def test_who_leaves_takes_the_question_along():
    asked, ended = asyncio.Event(), asyncio.Event()

    async def never():
        asked.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    task = asyncio.create_task(in_time(never(), 60.0))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ended.wait()
