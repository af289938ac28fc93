"""Requests to the recorder's model, one by one and as a load that accounts for every one."""

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

    A connection that cannot be made is no failure: nothing was sent, and the client tries again.
    Whatever was sent on a connection that was made must be answered, and answered with its own id.
    """

    def __init__(self, address, total, clients=8):
        self._address = address
        self._left = total
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
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
        self._enough.set()
        self.join()

    def join(self):
        """Waits until all is sent and answered."""
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), "a request hangs"

    def stop(self):
        """Sends no more."""
        self._enough.set()

    def wait_for(self, count):
        """Waits until ``count`` requests have ended."""
        with self._wake:
            assert self._wake.wait_for(lambda: len(self.outcomes) >= count, 120), "it stalls"

    @property
    def failures(self):
        """The requests that were sent and not answered with 200 and their own id."""
        return [outcome for outcome in self.outcomes if outcome.failure or outcome.status != 200]

    def _take(self):
        with self._lock:
            self._left -= 1
            return self._left >= 0 and not self._enough.is_set()

    def _run(self, number):
        turn = 0
        with Session(self._address) as session:
            while self._take():
                turn += 1
                outcome = None
                while outcome is None and not self._enough.is_set():
                    outcome = self._try(session, f"client-{number}-{turn}")
                if outcome is not None:
                    with self._wake:
                        self.outcomes.append(outcome)
                        self._wake.notify_all()

    def _try(self, session, identifier):
        try:
            answer = session.exchange(request_of(identifier))
        except ConnectionRefusedError:
            self._enough.wait(0.005)
            return None
        except (OSError, ValueError) as error:
            return Outcome(identifier, failure=repr(error))
        if answer.status == 200 and orjson.loads(answer.body).get("id") != identifier:
            return Outcome(identifier, failure=f"another's answer: {answer.body!r}")
        return Outcome(identifier, answer.status, answer.headers.get("x-request-id", ""))
