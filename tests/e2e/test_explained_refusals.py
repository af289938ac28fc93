"""A refusal explained by the real command, of a gateway that runs and of its audit log; nothing of
it reaches a client."""

import json
import subprocess

import numpy as np
import pytest
from redis_servers import ANY, RedisServer
from traffic import ask

from loadtest.payloads import infer_request, infer_target
from loadtest.process import BARTIZAN

PLANTED = 3 * 8 + 7  # row 3, column 7: digits have no ink there
NAME = f"input[{PLANTED}]"


def request_of(rows):
    return infer_request(rows.astype(np.float32), "localhost", infer_target("digits"))


@pytest.fixture
def odd(images):
    """(3, 64): two honest images around one with a dot where none belongs."""
    rows = images[:3].copy()
    rows[1, PLANTED] = 16
    return rows


def explain(*arguments):
    """Exit status, standard output and standard error."""
    command = [*BARTIZAN, "explain", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def visible(answer):
    """What a client sees, but for the id under which it is recorded."""
    headers = {k: v for k, v in answer.headers.items() if k not in ("x-request-id", "date")}
    return answer.status, headers, answer.body


def test_a_refusal_is_explained(recorder, gateway, digits_bundle, odd):
    one = gateway(
        [recorder.endpoint(bundle=str(digits_bundle))], audit={"values": True, "explain": True}
    )
    answer = ask(one.address, request_of(odd))
    assert answer.status == 403
    exchange = answer.headers["x-request-id"]

    status, told, _ = explain(exchange, "--config", str(one.configuration), "--json")
    assert status == 0
    live = json.loads(told)
    assert live["reasons"][0]["rule"] == "BZ-300"
    assert live["input"]["row"] == 1
    feature = live["input"]["features"][0]
    assert (feature["index"], feature.pop("name")) == (PLANTED, NAME)
    assert live["input"]["flagged"]
    total = live["input"]["baseline"] + live["input"]["others"]
    total += sum(feature["nats"] for feature in live["input"]["features"])
    assert total == pytest.approx(live["input"]["score"], abs=1e-6)
    (record,) = one.records()
    assert live["input"]["score"] == pytest.approx(record["score"], rel=1e-6)

    status, told, _ = explain(exchange, "--admin", f"http://127.0.0.1:{one.admin_port}")
    assert status == 0
    assert f'client: "{record["client"]}"' in told

    # The log holds the same explanation, and all that it takes to make it again.
    def events():
        lines = map(json.loads, one.audit.read_text().splitlines())
        return [line for line in lines if line["type"] == "explanation"]

    one.process.wait_until(lambda: len(events()) == 1)
    (event,) = events()
    assert event["id"] == exchange
    assert event["input"]["features"][0].pop("name") == NAME
    assert event["input"] == live["input"]
    log = "--audit", str(one.audit), "--bundle", str(digits_bundle)
    status, told, _ = explain(exchange, *log, "--json")
    assert status == 0
    again = json.loads(told)
    for name in ("reasons", "exclusion", "client", "rows", "flagged_rows"):
        if name != "exclusion":  # a week from another moment of the same exchange
            assert again[name] == live[name], name
    assert again["input"]["features"][0] == pytest.approx(feature)

    status, _, words = explain("01-unknown", "--config", str(one.configuration))
    assert (status, "not any more" in words) == (1, True)
    assert one.stop() == 0
    verify = [*BARTIZAN, "audit", "verify", str(one.audit)]
    assert subprocess.run(verify, capture_output=True, check=False).returncode == 0


def test_no_client_can_tell_whether_anything_is_explained(
    recorder, gateway, digits_bundle, odd, images
):
    endpoint = recorder.endpoint(bundle=str(digits_bundle))
    explaining = gateway([endpoint], audit={"explain": True})
    silent = gateway([endpoint])
    asked = [request_of(odd), request_of(images[:1]), request_of(odd[1:2])]
    seen = [visible(ask(explaining.address, request)) for request in asked]
    assert seen == [visible(ask(silent.address, request)) for request in asked]
    assert [status for status, _, _ in seen] == [403, 200, 403]


@pytest.mark.skipif(ANY is None, reason="no Redis server is installed")
def test_whichever_worker_refused_it(tmp_path, recorder, gateway, digits_bundle, odd):
    redis = RedisServer(tmp_path).start()
    try:
        one = gateway(
            [recorder.endpoint(bundle=str(digits_bundle))],
            workers=2,
            state=redis.url,
            sharing={"wait_seconds": 1.0},
            client={"secret": "a secret of at least sixteen characters"},
        )
        answers = [ask(one.address, request_of(odd)) for _ in range(6)]
        ids = [answer.headers["x-request-id"] for answer in answers if answer.status == 403]
        assert len(ids) >= 4
        for exchange in ids[:4]:
            answer = one.ask_admin(f"/api/v1/explanations/{exchange}")
            assert (answer.status, json.loads(answer.body)["id"]) == (200, exchange)
        assert one.ask_admin("/api/v1/explanations/01-unknown").status == 404
        assert one.stop() == 0
    finally:
        redis.stop()
