"""The proxies that one would write first: aiohttp on both sides, with or without scikit-learn.

Peers for the benchmark. Without ``--fit`` this one forwards and does nothing else. With it, four
scikit-learn detectors score every request inline, as their documentation shows. Neither is a
model of how to treat untrusted bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import uvloop
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

from loadtest.serving import announce, parse_address, stopped

Floats = npt.NDArray[np.float32]
Scorer = Callable[[Floats], npt.NDArray[np.float64]]

_INFER_LENGTH: Final = "Inference-Header-Content-Length"
_FORWARDED: Final = ("Content-Type", _INFER_LENGTH)
_SESSION: Final = web.AppKey("session", ClientSession)


def decode_rows(headers: Any, body: bytes) -> Floats:
    """The (n, d) tensor of a v2 request, JSON or binary."""
    if _INFER_LENGTH in headers:
        length = int(headers[_INFER_LENGTH])
        tensor = orjson.loads(body[:length])["inputs"][0]
        data = np.frombuffer(body[length:], "<f4")
    else:
        tensor = orjson.loads(body)["inputs"][0]
        data = np.asarray(tensor["data"], np.float32)
    return data.reshape(tensor["shape"])


class AiohttpProxy:
    """Forwards everything to one upstream; refuses what a detector finds beyond its limit."""

    def __init__(self, upstream: str, detectors: dict[int, list[tuple[Scorer, float]]]) -> None:
        self._upstream = upstream
        self._detectors = detectors

    async def handle(self, request: web.Request) -> web.Response:
        """One exchange."""
        body = await request.read()
        if self._detectors and request.method == "POST":
            rows = decode_rows(request.headers, body)
            for scorer, limit in self._detectors[rows.shape[1]]:
                if not (scorer(rows) <= limit).all():
                    return web.json_response({"error": "request refused"}, status=403)
        headers = {k: request.headers[k] for k in _FORWARDED if k in request.headers}
        session = request.app[_SESSION]
        async with session.request(
            request.method, self._upstream + request.path, data=body, headers=headers
        ) as answer:
            return web.Response(
                status=answer.status,
                body=await answer.read(),
                headers={"Content-Type": answer.headers.get("Content-Type", "application/json")},
            )

    def application(self) -> web.Application:
        """The application: one handler and one pooled session."""
        app = web.Application(client_max_size=64 << 20)
        app.cleanup_ctx.append(self._session)
        app.router.add_route("*", "/{path:.*}", self.handle)
        return app

    async def _session(self, app: web.Application) -> Any:
        async with ClientSession(
            connector=TCPConnector(limit=0), timeout=ClientTimeout(total=30)
        ) as session:
            app[_SESSION] = session
            yield


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="loadtest.aiohttp_proxy", description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--upstream", required=True, metavar="URL")
    parser.add_argument("--fit", type=Path, action="append", default=[], metavar="ROWS.npy")
    options = parser.parse_args(arguments)
    detectors = {}
    if options.fit:
        from loadtest.sklearn_detectors import fit_detectors  # noqa: PLC0415 - an extra, and slow
    for path in options.fit:
        rows = np.load(path, allow_pickle=False)
        detectors[rows.shape[1]] = fit_detectors(rows)
    proxy = AiohttpProxy(options.upstream, detectors)
    uvloop.run(_serve(options.listen, proxy.application()))


async def _serve(listen: str, application: web.Application) -> None:
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, *parse_address(listen)).start()
    announce(runner.addresses[0])
    await stopped()
    await runner.cleanup()


if __name__ == "__main__":
    main()
