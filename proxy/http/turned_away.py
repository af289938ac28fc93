"""A connection that there is no time for: told so, and closed."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from proxy.http import render
from proxy.http.messages import Reply

_BUSY: Final = Reply(
    503, b"server is busy\n", b"text/plain", headers=((b"retry-after", b"1"),), close=True
)


class TurnedAway(asyncio.Protocol):
    """Says 503 and closes, whatever is asked. Nothing is read, so that a client that is quick to
    send may see a reset instead.

    Args:
        date: the Date line.
    """

    def __init__(self, date: bytes) -> None:
        self._date = date

    def connection_made(self, transport: Any) -> None:
        transport.write(
            render.reply(
                _BUSY, date=self._date, connection=b"connection: close\r\n", with_body=True
            )
        )
        transport.close()
