"""The fastest gRPC upstream there can be: the same answer for every inference.

It is to measure a proxy, so it must cost little itself: it speaks the part of HTTP/2 (RFC 9113)
that gRPC clients need, and reads frames but no headers. So it cannot tell one method from another,
and takes small messages for questions about readiness.

Run as ``python -m loadtest.grpc_echo --listen 127.0.0.1:0 --model f64``.
"""

from __future__ import annotations

import argparse
import asyncio
from struct import Struct
from typing import Final, cast

from loadtest.grpc_messages import READY, answer_message
from loadtest.serving import serve

SMALL: Final = 128
"""Bytes of a message below which it is no inference: a row of 64 features is more."""

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 4, 6, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_FRAME: Final = Struct(">BHBBI")  # length in 8 and 16 bits, type, flags, stream
_PREFIXED: Final = Struct(">BI")  # of a gRPC message: not compressed, length
_NUMBER: Final = Struct(">I")
_SETTING: Final = Struct(">HI")
_INITIAL_WINDOW_SIZE: Final = 4
# What may be sent to us before we say more: on a stream, and on a connection, where we do.
_WINDOW: Final = 2**30


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2."""
    length = len(payload)
    return _FRAME.pack(length >> 16, length & 0xFFFF, kind, flags, stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header that no table remembers (RFC 7541, section 6.2.2); both shorter than 127 bytes."""
    return b"\0%c%b%c%b" % (len(name), name, len(value), value)


_HEAD: Final = b"\x88" + literal(b"content-type", b"application/grpc")  # 0x88 is ":status: 200"
_TRAILERS: Final = literal(b"grpc-status", b"0")


def answer(stream: int, message: bytes) -> bytes:
    """The frames of an answer."""
    return (
        frame(_HEADERS, _END_HEADERS, stream, _HEAD)
        + frame(_DATA, 0, stream, _PREFIXED.pack(0, len(message)) + message)
        + frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, _TRAILERS)
    )


class GrpcEcho(asyncio.Protocol):
    """Answers every message as it ends."""

    def __init__(self, model: str) -> None:
        self._answer = answer_message(model)
        self._pending = b""
        self._met = False
        self._begun: dict[int, int] = {}  # bytes so far, by stream
        self._received = 0
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        settings = frame(_SETTINGS, 0, 0, _SETTING.pack(_INITIAL_WINDOW_SIZE, _WINDOW))
        more = frame(_WINDOW_UPDATE, 0, 0, _NUMBER.pack(_WINDOW))
        self._transport.write(settings + more)

    def data_received(self, data: bytes) -> None:
        if self._pending:
            data = self._pending + data
        at = 0
        if not self._met:
            if len(data) < len(_PREFACE):
                self._pending = data
                return
            if not data.startswith(_PREFACE):
                self._transport.abort()
                return
            self._met, at = True, len(_PREFACE)
        out = []
        while len(data) - at >= _FRAME.size:
            high, low, kind, flags, stream = _FRAME.unpack_from(data, at)
            end = at + _FRAME.size + (high << 16 | low)
            if end > len(data):
                break
            if kind == _DATA:
                self._received += end - at
                size = end - at + self._begun.pop(stream, 0)
                if flags & _END_STREAM:
                    out.append(answer(stream, READY if size < SMALL else self._answer))
                else:
                    self._begun[stream] = size
            elif kind == _SETTINGS and not flags & _ACK:
                out.append(frame(_SETTINGS, _ACK, 0))
            elif kind == _PING and not flags & _ACK:
                out.append(frame(_PING, _ACK, 0, data[at + _FRAME.size : end]))
            at = end
        self._pending = data[at:]
        if self._received > _WINDOW // 2:
            out.append(frame(_WINDOW_UPDATE, 0, 0, _NUMBER.pack(self._received)))
            self._received = 0
        if out:
            self._transport.write(b"".join(out))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="loadtest.grpc_echo", description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--model", required=True, metavar="NAME")
    options = parser.parse_args(arguments)
    serve(options.listen, lambda: GrpcEcho(options.model))


if __name__ == "__main__":
    main()
