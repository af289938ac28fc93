"""What the admin listener answers: health, readiness, metrics, the endpoints, their clients, what
was captured of their traffic, and why exchanges were refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, Final, Protocol

import orjson
from aiohttp import web

from proxy.admin import captures, clients, explanations
from proxy.admin.captures import CaptureSource
from proxy.admin.clients import ClientSource
from proxy.admin.explanations import ExplanationSource
from proxy.admin.guard import Guard
from proxy.telemetry.exposition import OPENMETRICS, TEXT

_VERSION: Final = version("bartizan")


class AdminSource(ClientSource, ExplanationSource, CaptureSource, Protocol):
    """What the admin listener asks: one worker, or the supervisor of several. Values are ready for
    JSON."""

    async def ready(self) -> list[str]:
        """Why no traffic should be sent here; empty if it may."""

    async def render(self, openmetrics: bool = False) -> bytes:
        """Every metric as text."""

    async def endpoints(self) -> list[dict[str, Any]]:
        """The endpoints as they are served now."""


def make_app(source: AdminSource, guard: Guard) -> web.Application:
    """The application. ``guard`` decides who may ask what."""
    app = web.Application(middlewares=[guard.middleware, _errors], client_max_size=64 * 1024)
    app.on_response_prepare.append(guard.prepare)
    handlers = _Handlers(source, guard)
    app.router.add_get("/healthz", handlers.healthz)
    app.router.add_get("/readyz", handlers.readyz)
    app.router.add_get("/version", handlers.version)
    app.router.add_get("/metrics", handlers.metrics)
    app.router.add_get("/api/v1/endpoints", handlers.endpoints)
    clients.add_routes(app, source)
    explanations.add_routes(app, source)
    captures.add_routes(app, source)
    return app


class _Handlers:
    def __init__(self, source: AdminSource, guard: Guard) -> None:
        self._source = source
        self._guard = guard

    async def healthz(self, _request: web.Request) -> web.Response:
        """200 for as long as the loop turns."""
        return _json({"status": "ok"})

    async def readyz(self, request: web.Request) -> web.Response:
        """200 if traffic may be sent here, 503 if not; why not, for those who may know."""
        reasons = await self._source.ready()
        answer: dict[str, Any] = {"ready": not reasons}
        if reasons and self._guard.knows(request):
            answer["reasons"] = reasons
        return _json(answer, 503 if reasons else 200)

    async def version(self, _request: web.Request) -> web.Response:
        """The version that runs."""
        return _json({"name": "bartizan", "version": _VERSION})

    async def metrics(self, request: web.Request) -> web.Response:
        """The metrics, as OpenMetrics to who accepts it."""
        openmetrics = "application/openmetrics-text" in request.headers.get("Accept", "")
        body = await self._source.render(openmetrics)
        kind = OPENMETRICS if openmetrics else TEXT
        return web.Response(body=body, headers={"Content-Type": kind})

    async def endpoints(self, _request: web.Request) -> web.Response:
        """The endpoints as they are served now."""
        return _json({"endpoints": await self._source.endpoints()})


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """aiohttp's own refusals, as JSON as everything else is."""
    try:
        return await handler(request)
    except web.HTTPException as refusal:
        answer = _json({"error": refusal.reason.lower()}, refusal.status)
        if "Allow" in refusal.headers:
            answer.headers["Allow"] = refusal.headers["Allow"]
        return answer


def _json(value: object, status: int = 200) -> web.Response:
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return web.Response(body=body, status=status, content_type="application/json")
