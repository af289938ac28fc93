"""Answers judged, whatever protocol they come in: refused where they do not go with their input,
and the model asked again in the words in which the client asked.
"""

import json

import numpy as np
import pytest
from gateway import Gateway
from judging_server import probabilities
from protocol_cases import CASES, EVERY, FEATURES
from scripted_upstream import ScriptedUpstream

from loadtest.wire import Session

OPINION = {"when": "suspicious", "share": 1.0, "timeout_seconds": 30}


class LinearModel(ScriptedUpstream):
    """Answers in the words of a case, as the judged model, or with the class after its own."""

    def __init__(self, folder):
        super().__init__()
        model = np.load(folder / "model.npz")
        self.weights, self.bias = model["weights"], model["bias"]
        self.case, self.lies = CASES[0], False
        self.body = self.said
        self.rows = []

    def said(self, seen):
        rows = np.asarray(self.case.read(seen.body), np.float64).reshape(-1, FEATURES)
        self.rows.append(rows)
        said = probabilities(self.weights, self.bias, rows)
        lie = self.lies and len(self.rows) == 1  # not where it is asked again
        return self.case.answer(np.roll(said, 1, axis=1) if lie else said)


@pytest.fixture(scope="module")
def model(judged):
    one = LinearModel(judged["folder"])
    yield one
    one.stop()


@pytest.fixture(scope="module")
def guard(model, judged, tmp_path_factory):
    keys = {"bundle": str(judged["folder"] / "digits.bundle"), "second_opinion": OPINION}
    one = Gateway(
        tmp_path_factory.mktemp("gateway"),
        [case.endpoint(model.url, **keys) for case in CASES],
    )
    for case in CASES:
        model.pages[case.match] = json.dumps({"name": "digits", "ready": True}).encode()
    model.pages |= {"/ping": b"{}", "/health/ping": b"pong"}
    yield one.start()
    one.stop()


@pytest.fixture
def ask(guard, model):
    """Asks about rows by a protocol; the answer, and the rows of each question to the model."""

    def exchange(case, rows, *, lies=False):
        model.case, model.lies, model.rows = case, lies, []
        with Session(guard.address) as session:
            answer = session.exchange(case.request(case.write(rows)))
        return answer, model.rows

    return exchange


@EVERY
def test_an_answer_that_does_not_go_with_its_input_is_refused(case, ask, judged):
    plain, foul = judged["plain"][:4], judged["foul"][:1]
    answer, asked = ask(case, plain)
    assert answer.status == 200
    assert len(asked) == 1
    assert np.shape(np.reshape(case.said(answer.body), (4, -1))) == (4, 10)
    assert ask(case, foul)[0].status == 200
    refused, _ = ask(case, foul, lies=True)
    assert refused.status == 403
    case.refused(refused)


@EVERY
def test_the_model_is_asked_again_in_the_same_words(case, ask, judged):
    ask(case, np.tile(judged["plain"][:1], (16, 1)))  # earns the budget
    doubtful = judged["doubtful"][:1]
    _, asked = ask(case, doubtful, lies=True)
    first, again = asked
    assert np.array_equal(first, doubtful)
    assert again.shape == (4, FEATURES)
    assert (again != doubtful).any() and np.abs(again - doubtful).max() < 16


@EVERY
def test_no_wish_of_a_client_keeps_its_answer_from_being_judged(case, guard, model, judged):
    model.case, model.lies, model.rows = case, False, []
    wishes = []
    before, model.body = model.body, lambda seen: wishes.append(seen.get("accept")) or before(seen)
    try:
        for wish in ("application/x-npz", "application/json"):
            request = case.request(case.write(judged["plain"][:1]), Accept=wish)
            with Session(guard.address) as session:
                assert session.exchange(request).status == 200
    finally:
        model.body = before
    assert wishes == [[], ["application/json"]]
