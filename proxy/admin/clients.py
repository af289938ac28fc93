"""The operator's hand on clients: who is suspected, and what is forgiven or banned."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import orjson
from aiohttp import web

from proxy.state.base import StateUnavailable

MAX_BAN_SECONDS: Final = 365 * 86_400
"""The longest ban: it expires within a year, whoever forgets it."""

MAX_CLIENTS: Final = 1000
"""The most clients that one answer lists."""

_USUAL_CLIENTS: Final = 50
_CLIENT: Final = re.compile(r"[0-9a-f]{32}")
_LIMIT: Final = re.compile(r"[1-9][0-9]{0,3}")
_JSON: Final = "application/json"

_Handler = Callable[[web.Request], Awaitable[web.Response]]


class ClientSource(Protocol):
    """What is asked about clients. Values are ready for JSON."""

    async def clients(self, endpoint: str | None, most: int) -> list[dict[str, Any]]:
        """The clients with the most evidence against them, the strongest first.

        Raises:
            LookupError: if there is no such endpoint.
        """

    async def client(self, client: str, endpoint: str | None) -> list[dict[str, Any]]:
        """What each endpoint knows of one client: the same keys as in :meth:`clients`; nothing of
        an endpoint that does not know it.

        Raises:
            LookupError: if there is no such endpoint.
        """

    async def forgive(self, client: str, endpoint: str | None) -> None:
        """Forgets what was learnt about a client, and lifts its ban.

        Raises:
            LookupError: if there is no such endpoint.
            StateUnavailable: if it could not be done.
        """

    async def ban(self, client: str, seconds: float, endpoint: str | None) -> None:
        """Bans a client for so long; 0 lifts a ban.

        Raises:
            LookupError: if there is no such endpoint.
            StateUnavailable: if it could not be done.
        """


class _Unfit(Exception):  # noqa: N818 - an answer to the caller, not an error of ours
    """A request that cannot be understood.

    Attributes:
        status: that of the answer.
        message: what the caller reads.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def add_routes(app: web.Application, source: ClientSource) -> None:
    """Adds ``/api/v1/clients`` and what lies below it."""
    handlers = _Handlers(source)
    one = "/api/v1/clients/{client}"
    app.router.add_get("/api/v1/clients", _answering(handlers.list))
    app.router.add_get(one, _answering(handlers.show))
    app.router.add_post(f"{one}/forgive", _answering(handlers.forgive))
    app.router.add_post(f"{one}/ban", _answering(handlers.ban))
    app.router.add_delete(f"{one}/ban", _answering(handlers.unban))


class _Handlers:
    def __init__(self, source: ClientSource) -> None:
        self._source = source

    async def list(self, request: web.Request) -> web.Response:
        """The clients with the most evidence against them: ``?endpoint=NAME&limit=N``."""
        query = _query(request, "endpoint", "limit")
        limit = query.get("limit", str(_USUAL_CLIENTS))
        if not _LIMIT.fullmatch(limit) or int(limit) > MAX_CLIENTS:
            raise _Unfit(400, f"limit must be from 1 to {MAX_CLIENTS}")
        return _json({"clients": await self._source.clients(query.get("endpoint"), int(limit))})

    async def show(self, request: web.Request) -> web.Response:
        """One client, at each endpoint that knows it."""
        client, endpoint = _client(request), _endpoint(request)
        told = await self._source.client(client, endpoint)
        if not told:
            raise _Unfit(404, "nothing is known of this client")
        return _json({"clients": told})

    async def forgive(self, request: web.Request) -> web.Response:
        """Forgets what was learnt about a client, and lifts its ban."""
        client, endpoint = _client(request), _endpoint(request)
        await _fields(request)
        await self._source.forgive(client, endpoint)
        return _json({"client": client, "endpoint": endpoint, "forgiven": True})

    async def ban(self, request: web.Request) -> web.Response:
        """Bans a client: ``{"seconds": 3600}``."""
        client, endpoint = _client(request), _endpoint(request)
        seconds = (await _fields(request, "seconds"))["seconds"]
        if type(seconds) not in (int, float) or not 0 < seconds <= MAX_BAN_SECONDS:
            raise _Unfit(400, f"seconds must be a number above 0 and at most {MAX_BAN_SECONDS}")
        await self._source.ban(client, float(seconds), endpoint)
        return _json({"client": client, "endpoint": endpoint, "banned_seconds": float(seconds)})

    async def unban(self, request: web.Request) -> web.Response:
        """Lifts a ban; what was learnt about the client stays."""
        client, endpoint = _client(request), _endpoint(request)
        await self._source.ban(client, 0.0, endpoint)
        return _json({"client": client, "endpoint": endpoint, "banned_seconds": 0.0})


def _answering(handler: _Handler) -> _Handler:
    """The handler, its refusals and those of the source as answers."""

    async def answer(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except _Unfit as unfit:
            return _json({"error": unfit.message}, unfit.status)
        except StateUnavailable as unavailable:
            why = str(unavailable) or "it cannot be reached"
            return _json({"error": f"the shared state did not take it: {why}"}, 503)
        except (KeyError, IndexError):
            raise  # a defect, that says nothing of endpoints
        except LookupError:
            return _json({"error": "no such endpoint"}, 404)

    return answer


def _client(request: web.Request) -> str:
    client = request.match_info["client"]
    if not _CLIENT.fullmatch(client):
        raise _Unfit(400, "a client is 32 hex digits in lower case, as in the audit log")
    return client


def _endpoint(request: web.Request) -> str | None:
    return _query(request, "endpoint").get("endpoint")


def _query(request: web.Request, *known: str) -> Mapping[str, str]:
    """The query, each of whose keys is known and there once."""
    for key in request.query:
        if key not in known:
            raise _Unfit(400, f"unknown parameter {key[:64]!r}: known are {', '.join(known)}")
        if len(request.query.getall(key)) > 1:
            raise _Unfit(400, f"{key} is there twice")
    return request.query


async def _fields(request: web.Request, *names: str) -> Mapping[str, Any]:
    """A JSON body with these keys and no others; where there are none, it may be left out.

    The type must say JSON: a page of another site cannot send that unasked.
    """
    if request.content_type != _JSON or "Content-Encoding" in request.headers:
        raise _Unfit(415, f"the content type must be {_JSON}")
    body = await request.read()
    if not body and not names:
        return {}
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise _Unfit(400, "the body is not JSON") from None
    if type(fields) is not dict or fields.keys() != set(names):
        keys = ", ".join(names) or "no keys"
        raise _Unfit(400, f"the body must be a JSON object with {keys}")
    return fields


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type=_JSON)
