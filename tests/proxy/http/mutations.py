"""Seeded mutations of well-formed and ill-formed requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

SEEDS = (
    b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    b"Content-Length: 5\r\n\r\nhello",
    b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n3;a=b\r\nabc\r\n0\r\n\r\n",
    b"GET /v2/health/ready HTTP/1.1\r\nHost: a.example:8080\r\nAccept: */*\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    b"POST /a HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
)

TOKENS = (
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\0",
    b":",
    b",",
    b";",
    b"_",
    b"\xff",
    b"0",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n",
    b"content-length: 44\r\n",
    b"Content_Length: 9\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
    b"transfer-encoding: xchunked\r\n",
    b"Connection: close\r\n",
    b"Connection: content-length\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"Host: b\r\n",
    b" folded\r\n",
    b"Trailer: x\r\n",
    b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /smuggled HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/0.9",
    b"CONNECT",
    b"HEAD",
)


def mutate(random: Random, seeds: Sequence[bytes]) -> bytes:
    """One to three requests, spoilt in one to four places."""
    data = bytearray(b"".join(random.choice(seeds) for _ in range(random.randint(1, 3))))
    for _ in range(random.randint(1, 4)):
        where = random.randrange(len(data) + 1)
        what = random.randrange(6)
        if what == 0:
            data[where:where] = random.choice(TOKENS)
        elif what == 1:
            data[where : where + random.randint(1, 4)] = random.choice(TOKENS)
        elif what == 2:
            del data[where : where + random.randint(1, 12)]
        elif what == 3:
            data[where:where] = data[max(0, where - random.randint(1, 40)) : where]
        elif what == 4 and where < len(data):
            data[where] = random.randrange(256)
        elif (line := data.find(b"\r\n", where)) >= 0:
            data[line + 2 : line + 2] = random.choice(TOKENS)
    return bytes(data)


def cut(random: Random, data: bytes) -> Iterator[bytes]:
    """The data in one to four segments."""
    ends = sorted(random.randrange(len(data) + 1) for _ in range(random.randint(0, 3)))
    start = 0
    for end in [*ends, len(data)]:
        if end > start:
            yield data[start:end]
        start = end
