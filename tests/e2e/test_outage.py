"""The model server fails in every way that it can; the firewall says so, and comes back with it."""

import json

import pytest
from recorder import FEATURES
from traffic import ask, request_of

from loadtest.wire import Session


def test_down_and_back(recorder, gateway):
    guard = gateway([recorder.endpoint()])
    assert ask(guard.address, request_of()).status == 200
    recorder.stop()
    for _ in range(3):
        answer = ask(guard.address, request_of())
        assert answer.status in (502, 503)
        assert isinstance(json.loads(answer.body)["error"], str)
    recorder.start()
    guard.process.wait_until(lambda: ask(guard.address, request_of()).status == 200)
    # One answer was the proof; from here on none fails.
    assert {ask(guard.address, request_of()).status for _ in range(20)} == {200}


def test_absent_at_the_start(silent_recorder, gateway):
    guard = gateway([silent_recorder.endpoint()], wait=False)
    guard.process.wait_until(guard.answers)
    assert not guard.ready()
    assert ask(guard.address, request_of()).status in (502, 503)
    silent_recorder.start()
    guard.process.wait_until(guard.ready, 60)
    assert ask(guard.address, request_of()).status == 200


@pytest.mark.parametrize(
    ("order", "status"),
    [
        ("status:500", 500),
        ("status:404", 404),
        ("garbage", 502),
        ("reset", 502),
        ("delay:3", 504),
    ],
)
def test_misbehaviour(recorder, gateway, order, status):
    guard = gateway([recorder.endpoint(timeouts={"response_seconds": 1.0, "total_seconds": 2.0})])
    answer = ask(guard.address, request_of(order))
    assert answer.status == status
    assert isinstance(json.loads(answer.body)["error"], str)
    assert ask(guard.address, request_of("next")).status == 200


def test_a_request_that_may_have_been_read_is_not_sent_again(recorder, gateway):
    # Without a learnt contract no connection is left from asking for the metadata: it is a fresh
    # one. A kept-alive one may have been closed before the request came, and is replaced, once.
    inputs = [{"name": "input", "datatype": "FP32", "shape": [-1, FEATURES]}]
    guard = gateway([recorder.endpoint(contract={"inputs": inputs})])
    for number in range(1, 6):
        assert ask(guard.address, request_of("reset")).status == 502
        assert number <= len(recorder.seen()) <= number + 1


def test_an_answer_cut_short_is_never_a_success(recorder, gateway):
    guard = gateway([recorder.endpoint()])
    with Session(guard.address) as session, pytest.raises((OSError, ValueError)):
        session.exchange(request_of("cut"))
    assert ask(guard.address, request_of("next")).status == 200


def test_of_two_servers_one_suffices(recorder, gateway, free_port):
    dead = f"http://127.0.0.1:{free_port()}"
    guard = gateway([recorder.endpoint(upstream=[f"http://127.0.0.1:{recorder.port}", dead])])
    statuses = [ask(guard.address, request_of()).status for _ in range(50)]
    assert statuses.count(200) >= 40
    assert set(statuses[-20:]) == {200}
