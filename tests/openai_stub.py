"""A server of OpenAI's API in the test's own process, which answers as each test says."""

import base64
import json
import socketserver
import threading
from dataclasses import dataclass

import numpy as np

SECONDS = 20.0


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    path: str
    headers: dict
    body: bytes

    @property
    def document(self):
        return json.loads(self.body)


class Line:
    """The connection of one request: how it is answered."""

    def __init__(self, connection):
        self._connection = connection

    def send(self, data):
        self._connection.sendall(data)

    def whole(self, body, status=200, kind="application/json"):
        """A complete answer."""
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"HTTP/1.1 {status} Stub\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}"
        self.send(head.encode() + b"\r\n\r\n" + body)

    def stream(self):
        """The head of a stream of events."""
        self.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )

    def piece(self, data):
        """One chunk of it."""
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self):
        """Its end."""
        self.send(b"0\r\n\r\n")

    def cut(self):
        """The connection ends here."""
        raise ConnectionAbortedError

    def is_left(self):
        """Waits until the other end has closed the connection; False if it does not."""
        self._connection.settimeout(SECONDS)
        try:
            return not self._connection.recv(1)
        except ConnectionError:
            return True
        except TimeoutError:
            return False


class OpenAIStub:
    """Listens from the start; ``script(asked, line)`` answers each request.

    Attributes:
        seen: the requests so far.
    """

    def __init__(self, script):
        self.script = script
        self.seen = []
        stub = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                while (asked := self.read()) is not None:
                    stub.seen.append(asked)
                    try:
                        stub.script(asked, Line(self.connection))
                    except OSError:
                        return

            def read(self):
                try:
                    first = self.rfile.readline().decode()
                    headers = {}
                    while line := self.rfile.readline().decode().strip():
                        name, _, value = line.partition(":")
                        headers[name.lower()] = value.strip()
                    body = self.rfile.read(int(headers.get("content-length", 0)))
                except (OSError, ValueError):
                    return None
                return Asked(first.split()[1], headers, body) if first else None

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            block_on_close = False
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def endpoint(self, protocol=None, **keys):
        """A configuration's endpoint that leads here."""
        return {
            "name": "texts",
            "match": "/v1",
            "upstream": f"http://127.0.0.1:{self.port}",
            "protocol": {"name": "openai", **(protocol or {})},
            **keys,
        }


def chunk(text=None, **fields):
    """One event of a stream, as most servers write it."""
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}}]
    told = {"id": "c-1", "object": "chat.completion.chunk", "choices": choices, **fields}
    return b"data: " + json.dumps(told).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def usage(total):
    return {"prompt_tokens": 1, "completion_tokens": total - 1, "total_tokens": total}


def completion(text="Hello.", total=None, **fields):
    """A whole answer to a conversation."""
    message = {"role": "assistant", "content": text}
    told = {"id": "c-1", "object": "chat.completion", "model": "m"}
    told["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {**told, **({} if total is None else {"usage": usage(total)}), **fields}


def embeddings(vectors, *, packed, total=2):
    """An answer with embeddings, as floats or as base64."""
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(np.asarray(row, "<f4").tobytes()).decode()
            if packed
            else np.asarray(row, "<f4").astype(float).tolist(),
        }
        for index, row in enumerate(vectors)
    ]
    return {"object": "list", "data": data, "model": "m", "usage": usage(total)}
