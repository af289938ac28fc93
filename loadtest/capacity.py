"""A model server of a known capacity: so many requests at once, so long each, the rest in a queue
that has no end. It answers as ``loadtest.echo`` does.

Run as ``python -m loadtest.capacity --places 4 --seconds 0.02 --model f64=64``.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import deque
from typing import cast

from loadtest.echo import CANNED, pages
from loadtest.serving import serve
from loadtest.wire import body_span

_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class Places:
    """Those who serve, and those who wait for them.

    Args:
        count: requests that are served at once.
        seconds: that each of them takes.
    """

    def __init__(self, count: int, seconds: float) -> None:
        self._free = count
        self._seconds = seconds
        self._waiting: deque[asyncio.WriteTransport] = deque()

    def take(self, transport: asyncio.WriteTransport) -> None:
        """A request came."""
        if self._free:
            self._free -= 1
            self._begin(transport)
        else:
            self._waiting.append(transport)

    def _begin(self, transport: asyncio.WriteTransport) -> None:
        asyncio.get_running_loop().call_later(self._seconds, self._end, transport)

    def _end(self, transport: asyncio.WriteTransport) -> None:
        transport.write(CANNED)
        if self._waiting:
            self._begin(self._waiting.popleft())
        else:
            self._free += 1


class _Connection(asyncio.Protocol):
    """One request at a time, as a gateway's connection has them."""

    def __init__(self, places: Places, table: dict[bytes, bytes]) -> None:
        self._places = places
        self._table = table
        self._pending = b""
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        data = self._pending + data
        head_end = data.find(b"\r\n\r\n")
        end = body_span(data, head_end)[1] if head_end >= 0 else -1
        if end < 0:
            self._pending = data
            return
        self._pending = data[end:]
        if data.startswith(b"POST "):
            self._places.take(self._transport)
        else:
            target = data[: data.index(b"\r\n")].split(b" ", 2)[1]
            self._transport.write(self._table.get(target, _NOT_FOUND))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="loadtest.capacity", description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--model", action="append", required=True, metavar="NAME=D")
    parser.add_argument("--places", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=0.02)
    options = parser.parse_args(arguments)
    models = {name: int(d) for name, _, d in (text.partition("=") for text in options.model)}
    table = pages(models)

    def connection() -> _Connection:
        return _Connection(places, table)

    places = Places(options.places, options.seconds)
    serve(options.listen, connection)


if __name__ == "__main__":
    main()
