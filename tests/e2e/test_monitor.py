"""Monitor mode: the same decisions, recorded, and nothing that a client can see."""

import numpy as np
import pytest
from traffic import ask, request_of

from loadtest.payloads import infer_request, infer_target

TARGET = infer_target("digits")


def scored_requests(images):
    """Honest rows, outliers, and more rows than the limits allow."""
    draw = np.random.default_rng(5)
    honest = [images[n : n + 1 + n % 3] for n in range(20)]
    noise = [draw.uniform(0, 16, (1, 64)) for _ in range(20)]
    return [
        infer_request(rows.astype(np.float32), "localhost", TARGET, request_id=f"r{n}")
        for n, rows in enumerate(honest + noise)
    ] + [request_of("many", rows=40)]


def visible(answer):
    """What a client sees, but for the id under which it is recorded."""
    headers = {k: v for k, v in answer.headers.items() if k not in ("x-request-id", "date")}
    return answer.status, headers, answer.body


@pytest.fixture
def guards(recorder, gateway, digits_bundle):
    """The same firewall twice: enforcing, and monitoring."""
    limits = {"rows_per_second": 1, "burst_rows": 40, "rows_per_request": 30}
    keys = {"bundle": str(digits_bundle), "limits": limits}
    return (
        gateway([recorder.endpoint(mode="enforce", **keys)]),
        gateway([recorder.endpoint(mode="monitor", **keys)]),
        gateway([recorder.endpoint()]),
    )


def test_monitoring_changes_nothing_that_a_client_sees(guards, images):
    enforcing, monitoring, open_guard = guards
    requests = scored_requests(images)
    refused = [ask(enforcing.address, request).status for request in requests]
    seen = [visible(ask(monitoring.address, request)) for request in requests]
    assert seen == [visible(ask(open_guard.address, request)) for request in requests]
    assert {status for status, _, _ in seen} == {200}
    assert {403, 413, 429} <= set(refused)

    assert monitoring.stop() == 0
    records = [record for record in monitoring.records() if record["method"] == "POST"]
    assert len(records) == len(requests)
    assert all(record["enforced"] == "allow" for record in records)
    would = [record["would_block"] for record in records]
    # Judged one by one, apart from the quota's clock: what was refused there would have been here.
    assert would[20:40] == [True] * 20
    assert would[40]


def test_would_block_is_counted(guards, images):
    _, monitoring, _ = guards
    for request in scored_requests(images)[20:30]:
        assert ask(monitoring.address, request).status == 200
    assert monitoring.metric("bartizan_would_block_total") == 10
    assert monitoring.metric("bartizan_requests_total", enforced="block") == 0
