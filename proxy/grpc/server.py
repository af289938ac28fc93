"""gRPC's server for asyncio, with an accept loop of our own.

The one of ``grpc.aio`` ends, and the server with it, at the first call whose path is not UTF-8; it
cannot say how many calls are under way, nor give up on a client that takes no answer. What is used
here of gRPC beneath its public interface is as it is in the versions that the extra ``grpc`` names.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

import grpc
from grpc._cython import cygrpc

UNKNOWN: Final = "/"
"""The method of calls whose method is not served: what they call it is not looked at."""

# It logs an error for each value of metadata that is not UTF-8, and reads it otherwise.
logging.getLogger("grpc._cython.cygrpc").setLevel(logging.CRITICAL)


class Call:
    """One call, from its begin until its answer was taken.

    Attributes:
        method: its path, or ``UNKNOWN``.
    """

    __slots__ = ("_handling", "_serving", "_timer", "method")

    def __init__(self, method: str) -> None:
        self.method = method
        self._serving: asyncio.Task[None] | None = None
        self._handling: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def served(self, task: asyncio.Task[None]) -> None:
        """It is served by this task, to its end."""
        self._serving = task

    def handled(self) -> None:
        """It is handled by the current task."""
        self._handling = asyncio.current_task()

    def answering(self, seconds: float) -> None:
        """Its client has so long to take what is sent from now on."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self.drop)

    def taken(self) -> None:
        """The client has taken it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def drop(self) -> None:
        """Resets it: gRPC does so with a call that nobody holds any more."""
        for task in (self._handling, self._serving):
            if task is not None:
                task.cancel()


Handler: TypeAlias = Callable[[Call], grpc.RpcMethodHandler]


class Server(cygrpc.AioServer):  # type: ignore[misc]  # gRPC ships no types
    """A server to which every call comes, known or not.

    Args:
        methods: the paths that are told apart.
        handler: what handles a call, as bytes in and bytes out.
        options: of the channels.
        crashed: called if it has ended without being asked to.

    Attributes:
        calls: under way.
    """

    def __init__(
        self,
        methods: Sequence[str],
        handler: Handler,
        options: Sequence[tuple[str, Any]],
        crashed: Callable[[], None],
    ) -> None:
        super().__init__(asyncio.get_running_loop(), None, (), (), tuple(options), None)
        self.calls = 0
        self._ending: asyncio.Task[None] | None = None
        self._handler = handler
        self._crashed = crashed
        self._running: set[asyncio.Task[None]] = set()
        self.add_registered_method_handlers(dict.fromkeys(methods))

    def _make_request_call_future(self, method_bytes: bytes | None) -> asyncio.Task[None]:
        """What ``grpc.aio`` waits for to get a call. It never gets one: they are taken there."""
        return asyncio.get_running_loop().create_task(self._accept(method_bytes))

    async def _accept(self, method: bytes | None) -> None:
        """Takes the calls of a method, or those of none that is known."""
        loop = asyncio.get_running_loop()
        name = UNKNOWN if method is None else method.decode()
        while True:
            if method is None:
                state = await self._request_call()
            else:
                state = await self._request_registered_call(method)
            call = Call(name)
            self.calls += 1
            handling = cygrpc._handle_rpc(
                name, _Resolver(self._handler, call), (), state, loop, False
            )
            task = loop.create_task(cygrpc._schedule_rpc_coro(handling, state, loop, name))
            call.served(task)
            self._running.add(task)
            task.add_done_callback(partial(self._ended, call))
            del state, call, handling, task  # nobody holds a call but its tasks

    def _ended(self, call: Call, task: asyncio.Task[None]) -> None:
        call.taken()
        self.calls -= 1
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a call failed", "exception": error}
            )

    async def end(self, seconds: float | None) -> None:
        """Takes no more calls, and ends once the others have, or after ``seconds``: None for at
        once. It ends once: gRPC does not stand two who end it together."""
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end(seconds))
        await asyncio.shield(self._ending)

    async def _end(self, seconds: float | None) -> None:
        try:
            await self.shutdown(seconds)
        except Exception:  # that of an accept loop that has failed: the rest is still to be done
            await self.shutdown(None)

    def _serving_task_crash_handler(self, task: asyncio.Task[None]) -> None:
        """``grpc.aio`` stops a server whose accept loop has failed, and tells nobody."""
        if self._ending is None and not task.cancelled():
            self._crashed()


class _Resolver:
    """Finds the handler of one call."""

    __slots__ = ("_call", "_handler")

    def __init__(self, handler: Handler, call: Call) -> None:
        self._handler = handler
        self._call = call

    def resolve_handler(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """The handler."""
        return self._handler(self._call)
