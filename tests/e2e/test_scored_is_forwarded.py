"""The model gets the bytes that were scored: SHA-256 on both sides, for all that passes."""

import gzip
import hashlib
import json
import sys

import numpy as np
import pytest
from recorder import FEATURES, MODEL

from loadtest.payloads import infer_binary, infer_json, infer_target
from loadtest.process import Process
from loadtest.wire import Session, render_request

REQUESTS = 400


@pytest.fixture
def echo(tmp_path):
    """A model server that answers the SHA-256 of the tensors that it got."""
    command = [sys.executable, "-m", "loadtest.echo", "--digest", "--model", f"{MODEL}={FEATURES}"]
    process = Process("echo", command, tmp_path / "echo.log")
    yield "{}:{}".format(*process.wait_for_line())
    process.stop()


def bodies(images):
    """Honest images, and numbers that two readers could round differently; several forms."""
    random = np.random.default_rng(11)
    for number in range(REQUESTS):
        rows = images[random.integers(len(images), size=1 + number % 4)].astype(np.float32)
        if number % 3 == 0:
            rows = rows * random.uniform(0.99, 1.01, rows.shape).astype(np.float32)
        if number % 5 == 0:
            rows[0, 0] = np.float32(7.038531e-26)
        if number % 2:
            body, length = infer_binary(rows)
            yield body, [("Inference-Header-Content-Length", str(length))]
        elif number % 8 == 0:
            yield gzip.compress(infer_json(rows)), [("Content-Encoding", "gzip")]
        elif number % 8 == 2:
            tensor = {"name": "input", "datatype": "FP32", "shape": list(rows.shape)}
            nested = {"inputs": [{**tensor, "data": rows.astype(np.float64).tolist()}]}
            yield json.dumps(nested, indent=1).encode(), []
        else:
            yield infer_json(rows), []


def test_what_was_scored_is_what_the_model_got(echo, gateway, digits_bundle, images):
    guard = gateway(
        [
            {
                "name": MODEL,
                "match": f"/v2/models/{MODEL}",
                "upstream": f"http://{echo}",
                "bundle": str(digits_bundle),
            }
        ],
        audit={"values": True, "payload_digest": True},
    )
    answers = {}
    with Session(guard.address) as session:
        for body, headers in bodies(images):
            request = render_request("POST", infer_target(MODEL), "localhost", body, headers)
            answer = session.exchange(request)
            if answer.status == 200:
                outputs = json.loads(answer.body)["outputs"]
                digests = {output["name"]: output["data"][0] for output in outputs}
                answers[answer.headers["x-request-id"]] = digests
            else:
                assert answer.status == 403, "an honest image may be flagged, within the budget"
    assert guard.stop() == 0
    assert len(answers) > 0.9 * REQUESTS
    records = {record["id"]: record for record in guard.records() if record["type"] == "exchange"}
    for identifier, digests in answers.items():
        record = records[identifier]
        assert record["score"] is not None
        scored = np.array(record["notes"]["values"], np.float64).astype("<f4")
        assert hashlib.sha256(scored.tobytes()).hexdigest() == digests["tensor_sha256"]
        assert record["notes"]["sha256"] == digests["body_sha256"]
