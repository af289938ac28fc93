"""One stream: Envoy's messages in their order, each to be answered once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest
from google.protobuf.message import DecodeError

from proxy.rules import INTERNAL, Refusal, Rule

if TYPE_CHECKING:
    from proxy.ext_proc.limits import ExtProcLimits
    from proxy.grpc.server import Call
    from proxy.grpc.service import Context

_AT_ONCE: Final = -1.0


class Gone(asyncio.CancelledError):
    """Envoy has left: nobody waits for an answer any more."""


class Stream:
    """One stream.

    Attributes:
        limits: how long each side may take.
        pending: the kind of message that waits to be answered, "" if none does.
    """

    __slots__ = ("_call", "_context", "_timeout", "limits", "pending")

    def __init__(self, call: Call, context: Context, limits: ExtProcLimits) -> None:
        self._call = call
        self._context = context
        self._timeout: asyncio.Timeout | None = None
        self.limits = limits
        self.pending = ""

    async def next(self, seconds: float, late: Rule, *expected: str) -> ProcessingRequest:
        """The next message.

        Args:
            seconds: how long it may take.
            late: the rule if it takes longer.
            expected: the kinds of message that may come.

        Raises:
            Gone: if none comes.
            Refusal: ``late``; INTERNAL if it is none, or of another kind.
        """
        try:
            async with asyncio.timeout(seconds) as self._timeout:
                data = await self._context.read()
        except TimeoutError:
            raise Refusal(late) from None
        finally:
            self._timeout = None
        if type(data) is not bytes:
            raise Gone
        try:
            message = ProcessingRequest.FromString(data)
        except DecodeError as error:
            raise Refusal(INTERNAL, f"no message of Envoy's: {error}") from None
        self.pending = kind = message.WhichOneof("request") or ""
        if kind not in expected:
            words = " or ".join(expected)
            raise Refusal(INTERNAL, f"Envoy sent {kind or 'nothing known'} in place of {words}")
        return message

    async def send(self, response: bytes) -> None:
        """Answers the message that waits."""
        self.pending = ""
        self._call.answering(self.limits.send_seconds)
        await self._context.write(response)
        self._call.taken()

    def give_up(self) -> None:
        """What is waited for is late now."""
        if self._timeout is not None:
            self._timeout.reschedule(_AT_ONCE)
