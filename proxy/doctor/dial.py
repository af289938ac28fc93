"""Whether somebody accepts a TCP connection at an address."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dialled:
    """What became of a connection.

    Attributes:
        accepted: whether it was accepted.
        why: why not, or "".
        known: whether the host was found at all.
    """

    accepted: bool
    why: str = ""
    known: bool = True


async def dial(host: str, port: int, seconds: float) -> Dialled:
    """Connects, and hangs up. Sends nothing."""
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return Dialled(False, f"no answer within {seconds:g} s")
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        # The resolver's numbers are negative; the kernel's are not.
        known = not isinstance(error, UnicodeError) and (number is None or number > 0)
        return Dialled(False, _words(error), known)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return Dialled(True)


def _words(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
