"""A black-box attack through a real gateway: answered coarsely, throttled, blocked, and forgiven,
while honest clients notice nothing; the same over two workers that share a Redis."""

import hashlib
import json
import signal
import subprocess
from itertools import cycle

import numpy as np
import pytest
from recorder import MODEL
from redis_servers import ANY, RedisServer
from traffic import ask

from loadtest.payloads import infer_request, infer_target
from loadtest.process import BARTIZAN
from proxy import rules

SECRET = "a secret of at least sixteen characters"
OWN = [0.2625, 0.7, 0.0375]  # recording_server.SCORES
PATTERNS = {rule.id for rule in rules.PATTERNS}
MOST = 30
"""Queries by which the attack must have been recognised."""


def request_of(row, key):
    return infer_request(
        np.asarray(row, np.float32).reshape(1, -1),
        "localhost",
        infer_target(MODEL),
        request_id="scores",
        headers=[("X-API-Key", key)],
    )


def probes(image, count):
    """Small steps around a point, as an attack takes them to estimate a slope."""
    rng = np.random.default_rng(1)
    steps = rng.normal(size=(count, image.size))
    return np.clip(image + steps / np.linalg.norm(steps, axis=1, keepdims=True), 0, 16)


def told(answer):
    """What an answer amounts to: ``own``, ``coarse`` or its status."""
    if answer.status != 200:
        return answer.status
    (scores,) = (one for one in json.loads(answer.body)["outputs"] if one["name"] == "scores")
    if scores["data"] == OWN:
        return "own"
    assert scores["data"] == pytest.approx([0.3, 0.7, 0.0])
    return "coarse"


@pytest.fixture
def guard(recorder, gateway, digits_bundle, tmp_path):
    """Starts a firewall that knows two clients, ``honest`` and ``prober``."""
    keys = tmp_path / "keys"
    names = ("honest", "prober")
    keys.write_text("".join(f"{n}:{hashlib.sha256(n.encode()).hexdigest()}\n" for n in names))
    client = {"identify": ["api_key"], "api_keys": str(keys), "secret": SECRET}

    def start(endpoint=None, **sections):
        own = recorder.endpoint(bundle=str(digits_bundle), **(endpoint or {}))
        return gateway([own], **{"client": client, **sections})

    return start


def clients(one, *arguments):
    """``bartizan clients`` on a gateway: its standard output as JSON."""
    command = [*BARTIZAN, "clients", *arguments, "--config", str(one.configuration), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_an_attack_is_answered_coarsely_then_slowly_then_not_at_all(guard, images):
    one = guard()
    honest = cycle(images[200:400])
    for _ in range(100):
        ask(one.address, request_of(next(honest), "prober"))
    attack = [told(ask(one.address, request_of(row, "prober"))) for row in probes(images[0], 80)]
    neighbour = [told(ask(one.address, request_of(next(honest), "honest"))) for _ in range(100)]
    assert attack.count("own") <= MOST
    steps = ["coarse", 429, 403]
    assert [attack.index(step) for step in steps] == sorted(attack.index(step) for step in steps)
    assert set(attack[-20:]) == {403}
    assert set(neighbour) <= {"own", 403}

    (entry,) = (entry for entry in clients(one, "list")["clients"] if entry["level"] == "block")
    assert entry["evidence"]["probing"] > entry["thresholds"]["probing"] > 10
    one.process.wait_until(lambda: len(one.records()) == 280, 10)
    records = one.records()
    ruled = [{reason["rule"] for reason in record["reasons"]} & PATTERNS for record in records]
    assert not any(ruled[:100]) and not any(ruled[180:]), "honest queries raise no alarm"
    last = records[179]
    assert last["client"] == entry["client"]
    (reason,) = (reason for reason in last["reasons"] if reason["rule"] == "BZ-500")
    assert "AML.T0043.001" in reason["atlas"]
    assert "nats" in reason["detail"]
    assert one.metric("bartizan_pattern_alarms_total", rule="BZ-500") > 20
    assert one.metric("bartizan_tracked", kind="clients") == 2

    clients(one, "forgive", entry["client"])
    assert told(ask(one.address, request_of(images[500], "prober"))) == "own"


def test_monitor_mode_only_tells(guard, images):
    one = guard({"mode": "monitor"})
    answers = [told(ask(one.address, request_of(row, "prober"))) for row in probes(images[0], 60)]
    assert answers == ["own"] * 60
    one.process.wait_until(lambda: len(one.records()) == 60, 10)
    last = one.records()[-1]
    assert last["would_block"] and last["action"] == "block"
    assert one.metric("bartizan_would_block_total") > 20


def test_evidence_outlives_a_reload_that_does_not_concern_it(guard, images):
    one = guard()
    for row in probes(images[0], 60):
        ask(one.address, request_of(row, "prober"))
    one.settings["endpoints"][0]["limits"] = {"rows_per_request": 4}
    one.write()
    before = one.metric("bartizan_reloads_total")
    one.signal(signal.SIGHUP)
    one.process.wait_until(lambda: one.metric("bartizan_reloads_total") > before)
    assert one.metric("bartizan_reload_successful") == 1
    assert told(ask(one.address, request_of(images[500], "prober"))) == 403
    assert told(ask(one.address, request_of(images[501], "honest"))) == "own"


@pytest.mark.skipif(ANY is None, reason="no Redis server is installed")
def test_an_attack_over_two_workers_is_one_attack(guard, images, tmp_path):
    redis = RedisServer(tmp_path).start()
    try:
        one = guard(workers=2, state=redis.url, sharing={"sync_seconds": 0.01})
        # A connection each: the kernel spreads them over the workers.
        attack = [
            told(ask(one.address, request_of(row, "prober"))) for row in probes(images[0], 120)
        ]
        assert attack.count("own") <= 2 * MOST
        assert set(attack[-20:]) == {403}
        (entry,) = (entry for entry in clients(one, "list")["clients"] if entry["level"] == "block")
        assert one.stop() == 0
        # What was learnt lies in Redis: a new gateway comes to know it with its first exchange.
        again = guard(workers=2, state=redis.url, sharing={"sync_seconds": 0.01})
        after = [told(ask(again.address, request_of(row, "prober"))) for row in images[100:130]]
        assert 403 in after
        assert len(set(after[-5:]) - {403}) == 0
        clients(again, "forgive", entry["client"])

        def forgiven():
            return told(ask(again.address, request_of(images[500], "prober"))) == "own"

        again.process.wait_until(forgiven, 10)
    finally:
        redis.stop()
