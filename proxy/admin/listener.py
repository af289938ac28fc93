"""The admin listener: its own socket, apart from the one that clients reach."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from aiohttp import web

from proxy.admin.app import AdminSource, make_app
from proxy.admin.guard import Guard
from proxy.settings.models import Admin

_CLOSE_SECONDS = 2.0


class AdminListener:
    """Serves ``source`` at the configured address.

    Args:
        hosts: names, beside ``localhost`` and IP addresses, by which callers may call it.

    Attributes:
        port: the port that it got, 0 on a unix socket or before it is started.
    """

    def __init__(self, settings: Admin, source: AdminSource, hosts: tuple[str, ...] = ()) -> None:
        self._address = address = settings.listen
        token = None if settings.token is None else settings.token.get_secret_value()
        if token is None and not address.is_local:
            raise ValueError(f"{address} can be reached from other machines: it needs a token")
        names = (*hosts, address.host) if address.host else hosts
        app = make_app(source, Guard(token, names))
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=_CLOSE_SECONDS
        )
        self._bound = False
        self.port = 0

    async def start(self) -> None:
        """Listens.

        Raises:
            OSError: if the address cannot be used.
        """
        await self._runner.setup()
        try:
            if self._address.path:
                await self._start_unix(self._address.path)
            else:
                site = web.TCPSite(self._runner, self._address.host, self._address.port)
                await site.start()
                self.port = self._runner.addresses[0][1]
        except BaseException:
            await self._runner.cleanup()
            raise

    async def __aenter__(self) -> AdminListener:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stops listening; requests under way have two seconds."""
        await self._runner.cleanup()
        if self._bound:
            self._bound = False
            _remove(self._address.path)

    async def _start_unix(self, path: str) -> None:
        """Listens on a unix socket that only this user and group can reach."""
        _remove_stale(path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            mask = os.umask(0o117)
            try:
                listening.bind(path)
            finally:
                os.umask(mask)
            self._bound = True
            listening.setblocking(False)
            await web.SockSite(self._runner, listening).start()
        except BaseException:
            listening.close()
            raise


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _remove_stale(path: str) -> None:
    """Removes the socket of a process that is gone; one that answers stays, and binding fails."""
    if not Path(path).is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            _remove(path)
