"""What a real gateway recorded is replayed by the command: every decision comes out equal."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from judging_server import MODEL
from test_answers import Model, ask

from loadtest.process import BARTIZAN
from loadtest.wire import Session, render_request


@pytest.fixture
def model(tmp_path, judged, free_port):
    one = Model(tmp_path, judged, free_port())
    yield one
    one.process.stop()


def probes(one, start, goal):
    """A client that walks along the line between two rows."""
    for along in np.linspace(0.4, 0.6, 60):
        ask(one, start + along * (goal - start))


def others(one, judged):
    """Honest rows, lies, rows of which a second opinion is heard, outliers, and what cannot be
    read; more rows than the quota has."""
    for row in judged["plain"][:30]:
        ask(one, row)
    for row in judged["foul"][:5]:
        ask(one, row, "lie")
    for row in judged["doubtful"][:10]:
        ask(one, row, "lie")
    ask(one, np.full(64, 1e3, np.float32))
    ask(one, np.tile(judged["rest"], (2, 1)))  # beyond what is inspected on the loop
    for how in ("nan", "truncated", "labels", "error", "gzip"):
        ask(one, judged["plain"][0], how)
    with Session(one.address) as session:
        target = f"/v2/models/{MODEL}/infer"
        session.exchange(render_request("POST", target, "localhost", body=b'{"inputs": ['))
    with Session(one.address) as session:
        session.exchange(render_request("GET", "/v2/nowhere", "localhost"))
    for row in judged["plain"][:40]:
        ask(one, row)


def test_every_decision_of_a_recorded_run_comes_out_equal(gateway, model, judged):
    endpoint = {
        "name": MODEL,
        "match": f"/v2/models/{MODEL}",
        "upstream": f"http://127.0.0.1:{model.port}",
        "bundle": str(judged["folder"] / "digits.bundle"),
        "second_opinion": {"when": "suspicious", "share": 1.0},
        "limits": {"rows_per_request": 500, "rows_per_second": 4, "burst_rows": 500},
    }
    one = gateway([endpoint], audit={"replay": True})
    with ThreadPoolExecutor(2) as both:
        list(
            both.map(
                lambda work: work(),
                (
                    lambda: others(one, judged),
                    lambda: probes(one, judged["plain"][0], judged["plain"][1]),
                ),
            )
        )
    one.stop()
    changed = f"endpoints.{MODEL}.mode=monitor"
    arguments = [str(one.audit), "--configuration", str(one.configuration), "--set", changed]
    done = subprocess.run(
        [*BARTIZAN, "replay", *arguments, "--json"], capture_output=True, check=False, timeout=120
    )
    told = json.loads(done.stdout)
    assert done.returncode == 0, told["differences"]
    assert told["notes"] == [] and told["unequal"] == 0
    assert told["equal"] == told["played"] == len(one.records()) - 1
    assert told["as_recorded"] == {"it was refused before it was read": 1}
    rules = {reason["rule"] for record in one.records() for reason in record["reasons"]}
    assert {"BZ-112", "BZ-120", "BZ-300", "BZ-400", "BZ-601"} <= rules
    assert (
        told["what_if"]["newly_passed"]["exchanges"] == 0
    )  # monitored, they are found all the same
