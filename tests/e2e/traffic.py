"""Requests to the recorder's model, one by one and as a load that accounts for every one."""

import contextlib
import socket
import threading
from dataclasses import dataclass

import numpy as np
import orjson
from recorder import FEATURES, MODEL

from loadtest.payloads import infer_request, infer_target
from loadtest.wire import Response, Session, parse_response, response_end


def request_of(identifier="", rows=1, value=0.5, **keywords):
    """The bytes of one inference; see ``recording_server.py`` for what an id asks of it."""
    tensor = np.full((rows, FEATURES), value, np.float32)
    return infer_request(
        tensor, "localhost", infer_target(MODEL), request_id=identifier, **keywords
    )


def ask(address, request) -> Response:
    """One exchange on a connection of its own."""
    with Session(address) as session:
        return session.exchange(request)


def exchange(connection: socket.socket, request: bytes) -> Response:
    """One exchange on a connection of any kind."""
    connection.sendall(request)
    data = b""
    while True:
        got = connection.recv(1 << 16)
        if not got:
            raise ConnectionResetError("connection ended before the answer")
        data += got
        _, end = response_end(data)
        if end >= 0:
            return parse_response(data[:end])


@dataclass(frozen=True)
class Outcome:
    """One request: what it carried, and how it ended."""

    identifier: str
    status: int = 0
    request_id: str = ""
    failure: str = ""


class Traffic:
    """Blocking clients, each with one keep-alive connection, that send until ``total`` are sent.

    A client connects as a load balancer would: only while the firewall says that it is ready, and a
    connection that cannot be made is no failure, since nothing was sent. Whatever was sent on a
    connection that was made must be answered, and answered with its own id.
    """

    def __init__(self, guard, total, clients=8):
        self._guard = guard
        self._left = total
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._enough = threading.Event()
        self.outcomes = []
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(clients)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop()
        self.join()

    def stop(self):
        """Sends no more."""
        self._enough.set()

    def join(self):
        """Waits until all is sent and answered."""
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), "a request hangs"

    def wait_for(self, count):
        """Waits until ``count`` requests have ended."""
        with self._ended:
            assert self._ended.wait_for(lambda: len(self.outcomes) >= count, 120), "it stalls"

    @property
    def failures(self):
        """The requests that were sent and not answered with 200 and their own id."""
        return [outcome for outcome in self.outcomes if outcome.failure or outcome.status != 200]

    def _run(self, number):
        connection = None
        turn = 0
        while self._take():
            turn += 1
            connection = connection or self._connect()
            if connection is None:
                break
            outcome, alive = self._send(connection, f"client-{number}-{turn}")
            if not alive:
                connection.close()
                connection = None
            with self._ended:
                self.outcomes.append(outcome)
                self._ended.notify_all()
        if connection is not None:
            connection.close()

    def _take(self):
        with self._lock:
            self._left -= 1
            return self._left >= 0 and not self._enough.is_set()

    def _connect(self):
        while not self._enough.wait(0.005):
            if self._guard.ready():
                with contextlib.suppress(ConnectionRefusedError):
                    connection = socket.create_connection(self._guard.address, 30)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return connection
        return None

    @staticmethod
    def _send(connection, identifier):
        """What became of one request, and whether another may follow on the connection."""
        try:
            answer = exchange(connection, request_of(identifier))
        except (OSError, ValueError) as error:
            return Outcome(identifier, failure=repr(error)), False
        alive = answer.headers.get("connection") != "close"
        if answer.status == 200 and orjson.loads(answer.body).get("id") != identifier:
            return Outcome(identifier, failure=f"another's answer: {answer.body!r}"), False
        name = answer.headers.get("x-request-id", "")
        return Outcome(identifier, answer.status, name), alive
