"""The frame of the small HTTP servers in this package: a socket, a line that names it, a signal."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import uvloop

READY = "listening on "


def parse_address(text: str) -> tuple[str, int]:
    """``HOST:PORT``; port 0 asks the system for one.

    Raises:
        ValueError: if it is not of that form.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"not HOST:PORT: {text!r}")
    return host, int(port)


def serve(listen: str, protocol: Callable[[], asyncio.Protocol]) -> None:
    """Serves until SIGTERM or SIGINT. Writes ``listening on HOST:PORT`` to stdout when ready."""
    uvloop.run(_serve(*parse_address(listen), protocol))


async def _serve(host: str, port: int, protocol: Callable[[], asyncio.Protocol]) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, host, port, backlog=1024)
    announce(server.sockets[0].getsockname())
    await stopped()
    server.close()


def announce(address: Sequence[Any]) -> None:
    """Writes the line that says where this process serves."""
    sys.stdout.write(f"{READY}{address[0]}:{address[1]}\n")
    sys.stdout.flush()


async def stopped() -> None:
    """Returns once the process is asked to end."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
