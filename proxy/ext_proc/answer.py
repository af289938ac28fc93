"""The model server's answer as Envoy holds it: its head, and its body if it is asked for."""

from __future__ import annotations

from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest

from proxy.ext_proc import messages
from proxy.ext_proc.heads import HeadLimits, response_head
from proxy.ext_proc.stream import Stream
from proxy.http.response import Response
from proxy.rules import UPSTREAM_TIMEOUT

_BODILESS = (204, 304)


class Answer(Response):
    """One answer. Its body is read as that of any other: Envoy is asked for it then, holds it back
    until it has all of it, and sends it in one message.

    Attributes:
        removed: the names of headers that clients do not get.

    Raises:
        Refusal: UPSTREAM_INVALID.
    """

    __slots__ = ("_stream", "removed")

    def __init__(self, stream: Stream, message: ProcessingRequest, method: str) -> None:
        super().__init__(None)
        self._stream = stream
        given = message.response_headers
        limits = HeadLimits(stream.limits.head_bytes, stream.limits.header_count)
        self.status, self.headers, self.length, self.removed = response_head(given.headers, limits)
        self.bodiless = method == "HEAD" or self.status in _BODILESS
        if given.end_of_stream:
            self.end()

    async def progress(self) -> None:
        """Has Envoy send the body: all of it, once the filter's mode for it is BUFFERED, which was
        seen to with the first message.

        Raises:
            Refusal: UPSTREAM_TIMEOUT; INTERNAL if Envoy sends something else.
        """
        stream = self._stream
        await stream.send(messages.read(stream.pending))
        message = await stream.next(
            stream.limits.answer_seconds,
            UPSTREAM_TIMEOUT,
            messages.RESPONSE_BODY,
            messages.RESPONSE_TRAILERS,
        )
        body = message.response_body.body
        if body:
            self.add(body)
        self.end()
