"""Servers in this process that an abuse driver is let loose on, each good or bad in one way."""

import asyncio
import threading
from contextlib import contextmanager

import numpy as np
from httptools import HttpParserError, HttpRequestParser

from loadtest.drivers.base import Means, Spent
from loadtest.payloads import infer_binary, infer_json
from loadtest.wire import render_request
from proxy.build_codecs import Bounds, codec, spoken
from proxy.protocols.contract import Contract
from proxy.settings.protocols import V2

TARGET = "/v2/models/m/infer"
WIDTH = 4
OK = b'{"model_name":"m","outputs":[]}'


class Server(asyncio.Protocol):
    """A server of one connection: answers 400 to what llhttp refuses, else what ``answer`` says."""

    def __init__(self, answer):
        self._answer = answer
        self._parser = HttpRequestParser(self)
        self._body = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self.reply(400)
            self.transport.close()
        except Exception:  # upgrades; whatever it is, the connection is over
            self.transport.close()

    def on_message_begin(self):
        self._body = b""

    def on_body(self, piece):
        self._body += piece

    def on_message_complete(self):
        self._answer(self, self._body)

    def reply(self, status, body=OK):
        head = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
        self.transport.write(head + body)


@contextmanager
def served(answer, *, make=Server):
    """Serves in a thread of its own; yields the address, and what stops listening."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(lambda: make(answer), "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname(), lambda: loop.call_soon(server.close)
    finally:

        async def end():
            server.close()
            for transport in [*getattr(loop, "_transports", {}).values()]:
                transport.abort()

        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


class Wire:
    """``Raw`` by hand: version 2 at an address."""

    tls = None
    server_name = ""

    def __init__(self, address, *, binary=False):
        self.address = address
        tensor = {"name": "input", "datatype": "FP32", "shape": (-1, WIDTH)}
        (place,) = spoken(V2(), "/v2/models/m")
        self.codec = codec(place, Contract.from_config([tensor]), Bounds())
        self._binary = binary

    def source(self, client):
        return ""

    def request(self, rows, client):
        headers = [("X-Client", client)]
        if not self._binary:
            headers.append(("Content-Type", "application/json"))
            return render_request("POST", TARGET, "h", infer_json(rows), headers)
        body, length = infer_binary(rows)
        headers += [
            ("Content-Type", "application/octet-stream"),
            ("Inference-Header-Content-Length", str(length)),
        ]
        return render_request("POST", TARGET, "h", body, headers)


class Counted:
    """What of ``Asked`` an abuse driver uses."""

    name, features, classes = "direct", WIDTH, 2

    def __init__(self, raw, budget=10**6):
        self.raw = raw
        self.queries = 0
        self._budget = budget

    def count(self, said):
        if self.queries >= self._budget:
            raise Spent
        self.queries += 1


def means(**knobs):
    rows = np.linspace(0, 1, 5 * WIDTH, dtype=np.float32).reshape(5, WIDTH)
    low, high = np.zeros(WIDTH, np.float32), np.ones(WIDTH, np.float32)
    return Means(rows, low, high, rows, ["mallory", "alice"], 10**6, 1, 7, knobs=knobs)
