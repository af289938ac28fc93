"""The admin listener as the command line asks it: one request, one JSON answer."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection, IncompleteRead
from typing import Any, Final
from urllib.parse import urlencode

import orjson

from proxy.settings.fields import Address, Origin

ANSWER_SECONDS: Final = 10.0
_MOST_BYTES: Final = 16 * 2**20
_MOST_FILE_BYTES: Final = 512 * 2**20
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where it listens, not we


class Unreachable(Exception):  # noqa: N818 - the condition's name
    """Nobody answers there, or nobody who speaks HTTP."""


class Failed(Exception):  # noqa: N818 - an answer that says no
    """What was asked was not done. Its text says why."""


class Busy(Failed):
    """It may be done in a moment."""


class AdminListener:
    """Asks one admin listener.

    Args:
        origin: where it is. Neither proxies nor redirects are followed.
        token: its bearer token, None for none.
        seconds: how long each of connecting, sending and reading may take.
    """

    def __init__(
        self, origin: Origin, token: str | None = None, *, seconds: float = ANSWER_SECONDS
    ) -> None:
        self._origin = origin
        self._seconds = seconds
        self._headers: dict[str, str | bytes] = {"Accept": "application/json"}
        if token:
            self._headers["Authorization"] = b"Bearer " + token.encode()

    def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int | None] | None = None,
        body: object = None,
    ) -> dict[str, Any]:
        """The answer to one request.

        Args:
            query: parameters; those that are None are left out.
            body: what is sent as JSON with POST.

        Raises:
            Unreachable: if nobody answers.
            Failed: if the answer is a refusal, or none of an admin listener.
        """
        status, text = self._exchange(method, path, query, body, _MOST_BYTES)
        return self._read(status, text)

    def fetch(self, path: str) -> bytes:
        """The bytes of a file.

        Raises:
            Unreachable, Failed: as :meth:`ask`.
        """
        status, data = self._exchange("GET", path, None, None, _MOST_FILE_BYTES)
        if status != 200:
            self._read(status, data)
        return data

    def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int | None] | None,
        body: object,
        most: int,
    ) -> tuple[int, bytes]:
        given = {key: value for key, value in (query or {}).items() if value is not None}
        target = f"{path}?{urlencode(given)}" if given else path
        headers = dict(self._headers)
        data = None
        if method == "POST":
            data = orjson.dumps(body if body is not None else {})
            headers["Content-Type"] = "application/json"
        connection = _connection(self._origin, self._seconds)
        try:
            connection.request(method, target, data, headers)
            answer = connection.getresponse()
            text = answer.read(most)
            if answer.length:  # http.client tells only those who read without a bound
                raise IncompleteRead(text, answer.length)
        except (OSError, HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unreachable(f"{self._origin}: {why}") from error
        finally:
            connection.close()
        return answer.status, text

    def _read(self, status: int, text: bytes) -> dict[str, Any]:
        if status == 401:
            raise Failed(
                "the listener asks for its token: use --config, BARTIZAN_ADMIN_TOKEN or --token"
            )
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Failed(f"{self._origin} answers {status}, and not as an admin listener does")
        if status != 200:
            refused = Busy if status == 503 else Failed
            raise refused(str(answer.get("error", f"{self._origin} answers {status}")))
        return answer


def origin_of(address: Address) -> Origin:
    """Where this machine reaches a listener at the configured address.

    Raises:
        ValueError: if the system chose its port.
    """
    if address.path:
        return Origin(address, tls=False, authority="localhost")
    if not address.port:
        raise ValueError("the configuration lets the system choose the port: use --admin")
    reached = Address(_LOOPBACK.get(address.host, address.host), address.port)
    return Origin(reached, tls=False, authority=reached.authority)


def _connection(origin: Origin, seconds: float) -> HTTPConnection:
    address = origin.address
    if address.path:
        return _UnixConnection(address.path, seconds)
    kind = HTTPSConnection if origin.tls else HTTPConnection
    return kind(address.host, address.port, timeout=seconds)


class _UnixConnection(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
