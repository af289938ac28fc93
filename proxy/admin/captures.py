"""What an endpoint has captured of live traffic: ``GET /api/v1/captures/ENDPOINT``."""

from __future__ import annotations

from typing import Protocol

import orjson
from aiohttp import web

from detectors.sample import SampleError
from proxy.admin.explanations import Busy


class CaptureSource(Protocol):
    """What is asked about captures."""

    async def sample(self, endpoint: str) -> bytes:
        """What an endpoint has captured, as ``detectors.sample.Sample`` writes it.

        Raises:
            LookupError: if there is no such endpoint, or nothing captured.
            SampleError: if the workers' parts do not go together.
            Busy: if another sample is being made.
        """


def add_routes(app: web.Application, source: CaptureSource) -> None:
    """Adds ``/api/v1/captures/ENDPOINT``."""

    async def capture(request: web.Request) -> web.Response:
        if request.query:
            return _error("nothing but the endpoint's name is asked", 400)
        try:
            data = await source.sample(request.match_info["endpoint"])
        except Busy as busy:
            return _error(str(busy), 503)
        except SampleError as error:
            return _error(str(error), 409)
        except LookupError as error:
            return _error(str(error), 404)
        return web.Response(body=data, content_type="application/octet-stream")

    app.router.add_get("/api/v1/captures/{endpoint}", capture)


def _error(words: str, status: int) -> web.Response:
    body = orjson.dumps({"error": words})
    return web.Response(body=body, status=status, content_type="application/json")
