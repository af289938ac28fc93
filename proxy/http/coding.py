"""Content codings of request bodies (RFC 9110, 8.4.1), undone within bounds.

A body is decoded once, completely, before anything looks at it, and forwarded plain.
"""

from __future__ import annotations

import zlib
from typing import Final

import zstandard

from proxy.rules import BODY_TOO_LARGE, CODED_BODY, CODING, RATIO, Refusal

# zlib's window bits: gzip members, and the zlib format that RFC 9110 calls deflate. Raw deflate,
# which some clients send under that name, has no check value and is refused.
_WINDOW_BITS: Final = {b"gzip": 31, b"deflate": 15}
# A decoder that follows RFC 9659 needs no larger window for content coding zstd.
_ZSTD_WINDOW: Final = 8 * 2**20
_PIECE: Final = 64 * 2**10  # bytes
_USUAL_RATIO: Final = 8  # JSON numbers: about 2; sparse images: more


def decode(coding: bytes | None, body: bytes, *, limit: int, ratio: int) -> bytes:
    """Undoes one content coding.

    The bounds hold while decoding, not only afterwards: a body that passes them costs some 16 times
    its own size, one that does not costs its decoded size once.

    Args:
        coding: the value of Content-Encoding, or None. One coding, in any letter case.
        body: as received.
        limit: bytes that the decoded body may have.
        ratio: how many times longer than ``body`` the decoded body may be.

    Raises:
        Refusal: CODING for any other coding, or several; CODED_BODY if the body is corrupt,
            truncated, or has anything after its end (a second member or frame too);
            BODY_TOO_LARGE and RATIO past the bounds.
    """
    name = b"identity" if coding is None else coding.strip(b" \t").lower()
    if name == b"identity":
        if len(body) > limit:
            raise _beyond(limit)
        return body
    bound = min(limit, ratio * len(body))
    excess = _beyond(limit) if bound == limit else Refusal(RATIO)
    if name in _WINDOW_BITS:
        return _inflate(body, _WINDOW_BITS[name], bound, excess)
    if name == b"zstd":
        return _unzstd(body, bound, excess)
    raise Refusal(CODING, "use gzip, deflate, zstd or identity")


def _beyond(limit: int) -> Refusal:
    return Refusal(BODY_TOO_LARGE, f"at most {limit} bytes")


def _inflate(body: bytes, window_bits: int, bound: int, excess: Refusal) -> bytes:
    decoder = zlib.decompressobj(window_bits)
    step = max(_PIECE, _USUAL_RATIO * len(body))
    size = 0
    rest = body
    try:
        while True:
            piece = decoder.decompress(rest, min(step, bound + 1 - size))
            first = size == 0
            size += len(piece)
            if size > bound:
                raise excess
            if decoder.eof:
                break
            rest = decoder.unconsumed_tail
            if not piece and not rest:
                raise Refusal(CODED_BODY, "truncated")
    except zlib.error:
        raise Refusal(CODED_BODY, "corrupt") from None
    if decoder.unused_data:
        raise Refusal(CODED_BODY, "bytes after its end")
    # What expands further than usual was only counted so far: now it has one buffer of its size.
    return piece if first else zlib.decompress(body, window_bits, size)


def _unzstd(body: bytes, bound: int, excess: Refusal) -> bytes:
    unpacker = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    try:
        # Two passes, since the library has either a bound or an end that can be told from
        # truncation, not both: the first only counts, the second is then known to fit.
        size = 0
        with unpacker.stream_reader(body, read_across_frames=False) as reader:
            while piece := reader.read(_PIECE):
                size += len(piece)
                if size > bound:
                    raise excess
        frame = unpacker.decompressobj()
        plain = frame.decompress(body)
    except zstandard.ZstdError:
        raise Refusal(CODED_BODY, "corrupt") from None
    if not frame.eof:
        raise Refusal(CODED_BODY, "truncated")
    if frame.unused_data:
        raise Refusal(CODED_BODY, "bytes after its end")
    return plain
