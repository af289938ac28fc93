"""Seeded mutations of requests, in memory: accept or refuse, nothing else, and the upstream sees
nothing that was not built here. ``pytest tests/proxy/http/test_mutations.py --mutations N`` does N.
"""

from __future__ import annotations

import base64
import json
import re
from random import Random

import pytest
from in_memory import World, answer
from mutations import SEEDS, cut, mutate
from on_loopback import split_requests

from proxy.decision import ALLOWED, Permit, UpstreamRequest
from proxy.http.address import Address
from proxy.http.upstream import Pool

SLICES = 10
_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) [^\r\n]*\r\n")


class Upstream:
    """Answers whatever was sent on the connections of a pool, at once."""

    def __init__(self, world):
        self.world = world
        self.received = []

    def serve(self):
        served = True
        while served:
            served = False
            for transport in self.world.dialer.transports:
                if transport.written:
                    requests, rest = split_requests(transport.take())
                    assert (len(requests), rest) == (1, b"")
                    self.received += requests
                    transport.feed(answer(b"model"))
                    served = True


@pytest.fixture(scope="module")
def seeds(pytestconfig):
    path = pytestconfig.rootpath.parent / "shared" / "vectors" / "http_requests.json"
    if not path.exists():
        return SEEDS
    cases = [base64.b64decode(case["b64"]) for case in json.loads(path.read_text())]
    return SEEDS * 50 + tuple(data for data in cases if len(data) < 2000)


@pytest.mark.parametrize("part", range(SLICES))
async def test_mutations(pytestconfig, seeds, part):
    count = pytestconfig.getoption("--mutations") // SLICES
    random = Random(f"mutations {part}")
    world = World()
    world.pool = world.application.pool = Pool(
        [Address.parse("http://model0")], clock=world.clock, dial=world.dialer
    )
    upstream = Upstream(world)
    built = []

    async def forward(exchange):
        target = b"/built/%d" % len(built)
        built.append(
            b"POST %b HTTP/1.1\r\nhost: model0\r\ncontent-length: %d\r\n\r\n%b"
            % (target, len(exchange.body), exchange.body)
        )
        permit = Permit(ALLOWED, UpstreamRequest(b"POST", target, b"", exchange.body))
        await exchange.relay(await world.pool.send(permit))

    application = world.application
    application.handler = forward
    accepted = refused = 0
    for _ in range(count):
        data = mutate(random, seeds)
        application.handled.clear()
        application.opened.clear()
        application.refused.clear()
        client = world.connect()
        for segment in cut(random, data):
            client.feed(segment)
            upstream.serve()
        client.feed_eof()
        if not world.dialer.transports:
            await world.settle()  # the first connection is opened
        upstream.serve()
        assert application.raised == [], data
        statuses = [int(status) for status in _STATUS.findall(client.take())]
        final = [status for status in statuses if status != 100]
        good, bad = len(application.handled), len(application.refused)
        assert bad <= 1, data
        assert final[:good] == [200] * good, data
        assert len(final) == good + bad, data
        assert all(400 <= status < 500 for status in final[good:]), data
        accepted += good
        refused += bad
        client.lose()
    assert upstream.received == built
    assert world.listener.connections == set()
    assert accepted > count // 10
    assert refused > count // 10
