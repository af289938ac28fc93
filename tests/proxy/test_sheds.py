"""What was shed: counted, refused in the protocol's words, and told once a second."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import Executor, Future

import pytest
from test_pipeline import HONEST, PEER, TARGET, World, body_of

from proxy import rules
from proxy.http.application import Shed
from proxy.http.messages import Head
from proxy.sheds import Sheds
from proxy.telemetry.exchanges import EndpointMetrics

LARGE = body_of([[1, 2, 3, 4]] * 5000)


class Threads(Executor):
    """Runs nothing until it is told to."""

    def __init__(self):
        self.waiting = []

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        self.waiting.append((future, fn, args))
        return future

    def run(self):
        future, fn, args = self.waiting.pop(0)
        future.set_result(fn(*args))


class Told:
    """An audit log that keeps its events."""

    def __init__(self):
        self.events = []

    def event(self, kind, /, **fields):
        self.events.append((kind, fields))


def head(target=TARGET, method="POST", length=100):
    return Head(method, target, {b"content-length": b"%d" % length}, True)


@pytest.fixture
def threads():
    return Threads()


@pytest.fixture
def one(threads):
    made = World(threads)
    made.pipeline.sheds = Sheds(Told())
    return made


async def test_events_of_the_audit_log_add_up_to_the_metrics():
    told = Told()
    sheds = Sheds(told)
    first, second = EndpointMetrics(), EndpointMetrics()
    for count in range(7):
        sheds.count("a", rules.BUSY, first)
        if count % 2:
            sheds.count("b", rules.UPSTREAM_QUEUE, second)
    sheds.tell()
    sheds.count("a", rules.BUSY, first)
    sheds.tell()
    sheds.tell()
    assert told.events == [
        ("shed", {"endpoint": "a", "rule": "BZ-134", "requests": 7}),
        ("shed", {"endpoint": "b", "rule": "BZ-133", "requests": 3}),
        ("shed", {"endpoint": "a", "rule": "BZ-134", "requests": 1}),
    ]
    assert first.sheds == {"BZ-134": 8}
    assert second.sheds == {"BZ-133": 3}


async def test_one_timer_tells_of_all(monkeypatch):
    loop, later = asyncio.get_running_loop(), []
    told = Told()
    sheds = Sheds(told)
    monkeypatch.setattr(loop, "call_later", lambda *given: later.append(given), raising=False)
    for _ in range(1000):
        sheds.count("a", rules.BUSY, EndpointMetrics())
    ((seconds, tell),) = later
    assert seconds == 1.0
    tell()
    assert len(told.events) == 1


async def test_a_crowded_model_server_sheds_inferences_before_anybody_is_known(one):
    one.pool.crowded = True
    with pytest.raises(Shed) as caught:
        one.pipeline.open(head(), PEER)
    reply = caught.value.reply
    assert (reply.status, caught.value.rule) == (503, rules.UPSTREAM_QUEUE)
    assert json.loads(reply.body) == {"error": "model server is busy"}
    assert (b"retry-after", b"1") in reply.headers
    assert one.endpoint.metrics.sheds == {"BZ-133": 1}
    assert one.audit.records == []
    one.pipeline.open(head("/v2/models/m/ready", "GET"), PEER)
    one.pipeline.open(head("/v2/models/m", "GET"), PEER)


async def test_an_overloaded_process_sheds_all_but_what_asks_how_it_does(one):
    assert one.pipeline.shed(head()).status == 503
    assert one.pipeline.shed(head("/v2/health/live", "GET")) is None
    assert one.pipeline.shed(head("/v2/models/m", "GET")) is None
    assert one.pipeline.shed(head("/no/such/path")).status == 503, "a flood of these is one, too"
    assert one.endpoint.metrics.sheds == {"BZ-134": 1}
    assert one.metrics.unrouted.sheds == {"BZ-134": 1}


async def test_a_shed_reply_is_made_once(one):
    assert one.pipeline.shed(head()) is one.pipeline.shed(head())


async def test_monitor_mode_is_protected_as_well(threads):
    made = World(threads, mode="monitor")
    made.pipeline.sheds = Sheds(Told())
    made.pool.crowded = True
    with pytest.raises(Shed):
        made.pipeline.open(head(), PEER)


async def test_large_requests_are_shed_at_their_head_while_too_many_wait(one, threads):
    under_way = []
    for _ in range(100):
        try:
            one.pipeline.open(head(length=len(LARGE)), PEER)
        except Shed as shed:
            assert shed.rule is rules.BUSY
            break
        under_way.append(asyncio.ensure_future(one.ask(LARGE)))
        await asyncio.sleep(0)
    else:
        pytest.fail("nothing bounds the wait")
    assert len(under_way) >= 2, "as many as there are threads never wait"
    one.pipeline.open(head(), PEER)
    while threads.waiting:
        threads.run()
        await asyncio.sleep(0)
    for task in under_way:
        task.cancel()
    await asyncio.gather(*under_way, return_exceptions=True)


async def test_small_requests_are_answered_meanwhile(one):
    one.pipeline._requests._waiting = 10**6
    with pytest.raises(Shed):
        one.pipeline.open(head(length=len(LARGE)), PEER)
    with pytest.raises(Shed):
        coded = {b"content-length": b"10", b"content-encoding": b"gzip"}
        one.pipeline.open(Head("POST", TARGET, coded, True), PEER)
    assert (await one.ask(HONEST)).status == 200
    assert (await one.ask(LARGE)).status == 503, "nor if its head did not tell"


async def test_heads_that_are_refused_unread_keep_no_large_request_out(one):
    limit = one.endpoint.body_limit
    one.pipeline._requests._clock = lambda: 0.0  # all of them at once
    for _ in range(1000):
        assert one.pipeline.open(head(length=limit + 1), PEER).body_limit == limit
    one.pipeline.open(head(length=limit), PEER)
    with pytest.raises(Shed):
        for _ in range(1000):
            one.pipeline.open(head(length=limit), PEER)
