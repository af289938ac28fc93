"""Requests that other parsers' test suites and smugglers are made of, on real sockets: whatever
they are, the upstream sees nothing that was not built here, byte for byte.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re

import pytest
from in_memory import World, echo, post
from on_loopback import site

from proxy.decision import ALLOWED, Permit, UpstreamRequest

VECTORS = 571
SLICES = 8  # the vectors are shared out so that a failure says where to look

_ANSWERS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")


def vectors(shared, part):
    cases = json.loads(shared("vectors/http_requests.json").read_text())
    assert len(cases) == VECTORS
    return cases[part::SLICES]


class Forwarding:
    """Forwards whatever was accepted, and remembers what it built."""

    def __init__(self, running):
        self.running = running
        self.built = []
        port = running.upstream.server.sockets[0].getsockname()[1]
        self.host = b"127.0.0.1:%d" % port

    async def __call__(self, exchange):
        number = len(self.built)
        target = b"/built/%d" % number
        self.built.append(
            b"POST %b HTTP/1.1\r\nhost: %b\r\nx-number: %d\r\ncontent-length: %d\r\n\r\n%b"
            % (target, self.host, number, len(exchange.body), exchange.body)
        )
        request = UpstreamRequest(b"POST", target, b"x-number: %d\r\n" % number, exchange.body)
        await exchange.relay(await self.running.application.pool.send(Permit(ALLOWED, request)))


def check(running, forwarding, answers):
    """What the upstream received is what was built, and the client got an answer to each."""
    received = [connection.received for connection in running.upstream.connections]
    assert sorted(running.upstream.requests) == sorted(forwarding.built)
    assert sum(map(len, received)) == sum(map(len, forwarding.built))
    for read, handled, refused in answers:
        statuses = [int(status) for status in _ANSWERS.findall(read)]
        assert len(statuses) == handled + refused, read
        assert statuses[:handled] == [200] * handled, read
        assert all(400 <= status < 500 for status in statuses[handled:]), read
        assert refused <= 1


@pytest.mark.parametrize("part", range(SLICES))
@pytest.mark.parametrize("how", ["whole", "byte by byte", "with more behind"])
async def test_vectors(shared, part, how):
    cases = vectors(shared, part)
    async with site() as running:
        application = running.application
        application.handler = forwarding = Forwarding(running)
        answers = []
        for case in cases:
            data = base64.b64decode(case["b64"])
            if how == "with more behind":
                data += post(b"behind") + b"GET /v2 HTTP/1.1\r\n"
            before = len(application.handled), len(application.refused)
            read = await running.talk(data, step=how == "byte by byte")
            answers.append(
                (
                    read,
                    len(application.handled) - before[0],
                    len(application.refused) - before[1],
                )
            )
            if data.strip(b"\r\n"):
                assert answers[-1][1:] != (0, 0), case["id"]
        check(running, forwarding, answers)
        assert application.raised == []
    assert len(answers) == len(cases) >= VECTORS // SLICES


async def test_the_check_itself_sees_a_smuggled_request():
    async with site() as running:
        running.application.handler = forwarding = Forwarding(running)
        read = await running.talk(post(b"1"))
        check(running, forwarding, [(read, 1, 0)])
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", running.upstream.server.sockets[0].getsockname()[1]
        )
        writer.write(b"GET /smuggled HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        with pytest.raises(AssertionError):
            check(running, forwarding, [(read, 1, 0)])


async def test_segments_make_no_difference(shared):
    """Whole and byte by byte, in memory, where a segment is a segment."""
    cases = json.loads(shared("vectors/http_requests.json").read_text())
    world = World()
    world.application.handler = echo
    for case in cases:
        data = base64.b64decode(case["b64"]) + post(b"behind")
        reads = []
        for step in (len(data), 1):
            client = world.connect()
            for start in range(0, len(data), step):
                client.feed(data[start : start + step])
            client.feed_eof()
            reads.append(client.take().replace(b"HTTP/1.1 100 Continue\r\n\r\n", b""))
            client.lose()
        assert reads[0] == reads[1], case["id"]
    assert len(cases) == VECTORS
