"""Runs a coroutine without a Task: it starts at once, and is resumed by whoever it waits for.

A Task costs an object, a Future for each wait and a turn of the event loop for each wake-up. Most
exchanges wait exactly once, for the head of the upstream's answer, and the callback that reads that
head can as well go on with the exchange. So a :class:`Drive` steps the coroutine in the caller's
own stack, and a :class:`Waiter` is what wakes it there. Futures and Tasks may be awaited too.

What needs a current Task does not work inside (``asyncio.timeout``, ``asyncio.wait_for`` from
Python 3.12 on, task groups): put it into a Task of its own and await that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final


class _Stepping:
    """Which drive is on the stack: a coroutine that is awaited elsewhere runs in a Task."""

    __slots__ = ("drive",)

    def __init__(self) -> None:
        self.drive: Drive | None = None


_stepping: Final = _Stepping()


class Waiter:
    """One wait of one coroutine, in a :class:`Drive` or in a Task. Used once.

    ``wake`` and ``fail`` resume a driven coroutine before they return. What comes first counts;
    later calls do nothing.
    """

    __slots__ = ("_drive", "_error", "_future", "done")

    def __init__(self) -> None:
        self.done = False
        self._drive: Drive | None = None
        self._future: asyncio.Future[None] | None = None
        self._error: BaseException | None = None

    def wake(self) -> None:
        """Ends the wait."""
        if not self.done:
            self.done = True
            drive = self._drive
            if drive is not None:
                self._drive = None
                drive.step(None)
            elif self._future is not None and not self._future.done():
                self._future.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Ends the wait by an exception."""
        if not self.done:
            self.done = True
            drive = self._drive
            if drive is not None:
                self._drive = None
                drive.step(error)
            elif self._future is None:
                self._error = error
            elif not self._future.done():
                self._future.set_exception(error)

    def __await__(self) -> Generator[Any, Any, None]:
        if self.done:
            if self._error is not None:
                raise self._error
            return
        drive = _stepping.drive
        if drive is None:
            self._future = asyncio.get_running_loop().create_future()
            yield from self._future.__await__()
        else:
            self._drive = drive
            yield self

    def forget(self) -> None:
        """Leaves without being woken."""
        self.done = True
        self._drive = None


class Drive:
    """Steps one coroutine to its end.

    Args:
        coroutine: not started yet.
        ended: called once, with the exception that ended it or None, in the stack of whatever
            made it end.
    """

    __slots__ = ("_cancelled", "_coroutine", "_ended", "_waits")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, None],
        ended: Callable[[BaseException | None], None],
    ) -> None:
        self._coroutine = coroutine
        self._ended = ended
        self._waits: Waiter | asyncio.Future[Any] | asyncio.Handle | None = None
        self._cancelled = False

    def step(self, error: BaseException | None = None) -> None:
        """Runs the coroutine to its next wait, or to its end."""
        self._waits = None  # as long as it runs
        outer = _stepping.drive
        _stepping.drive = self
        try:
            waits = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        except StopIteration:
            _stepping.drive = outer
            self._ended(None)
            return
        except BaseException as failure:
            _stepping.drive = outer
            self._ended(failure)
            if isinstance(failure, (KeyboardInterrupt, SystemExit)):
                raise
            return
        _stepping.drive = outer
        self._waits = waits
        if type(waits) is not Waiter:
            self._wait_for(waits)
        if self._cancelled:
            self._cancelled = False
            self.cancel()

    def cancel(self) -> None:
        """Raises ``CancelledError`` in the coroutine: at once if it waits for a :class:`Waiter`, as
        a Task would if it waits for anything else.
        """
        waits = self._waits
        if waits is None:
            self._cancelled = True
        elif isinstance(waits, Waiter):
            waits.forget()
            self.step(asyncio.CancelledError())
        elif asyncio.isfuture(waits):
            if not waits.cancel():
                self._cancelled = True
        else:
            waits.cancel()
            self.step(asyncio.CancelledError())

    def _wait_for(self, waits: Any) -> None:
        if waits is None:  # asyncio.sleep(0)
            self._waits = asyncio.get_running_loop().call_soon(self.step)
        elif getattr(waits, "_asyncio_future_blocking", None):
            waits._asyncio_future_blocking = False
            waits.add_done_callback(self._wake)
        else:
            fault = RuntimeError(f"an exchange awaited {waits!r}")
            self._waits = asyncio.get_running_loop().call_soon(self.step, fault)

    def _wake(self, future: asyncio.Future[Any]) -> None:
        if self._cancelled:
            self._cancelled = False
            self.step(asyncio.CancelledError())
        else:
            # The coroutine stands inside the future's own __await__, which raises its exception.
            self.step()
