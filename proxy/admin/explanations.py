"""Why an exchange was refused or shaped: ``GET /api/v1/explanations/ID``."""

from __future__ import annotations

import re
from typing import Any, Final, Protocol

import orjson
from aiohttp import web

_ID: Final = re.compile(r"[!-~]{1,128}")


class Busy(Exception):  # noqa: N818 - the condition's name
    """Too many explanations are asked for at once."""


class ExplanationSource(Protocol):
    """What is asked about exchanges. Values are ready for JSON."""

    async def explanation(self, exchange: str) -> dict[str, Any] | None:
        """One exchange explained, by its request id; None if it is not kept, or not any more.

        Raises:
            Busy: if too many are asked for at once.
        """


def add_routes(app: web.Application, source: ExplanationSource) -> None:
    """Adds ``/api/v1/explanations/ID``."""

    async def explain(request: web.Request) -> web.Response:
        exchange = request.match_info["exchange"]
        if request.query or not _ID.fullmatch(exchange):
            return _json({"error": "ask by the request id alone, as in the audit log"}, 400)
        try:
            told = await source.explanation(exchange)
        except Busy as busy:
            return _json({"error": str(busy)}, 503)
        if told is None:
            words = (
                "nothing is kept of this exchange, or not any more: only the last ones that "
                "were refused or shaped, or would have been, are (admin.explanations)"
            )
            return _json({"error": words}, 404)
        return _json(told)

    app.router.add_get("/api/v1/explanations/{exchange}", explain)


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")
