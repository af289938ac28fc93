"""The model's answer counts: through a real gateway, an answer that does not go with its input is
refused, one that cannot be read is never half sent, and a second opinion changes nobody's mind
unless it is given."""

import json
import signal
import socket
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from judging_server import MODEL

from loadtest.payloads import infer_request, infer_target
from loadtest.process import Process, accepts
from loadtest.wire import Session

PROGRAM = Path(__file__).parent.parent / "judging_server.py"


class Model:
    """The model server as a process."""

    def __init__(self, folder, judged, port):
        self.port, self.log, self.mood = port, folder / "seen.jsonl", folder / "mood"
        self.mood.write_text("")
        where = f"127.0.0.1:{port}"
        arguments = [where, str(judged["folder"] / "model.npz"), str(self.log), str(self.mood)]
        self.process = Process(
            "model", [sys.executable, str(PROGRAM), *arguments], folder / "model.log"
        )
        self.process.wait_until(lambda: accepts(("127.0.0.1", port)))

    def seen(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def asked_again(self):
        return [seen for seen in self.seen() if seen["id"] is None]


@pytest.fixture
def model(tmp_path, judged, free_port):
    one = Model(tmp_path, judged, free_port())
    yield one
    one.process.stop()


@pytest.fixture
def guard(gateway, model, judged):
    """Starts a firewall before the model."""

    def start(**keys):
        endpoint = {
            "name": MODEL,
            "match": f"/v2/models/{MODEL}",
            "upstream": f"http://127.0.0.1:{model.port}",
            "bundle": str(judged["folder"] / "digits.bundle"),
            **keys,
        }
        return gateway([endpoint])

    return start


def ask(one, rows, how="fine"):
    rows = np.atleast_2d(np.asarray(rows, np.float32))
    with Session(one.address) as session:
        return session.exchange(
            infer_request(rows, "localhost", infer_target(MODEL), request_id=how)
        )


def scores(answer):
    [output] = json.loads(answer.body)["outputs"]
    return np.reshape(output["data"], output["shape"])


def test_an_answer_that_does_not_go_with_its_input_is_refused(guard, judged):
    one = guard()
    for row in judged["plain"][:20]:
        assert ask(one, row).status == 200
    for row in judged["foul"][:20]:
        assert ask(one, row).status == 200
        refused = ask(one, row, "lie")
        assert refused.status == 403
        assert json.loads(refused.body) == {"error": "request refused"}
    one.process.wait_until(lambda: len(one.records()) == 60, 10)
    last = one.records()[-1]
    assert [reason["rule"] for reason in last["reasons"]] == ["BZ-400"]
    assert last["flagged_rows"] == last["answer"]["flagged_rows"] == 1
    assert set(last["answer"]["signals"]) >= {"knn_agreement", "kernel_agreement"}
    assert last["answer"]["label"] in set("0123456789")
    assert last["answer"]["p_value"] < 0.02
    assert one.metric("bartizan_rows_disagreeing_total") == 20
    assert one.metric("bartizan_rows_judged_total") == 60
    assert one.metric("bartizan_stage_seconds_count", stage="agreement") == 60


def test_monitor_mode_changes_nothing(guard, judged):
    one = guard(mode="monitor", shaping={"when": "always"})
    for row in judged["foul"][:5]:
        lied, told = ask(one, row, "lie"), ask(one, row)
        assert lied.status == told.status == 200
        assert np.array_equal(np.roll(scores(told), 1, axis=1), scores(lied))
    for how in ("nan", "rows", "truncated", "huge", "gzip", "bytes"):
        assert ask(one, judged["plain"][0], how).status == 200
    one.process.wait_until(lambda: len(one.records()) == 16, 10)
    rules = [[reason["rule"] for reason in record.get("reasons", [])] for record in one.records()]
    assert rules[:10] == [["BZ-400"], []] * 5
    assert rules[10:] == [["BZ-490"]] * 4 + [[]] * 2


@pytest.mark.parametrize("failure_mode", ["deny", "allow"])
def test_an_answer_that_cannot_be_read_is_never_half_sent(guard, judged, failure_mode):
    one = guard(failure_mode=failure_mode)
    row = judged["plain"][0]
    plain = ask(one, row)
    for how in ("gzip", "bytes", "labels"):
        assert ask(one, row, how).status == 200
    for how in ("nan", "rows", "truncated", "huge"):
        answer = ask(one, row, how)
        assert answer.status == (503 if failure_mode == "deny" else 200), how
        if failure_mode == "deny":
            assert json.loads(answer.body) == {"error": "request cannot be inspected"}
    assert ask(one, row, "cut").status == 502
    error = ask(one, row, "error")
    assert (error.status, json.loads(error.body)) == (500, {"error": "as asked"})
    assert ask(one, row).body == plain.body
    assert one.metric("bartizan_faults_total", rule="BZ-490") == 4
    opened = one.metric("bartizan_failed_open_total", rule="BZ-490")
    assert opened == (4 if failure_mode == "allow" else 0)


def test_rows_are_judged_one_by_one_in_a_batch(guard, judged):
    one = guard(block_fraction=0.5)
    batch = np.vstack([judged["foul"][:40], judged["plain"][:60]])
    assert scores(ask(one, batch)).shape == (100, 10)
    assert ask(one, batch, "lie").status == 403
    one.process.wait_until(lambda: len(one.records()) == 2, 10)
    honest, lied = one.records()
    assert honest["answer"]["flagged_rows"] == 0
    assert lied["answer"]["flagged_rows"] >= 40


def test_answers_are_shaped_on_demand(guard, judged):
    one = guard(shaping={"when": "always", "mode": "label"}, on_disagreement="shape")
    for row in judged["plain"][:5]:
        shaped = scores(ask(one, row))
        assert sorted(shaped[0]) == [0.0] * 9 + [1.0]
    assert one.metric("bartizan_shaped_total") == 5
    one.settings["endpoints"][0]["shaping"] = {"mode": "round"}
    before = one.metric("bartizan_reloads_total")
    one.write()
    one.signal(signal.SIGHUP)
    one.process.wait_until(lambda: one.metric("bartizan_reloads_total") > before)
    assert len(set(scores(ask(one, judged["plain"][0]))[0])) == 10
    coarse = scores(ask(one, judged["foul"][0], "lie"))
    assert np.array_equal(coarse, np.round(coarse, 1))


OPINION = {"when": "suspicious", "share": 1.0}


def earn(one, judged):
    """Has clients ask enough for second opinions to be paid."""
    ask(one, np.tile(judged["plain"][:1], (64, 1)))


def test_a_second_opinion_is_asked_for_and_told(guard, model, judged):
    one = guard(second_opinion=OPINION)
    earn(one, judged)
    row = judged["doubtful"][0]
    assert model.asked_again() == []
    ask(one, row, "lie")
    [again] = model.asked_again()
    assert again["rows"] == 4
    assert again["accept-encoding"] == "identity"
    one.process.wait_until(lambda: len(one.records()) == 2, 10)
    told = one.records()[-1]["answer"]
    asked = {"suspicious_rows": 1, "asked_rows": 1, "copies": 4, "fault": ""}
    assert told["second_opinion"] == asked
    assert "noise_consistency" in told["signals"]
    assert one.metric("bartizan_second_opinions_total", result="heard") == 1
    assert one.metric("bartizan_second_opinion_rows_total") == 4
    [described] = json.loads(one.ask_admin("/api/v1/endpoints").body)["endpoints"]
    assert described["agreement"]["second_opinions"]["copies"] == 4
    assert described["agreement"]["threshold"] > 0


def test_the_model_is_not_asked_beyond_the_budget(guard, model, judged):
    one = guard(second_opinion={"when": "suspicious", "share": 0.25})
    for _ in range(10):
        for row in judged["doubtful"][:10]:
            ask(one, row, "lie")
    sent = sum(seen["rows"] for seen in model.seen() if seen["id"])
    again = sum(seen["rows"] for seen in model.asked_again())
    assert sent == 100
    assert 0 < again <= 0.25 * sent
    assert one.metric("bartizan_second_opinions_total", result="declined") == 100 - again / 4


@pytest.mark.parametrize("mood", ["reset", "slow"])
def test_a_second_opinion_that_is_not_given_changes_nothing(guard, model, judged, mood):
    one = guard(second_opinion={**OPINION, "timeout_seconds": 0.2})
    earn(one, judged)
    model.mood.write_text(mood)
    answer = ask(one, judged["doubtful"][0], "lie")
    assert answer.status == 200
    assert scores(answer).shape == (1, 10)
    one.process.wait_until(lambda: len(one.records()) == 2, 10)
    assert one.records()[-1]["answer"]["second_opinion"]["fault"]
    assert one.metric("bartizan_second_opinions_total", result="failed") == 1
    assert one.metric("bartizan_faults_total") == 0
    assert ask(one, judged["plain"][0]).status == 200


def test_a_client_that_leaves_ends_the_second_opinion(guard, model, judged):
    one = guard(second_opinion={**OPINION, "timeout_seconds": 30})
    earn(one, judged)
    model.mood.write_text("slow")
    row = judged["doubtful"][:1]
    with socket.create_connection(one.address) as client:
        client.sendall(infer_request(row, "localhost", infer_target(MODEL), request_id="lie"))
        one.process.wait_until(model.asked_again, 10)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    one.process.wait_until(lambda: one.metric("bartizan_upstream_in_flight") == 0, 10)
    one.process.wait_until(lambda: len(one.records()) == 2, 10)
    assert one.records()[-1]["status"] == 0
    assert ask(one, judged["plain"][0]).status == 200


def test_a_reload_in_flight_ends_what_it_began(guard, model, judged):
    one = guard(second_opinion={**OPINION, "timeout_seconds": 1.0})
    earn(one, judged)
    model.mood.write_text("slow")
    row = judged["doubtful"][:1]
    with socket.create_connection(one.address) as client:
        client.sendall(infer_request(row, "localhost", infer_target(MODEL), request_id="lie"))
        one.process.wait_until(model.asked_again, 10)
        del one.settings["endpoints"][0]["second_opinion"]
        before = one.metric("bartizan_reloads_total")
        one.write()
        one.signal(signal.SIGHUP)
        one.process.wait_until(lambda: one.metric("bartizan_reloads_total") > before)
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    assert ask(one, row, "lie").status == 200
    assert len(model.asked_again()) == 1


def test_without_agreement_answers_are_streamed_untouched(guard, digits_bundle, judged):
    one = guard(bundle=str(digits_bundle))
    row = judged["plain"][0]
    assert ask(one, row, "huge").status == 200
    compressed = ask(one, row, "gzip")
    assert compressed.headers["content-encoding"] == "gzip"


def test_a_lie_is_explained_to_the_operator_alone(guard, judged):
    one = guard()
    row = judged["foul"][0]
    truth = str(int(scores(ask(one, row)).argmax()))
    refused = ask(one, row, "lie")
    answer = one.ask_admin(f"/api/v1/explanations/{refused.headers['x-request-id']}")
    told = json.loads(answer.body)
    assert [reason["rule"] for reason in told["reasons"]] == ["BZ-400"]
    assert not told["input"]["flagged"]
    judged_so = told["answer"]
    assert judged_so["flagged"]
    assert judged_so["label"] != truth
    strongest = max(judged_so["witnesses"], key=lambda witness: witness["doubt"])
    assert strongest["answer"] == truth
    total = judged_so["baseline"] + judged_so["others"]
    total += sum(feature["nats"] for feature in judged_so["features"])
    evidence = sum(finding["evidence"] for finding in judged_so["detectors"])
    assert total == pytest.approx(evidence, abs=1e-6)
    assert "BZ-400" in told["exclusion"]
    # What was let through is nobody's question.
    passed = ask(one, row).headers["x-request-id"]
    assert one.ask_admin(f"/api/v1/explanations/{passed}").status == 404
