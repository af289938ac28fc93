"""A model server of any protocol over HTTP: it records what it is sent, and answers as told."""

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Seen:
    """One request, as it came."""

    method: str
    target: str
    headers: list
    body: bytes = field(repr=False)

    def get(self, name):
        """The values of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


class ScriptedUpstream:
    """Runs in a thread of the test.

    Attributes:
        seen: requests other than GET, oldest first.
        pages: what GET answers, by target: bytes, or a status.
        status, content_type, body: what any other request is answered with; ``body`` may be a
            function of what was seen.
    """

    def __init__(self):
        self.seen = []
        self.pages = {}
        self.status, self.content_type, self.body = 200, "application/json", b'{"ok":true}'
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                page = upstream.pages.get(self.path, 404)
                status, body = (page, b"{}") if isinstance(page, int) else (200, page)
                self._answer(status, "application/json", body)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                seen = Seen(self.command, self.path, self.headers.items(), body)
                upstream.seen.append(seen)
                body = upstream.body(seen) if callable(upstream.body) else upstream.body
                self._answer(upstream.status, upstream.content_type, body)

            def _answer(self, status, content_type, body):
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def handle(self):
                with suppress(ConnectionError):
                    super().handle()

            def log_message(self, *words):
                """Says nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self):
        """As an endpoint's ``upstream``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def taken(self):
        """What was recorded since the last time."""
        seen, self.seen = self.seen, []
        return seen

    def stop(self):
        """Ends it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
