"""Live traffic to a sample, a bundle and an enforcing firewall; and a sample of two workers."""

import json
import subprocess

import numpy as np
import pytest
from recorder import FEATURES, MODEL
from redis_servers import ANY, RedisServer
from traffic import ask

from detectors.sample import Sample
from loadtest import capture_to_enforce
from loadtest.payloads import infer_request, infer_target
from loadtest.process import BARTIZAN


def test_from_live_traffic_to_an_enforcing_firewall(capsys):
    status = capture_to_enforce.main([])
    told = capsys.readouterr()
    assert status == 0, told.err
    assert "997 rows of 997 seen, 8 clients" in told.out
    assert "enforcing, after a reload" in told.out


def test_more_refusals_than_chance_explains_are_noticed():
    assert capture_to_enforce.chance(350, 0.01) == 10
    assert capture_to_enforce.chance(1, 0.01) == 1


@pytest.mark.skipif(ANY is None, reason="no Redis server is installed")
def test_the_workers_samples_are_one(recorder, gateway, tmp_path):
    server = RedisServer(tmp_path).start()
    try:
        guard = gateway(
            [recorder.endpoint(mode="monitor", capture={"anonymise": False})],
            workers=2,
            state=server.url,
            sharing={"wait_seconds": 1.0},
            client={"secret": "a secret of at least sixteen characters"},
        )
        for number in range(60):  # each on a connection of its own, so that both workers get some
            rows = np.full((1, FEATURES), number, np.float32)
            assert ask(guard.address, infer_request(rows, "x", infer_target(MODEL))).status == 200
        out = tmp_path / "x.capture"
        command = [*BARTIZAN, "record", recorder.endpoint()["name"], "--out", out, "--rows", "60"]
        admin = ["--admin", f"http://127.0.0.1:{guard.admin_port}", "--for", "60s", "--json"]
        done = subprocess.run(
            [*map(str, command), *admin], capture_output=True, timeout=90, check=False
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        sample = Sample.decode(out.read_bytes())
        assert told["seen"] == told["recorded"] == len(sample) == 60
        assert len(np.unique(sample.rows[:, 0])) == 60
        assert len(np.unique(sample.clients)) == 1  # one client, whichever worker it came to
    finally:
        server.stop()
