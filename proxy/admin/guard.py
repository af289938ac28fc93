"""Who may ask the admin listener what.

The health paths are open: probes carry no token, and learn one bit. Everything else asks for the
bearer token, if one is configured; off loopback one must be. Against a browser that is led here by
a page of another site: a request's Host must be an IP address, ``localhost`` or an allowed name, as
DNS rebinding needs a name; and a request that could change something must come from here.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import ip_address
from typing import Final

from aiohttp import web

_OPEN: Final = frozenset({"/healthz", "/readyz"})
_SAFE: Final = frozenset({"GET", "HEAD"})
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "bartizan",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Guard:
    """Lets a request through or answers it.

    Args:
        token: what callers must send, None for nothing.
        hosts: names, beside ``localhost``, by which the listener may be called.
    """

    def __init__(self, token: str | None, hosts: Iterable[str] = ()) -> None:
        self._token = None if token is None else token.encode()
        self._hosts = frozenset({"localhost", *(host.lower() for host in hosts)})

    def knows(self, request: web.Request) -> bool:
        """Whether the caller showed the token, or none is needed."""
        if self._token is None:
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        # Constant time: how long it takes does not tell how much of the token is right.
        sent = given.strip().encode("utf-8", "surrogateescape")
        return scheme.lower() == "bearer" and hmac.compare_digest(sent, self._token)

    async def prepare(self, _request: web.Request, response: web.StreamResponse) -> None:
        """Adds the headers that every answer carries."""
        response.headers.update(_HEADERS)

    @web.middleware
    async def middleware(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Refuses what may not be asked; aiohttp's middleware."""
        if not self._is_host_allowed(request):
            return _refusal(421, "this host name is not served here")
        if request.method not in _SAFE and not _is_same_origin(request):
            return _refusal(403, "requests from other origins are refused")
        if request.path not in _OPEN and not self.knows(request):
            return _refusal(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})
        return await handler(request)

    def _is_host_allowed(self, request: web.Request) -> bool:
        hosts = request.headers.getall("Host", [])
        match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if match is None:
            return False
        host = match[1].strip("[]")
        try:
            ip_address(host)
        except ValueError:
            return host.lower() in self._hosts
        return True


def _is_same_origin(request: web.Request) -> bool:
    """Whether the request came from no page at all, or from one of this listener."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None and site not in {"same-origin", "none"}:
        return False
    origin = request.headers.get("Origin")
    return origin is None or origin == f"{request.scheme}://{request.host}"


def _refusal(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": message}, status=status, headers=headers)
