"""Every answer is in the audit log under its id, and the log proves itself, also after a kill."""

import json
import subprocess

import pytest
from recorder import FEATURES
from traffic import Traffic, ask, request_of

from loadtest.process import BARTIZAN
from loadtest.wire import Session, render_request


def verify(guard):
    """Exit status of ``bartizan audit verify``."""
    command = [*BARTIZAN, "audit", "verify", str(guard.audit)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def mixed_requests():
    """Requests of every fate, and the status each is to get."""
    return [
        (request_of("plain"), 200),
        (request_of("rows", rows=3), 200),
        (request_of("binary", binary=True), 200),
        (request_of("status:500"), 500),
        (request_of("reset"), 502),
        (request_of("much", rows=9), 413),
        (request_of("nan").replace(b"0.5", b"NaN", 1), 400),
        (render_request("GET", "/v2/health/live", "localhost"), 200),
        (render_request("GET", "/v2/models/digits", "localhost"), 200),
        (render_request("POST", "/v2/repository/index", "localhost"), 403),
        (render_request("GET", "/nothing/here", "localhost"), 404),
        (render_request("PUT", "/v2/models/digits/infer", "localhost"), 405),
    ]


@pytest.fixture
def ended(recorder, gateway):
    """A firewall that recorded ten exchanges, and ended."""
    guard = gateway([recorder.endpoint()])
    for number in range(10):
        assert ask(guard.address, request_of(f"n{number}")).status == 200
    assert guard.stop() == 0
    return guard


def test_every_answer_is_recorded_under_its_id(recorder, gateway):
    guard = gateway([recorder.endpoint(limits={"rows_per_request": 8})])
    told = {}
    for request, status in mixed_requests():
        answer = ask(guard.address, request)
        assert answer.status == status, (request, answer)
        told[answer.headers["x-request-id"]] = status
    assert len(told) == len(mixed_requests())
    assert guard.stop() == 0
    recorded = {record["id"]: record["status"] for record in guard.records()}
    assert {name: recorded.get(name) for name in told} == told
    assert verify(guard) == 0


def test_the_recorded_digest_is_that_of_the_bytes_the_model_got(recorder, gateway):
    guard = gateway([recorder.endpoint()], audit={"payload_digest": True})
    for number in range(50):
        sent = request_of(f"n{number}", rows=1 + number % 5, value=number / 7, binary=number % 2)
        assert ask(guard.address, sent).status == 200
    assert guard.stop() == 0
    digests = [record["notes"]["sha256"] for record in guard.records()]
    assert digests == [seen["sha256"] for seen in recorder.seen()]
    assert len(set(digests)) == 50


def test_a_configured_key_seals_the_log(recorder, gateway, tmp_path):
    key = "a key of at least sixteen characters"
    guard = gateway([recorder.endpoint()], audit={"key": key})
    assert ask(guard.address, request_of("sealed")).status == 200
    assert guard.stop() == 0
    head = guard.audit.with_name(f"{guard.audit.name}.head").read_bytes()
    assert b'"mac"' in head
    assert key.encode() not in head + guard.audit.read_bytes()
    for given, status in ((key, 0), ("another key, as long as the first", 1)):
        (tmp_path / "key").write_text(given)
        options = ["--key-file", str(tmp_path / "key")]
        command = [*BARTIZAN, "audit", "verify", str(guard.audit), *options]
        assert subprocess.run(command, capture_output=True, check=False).returncode == status


@pytest.mark.parametrize("damage", ["edit", "drop", "swap", "truncate"])
def test_damage_is_found(ended, damage):
    assert verify(ended) == 0
    whole = ended.audit.read_bytes()
    lines = whole.splitlines(keepends=True)
    middle = len(lines) // 2
    match damage:
        case "edit":
            lines[middle] = lines[middle].replace(b'"status":200', b'"status":201')
        case "drop":
            del lines[middle]
        case "swap":
            lines[middle], lines[middle + 1] = lines[middle + 1], lines[middle]
        case "truncate":
            del lines[middle:]
    ended.audit.write_bytes(b"".join(lines))
    assert ended.audit.read_bytes() != whole
    assert verify(ended) == 1


@pytest.mark.parametrize("turn", range(5))
def test_killed_under_load_no_answer_is_without_a_record(recorder, gateway, turn):
    guard = gateway([recorder.endpoint()], audit={"durability": "released"})
    with Traffic(guard, 100_000) as traffic:
        traffic.wait_for(200 + 150 * turn)
        guard.kill()
        traffic.stop()
    answered = {outcome.request_id for outcome in traffic.outcomes if outcome.status == 200}
    assert len(answered) >= 200
    guard.start()
    assert ask(guard.address, request_of("after")).status == 200
    assert guard.stop() == 0
    assert answered <= {record["id"] for record in guard.records()}
    assert verify(guard) == 0


def test_a_torn_tail_is_mended_at_the_start(ended):
    whole = ended.records()
    with ended.audit.open("ab") as file:
        file.write(b'{"id":"torn","status":20')
    ended.start()
    assert ask(ended.address, request_of("after")).status == 200
    assert ended.stop() == 0
    assert ended.records()[:10] == whole
    assert len(ended.records()) == 11
    assert verify(ended) == 0


def test_no_value_of_the_payload_is_recorded(recorder, gateway):
    guard = gateway([recorder.endpoint()], client={"identify": ["api_key", "ip"]})
    headers = [("X-Api-Key", "a-secret-that-must-not-be-written")]
    assert ask(guard.address, request_of("n", value=0.8125, headers=headers)).status == 200
    assert guard.stop() == 0
    text = guard.audit.read_text()
    assert json.dumps([0.8125] * FEATURES)[:20] not in text
    assert "0.8125" not in text
    assert "a-secret" not in text
    assert "127.0.0.1" not in text


def test_ids_are_the_firewalls_own(recorder, gateway):
    """A client cannot choose the id under which it is recorded."""
    guard = gateway([recorder.endpoint()])
    headers = [("X-Request-Id", "chosen")]
    with Session(guard.address) as session:
        answers = [session.exchange(request_of("n", headers=headers)) for _ in range(2)]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len({*ids, "chosen"}) == 3
