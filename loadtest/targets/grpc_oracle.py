"""An endpoint asked over gRPC: the Open Inference Protocol's ``ModelInfer``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import Any, Final, Self

import grpc
import numpy as np

from loadtest.targets.answers import Reader, Unreadable
from loadtest.targets.base import Reply, Rows, Said
from loadtest.targets.clients import Identity
from loadtest.targets.http_oracle import said_of
from loadtest.targets.places import BOUNDS, GRPC_SERVICE, Place
from proxy.grpc.status import HTTP
from proxy.grpc.tls import channel_credentials
from proxy.http.address import Address
from proxy.protocols.base import Codec, InferRequest, Route
from proxy.protocols.grpc_v2_messages import named
from proxy.rules import Refusal

INFER: Final = f"{GRPC_SERVICE}/ModelInfer"
METADATA: Final = f"{GRPC_SERVICE}/ModelMetadata"
Call = tuple[tuple[tuple[str, str], ...], bytes]
"""The metadata and the message of a call."""

_SHOWN: Final = 300
_DETAILS: Final = "grpc-status-details-bin"


class GrpcAsking:
    """How one side is asked about rows over gRPC: rows to metadata and messages.

    Args: as ``http_oracle.Asking``.
    """

    def __init__(
        self,
        place: Place,
        codec: Codec,
        first: InferRequest,
        identities: Mapping[str, Identity],
    ) -> None:
        if any(identity.source for identity in identities.values()):
            raise ValueError(
                "gRPC clients do not choose the address that they connect from: tell them apart by "
                "api_key or header"
            )
        self.place = place
        self.codec = codec
        self._first = first
        self._identities = identities

    def source(self, client: str) -> str:
        """No client has an address of its own."""
        return self._identities[client].source

    def call(self, rows: Rows, client: str) -> Call:
        """The metadata and the message of one call about (n, d) finite rows.

        Raises:
            ValueError: if the endpoint does not take such rows, or so many at once.
            KeyError: if there is no such client.
        """
        rows = np.ascontiguousarray(rows, np.float32)
        asked = self.codec.with_rows(self._first, rows, np.zeros(len(rows), np.int64))
        return self._identities[client].headers, self.codec.encode_request(asked)[1]


class GrpcOracle:
    """One side of an endpoint, asked about one row at a time over one connection.

    Args: as ``http_oracle.HttpOracle``.
    """

    raw = None
    """Nothing is sent there byte by byte."""

    def __init__(
        self, name: str, asking: GrpcAsking, reader: Reader, features: int, *, seconds: float
    ) -> None:
        self.name = name
        self.features = features
        self.classes = reader.classes
        self._asking = asking
        self._reader = reader
        self._seconds = seconds
        self._channel = channel(asking.place)
        self._infer = self._channel.unary_unary(INFER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection, for good."""
        self._channel.close()

    def ask(self, row: Rows, client: str) -> Reply:
        """Asks about one row, (d,). Never raises for what the endpoint does."""
        metadata, message = self._asking.call(np.asarray(row)[None], client)
        begun = perf_counter()
        try:
            body, call = self._infer.with_call(message, metadata=metadata, timeout=self._seconds)
        except grpc.RpcError as error:
            return self._failed(error, perf_counter() - begun)
        took = perf_counter() - begun
        name = _named(call.initial_metadata(), call.trailing_metadata(), "x-request-id")
        try:
            answer = self._asking.codec.decode_response(_NoHead(), body)
            scores, label = self._reader.read(answer)
            self.classes = self._reader.classes
        except (Refusal, Unreadable) as error:
            why = error.message if isinstance(error, Refusal) else str(error)
            return Reply(Said.FAILED, 200, request_id=name, seconds=took, body=why[:_SHOWN])
        return Reply(Said.ANSWERED, 200, scores, label, name, None, took)

    @staticmethod
    def _failed(error: Any, took: float) -> Reply:
        status = HTTP.get(error.code(), 500)
        initial, trailing = error.initial_metadata(), error.trailing_metadata()
        name = _named(initial, trailing, "x-request-id")
        return Reply(
            said_of(status),
            status,
            request_id=name,
            retry_after=_retry_after(trailing),
            seconds=took,
            body=(error.details() or error.code().name)[:_SHOWN],
        )


class _NoHead:
    """A message has no headers that the codec reads."""

    def get(self, name: bytes, /) -> bytes | None:
        return None


def channel(place: Place) -> Any:
    """A channel of its own connection."""
    at = place.address
    options: list[tuple[str, int | str]] = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_receive_message_length", BOUNDS.answer_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.enable_retries", 0),
    ]
    if at.tls is None:
        return grpc.insecure_channel(_where(at), options)
    if at.server_name:
        options.append(("grpc.ssl_target_name_override", at.server_name))
    tls = place.tls
    made = channel_credentials(tls.ca, tls.certificate, tls.key) if tls else channel_credentials()
    return grpc.secure_channel(_where(at), made, options)


def metadata_of(place: Place, route: Route, seconds: float) -> tuple[int, bytes]:
    """What the server says of the model: the HTTP status that stands for gRPC's, and the message.

    Raises:
        OSError: if nobody answers.
    """
    with channel(place) as open_channel:
        ask = open_channel.unary_unary(METADATA)
        try:
            body: bytes = ask(named(route.model, route.version), timeout=seconds)
        except grpc.RpcError as error:
            if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                raise OSError(f"no gRPC at {place.address}: {error.details()}") from None
            return HTTP.get(error.code(), 500), b""
        return 200, body


def _where(address: Address) -> str:
    if address.path:
        return f"unix:{address.path}"
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"


def _named(initial: Any, trailing: Any, name: str) -> str:
    for key, value in (*(initial or ()), *(trailing or ())):
        if key == name and isinstance(value, str):
            return value
    return ""


def _retry_after(trailing: Any) -> float | None:
    """The seconds of a ``google.rpc.RetryInfo`` in the status' details; None if there are none."""
    for key, status in trailing or ():
        if key == _DETAILS and isinstance(status, bytes):
            delays: list[Any] = [status]
            for number in (3, 2, 1, 1):  # details, Any.value, retry_delay, Duration.seconds
                delays = [
                    value
                    for message in delays
                    if isinstance(message, bytes)
                    for found, value in _fields(message)
                    if found == number
                ]
            return next((float(value) for value in delays if isinstance(value, int)), None)
    return None


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The integers and spans of a message by number, up to what is neither, or is cut off."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value, at = _varint(message, at)
        if tag & 7 == 0:
            yield tag >> 3, value
        elif tag & 7 == 2 and at + value <= len(message):
            yield tag >> 3, message[at : at + value]
            at += value
        else:
            return


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """An unsigned integer, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return value, at
