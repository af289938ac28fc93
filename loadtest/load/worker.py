"""One process of a load: ``python -m loadtest.load.worker FOLDER NUMBER [SECONDS]``.

It makes its connections, says that it is ready, and begins at the moment that it is told on stdin.
On stdout: a line of JSON about once a second. With SECONDS it drives a closed loop. If its stdin
ends, so does it: whoever started it is gone.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop

from loadtest.load.closed import ClosedLoop
from loadtest.load.open_loop import OpenLoop
from loadtest.load.outcome import Outcome
from loadtest.load.share import read
from proxy.descriptors import raise_limit

OUTCOME: Final = "outcome-{}.npz"
_PROGRESS_SECONDS: Final = 1.0
_STDIN: Final = 0
_OTHER_DESCRIPTORS: Final = 64


def say(**words: Any) -> None:
    """One line to whoever started this."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


class _Orders:
    """What comes on stdin: the moment of the start, then the end."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.start: asyncio.Future[float] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self._pending = b""
        loop.add_reader(_STDIN, self._read)

    def _read(self) -> None:
        data = os.read(_STDIN, 4096)
        self._pending += data
        if not data:
            asyncio.get_running_loop().remove_reader(_STDIN)
            if not self.gone.done():
                self.gone.set_result(None)
        elif b"\n" in self._pending and not self.start.done():
            self.start.set_result(float(self._pending.split(b"\n")[0]))


async def work(folder: Path, number: int, seconds: float | None) -> Outcome | None:
    """The whole of it; None if nobody waits for it any more.

    Raises:
        OSError: if a connection cannot be made at the beginning.
    """
    share = read(folder, number)
    raise_limit(sum(group.connections for group in share.groups) + _OTHER_DESCRIPTORS)
    orders = _Orders()
    load = OpenLoop(share) if seconds is None else ClosedLoop(share, seconds)
    try:
        await load.open()
        say(ready=True)
        await _first(orders.start, orders.gone)
        if orders.gone.done():
            return None
        # No cycles are made from here on, and what is there need not be looked at again.
        gc.freeze()
        running = asyncio.ensure_future(load.run(orders.start.result()))
        telling = asyncio.ensure_future(_tell(load))
        try:
            await _first(running, orders.gone)
            if not running.done():
                running.cancel()
                return None
            say(progress=asdict(load.count()))
            return running.result()
        finally:
            telling.cancel()
    finally:
        await load.close()


async def _first(one: asyncio.Future[Any], other: asyncio.Future[Any]) -> None:
    """Until one of them is done."""
    await asyncio.wait([one, other], return_when=asyncio.FIRST_COMPLETED)


async def _tell(load: OpenLoop | ClosedLoop) -> None:
    while True:
        await asyncio.sleep(_PROGRESS_SECONDS)
        say(progress=asdict(load.count()))


def main() -> int:
    """The command line: 0 done, 1 not."""
    folder, number, *rest = sys.argv[1:]
    try:
        outcome = uvloop.run(work(Path(folder), int(number), float(rest[0]) if rest else None))
    except (OSError, ValueError) as error:
        say(error=f"{type(error).__name__}: {error}")
        return 1
    if outcome is None:
        return 1
    np.savez(
        Path(folder) / OUTCOME.format(number),
        intended=outcome.intended, sent=outcome.sent, done=outcome.done, status=outcome.status,
    )  # fmt: skip
    say(done=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
