"""A model server's answer to a gRPC call."""

from __future__ import annotations

from grpc import StatusCode

from proxy.grpc.metadata import Metadata
from proxy.grpc.status import HTTP
from proxy.http.response import Response


class Answer(Response):
    """One whole answer: a message, or a status that says why there is none. It can be read, relayed
    and discarded as one over HTTP.

    Attributes:
        code, details: as the server sent them.
        initial, trailing: metadata, as far as clients get it.
    """

    __slots__ = ("code", "details", "initial", "trailing")

    def __init__(
        self,
        code: StatusCode,
        details: str,
        message: bytes,
        initial: Metadata,
        trailing: Metadata,
    ) -> None:
        super().__init__(None)
        self.code = code
        self.details = details
        self.initial = initial
        self.trailing = trailing
        self.status = HTTP[code]
        self.length = len(message)
        if message:
            self.add(message)
        self.end()
