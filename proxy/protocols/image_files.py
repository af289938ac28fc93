"""PNG and JPEG files, taken apart before a decoder sees them, and PNG files of our own.

A decoder is given the parts that make the pixels and nothing else: no profiles, texts, thumbnails,
further pictures or unknown chunks, in whose parsers most of an image library's faults lie. The size
is known, and held against a cap, before anything is decompressed.

Sources: PNG, ISO/IEC 15948 (https://www.w3.org/TR/png-3/); JPEG, ITU-T T.81, annex B; JFIF,
ITU-T T.871.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from proxy.rules import SYNTAX, Refusal

PNG: Final = b"\x89PNG\r\n\x1a\n"
JPEG: Final = b"\xff\xd8\xff"

_CHUNKS: Final = 2**14  # of a PNG file: writers make one of 4 KiB or more
_SEGMENTS: Final = 2**10  # of a JPEG file: the largest profile has 255
_SIDE: Final = 2**14  # pixels: lines cost their reader time, however short they are
_SCANS: Final = 24  # of a progressive JPEG file: writers make about ten, each costs a pass
_DEPTHS: Final = {0: (1, 2, 4, 8), 2: (8,), 3: (1, 2, 4, 8), 4: (8,), 6: (8,)}
_SAMPLES: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel
# Adam7: first column and row of each pass, and the steps from one to the next.
_PASSES: Final = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
_ANIMATION: Final = frozenset({b"acTL", b"fcTL", b"fdAT"})
_GRAY, _COLOUR, _PALETTE = 0, 2, 3
_FAST: Final = 1  # zlib's level: a third of the time of level 3 on photographs, for a tenth more
_UP: Final = 2

# Baseline, extended sequential and progressive, all of Huffman codes: what every reader has.
_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2})
_OTHER_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - _FRAMES - {0xC4}
_TABLES: Final = frozenset({0xC4, 0xDB, 0xDD})  # Huffman codes, quantisation, restart interval
_SCAN, _END = 0xDA, 0xD9
_JFIF: Final = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_FILL: Final = re.compile(rb"\xff++")  # any number of them may stand before a marker
# Within a scan: a byte 0xFF that is not stuffed, fills nothing and restarts nothing.
_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


@dataclass(frozen=True, slots=True)
class Parts:
    """What of a file makes its pixels.

    Attributes:
        format: of the file.
        width: in pixels.
        height: in pixels.
        colours: of the palette, or 0.
        data: a file of the same format, with these parts alone.
    """

    format: Literal["PNG", "JPEG"]
    width: int
    height: int
    colours: int
    data: bytes


def take_apart(data: bytes, pixels: int) -> Parts:
    """A PNG or JPEG file without what makes no pixels. Its pixels may still be broken.

    Args:
        pixels: the most that it may have.

    Raises:
        Refusal: SYNTAX.
    """
    if data.startswith(PNG):
        return _png_parts(data, pixels)
    if data.startswith(JPEG):
        return _jpeg_parts(data, pixels)
    raise Refusal(SYNTAX, "neither a PNG nor a JPEG image")


def write_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A PNG file of these pixels, and nothing else.

    Each line is written as its difference to the one above: it costs next to nothing, and halves
    what is left of a photograph.

    Args:
        pixels: (h, w) or (h, w, 1) of grey, or (h, w, 3) of red, green and blue.
    """
    height, width = pixels.shape[:2]
    lines = pixels.reshape(height, -1)
    colour = _COLOUR if lines.shape[1] == 3 * width else _GRAY
    filtered = np.empty((height, 1 + lines.shape[1]), np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = lines[0]
    np.subtract(lines[1:], lines[:-1], out=filtered[1:, 1:])
    return b"".join(
        (
            PNG,
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)),
            _chunk(b"IDAT", zlib.compress(filtered.data, _FAST)),
            _chunk(b"IEND", b""),
        )
    )


def _check_size(width: int, height: int, pixels: int) -> None:
    if not (width and height):
        raise Refusal(SYNTAX, "an image without pixels")
    if width * height > pixels:
        raise Refusal(SYNTAX, f"an image of more than {pixels} pixels")
    if max(width, height) > _SIDE:
        raise Refusal(SYNTAX, f"an image of more than {_SIDE} pixels a side")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG file, each with the right checksum, up to its end.

    Raises:
        Refusal: SYNTAX.
    """
    at = len(PNG)
    view = memoryview(data)
    for _ in range(_CHUNKS):
        if at + 12 > len(data):
            raise Refusal(SYNTAX, "a truncated PNG image")
        size = int.from_bytes(view[at : at + 4], "big")
        stop = at + 8 + size
        if stop + 4 > len(data):
            raise Refusal(SYNTAX, "a truncated PNG image")
        if zlib.crc32(view[at + 4 : stop]) != int.from_bytes(view[stop : stop + 4], "big"):
            raise Refusal(SYNTAX, "a PNG image with a wrong checksum")
        kind = bytes(view[at + 4 : at + 8])
        yield kind, bytes(view[at + 8 : stop])
        at = stop + 4
        if kind == b"IEND":
            if size or at != len(data):
                raise Refusal(SYNTAX, "bytes after the end of a PNG image")
            return
    raise Refusal(SYNTAX, f"a PNG image of more than {_CHUNKS} chunks")


def _png_parts(data: bytes, pixels: int) -> Parts:
    chunks = _chunks(data)
    kind, header = next(chunks)
    if kind != b"IHDR" or len(header) != 13:
        raise Refusal(SYNTAX, "a PNG image without a header")
    width, height, depth, colour, *methods, interlace = struct.unpack(">IIBBBBB", header)
    _check_size(width, height, pixels)
    if depth == 16:
        raise Refusal(SYNTAX, "a PNG image of 16 bits: readers reduce it in different ways")
    if depth not in _DEPTHS.get(colour, ()) or any(methods) or interlace > 1:
        raise Refusal(SYNTAX, "a PNG image with a wrong header")
    once: dict[bytes, bytes] = {}
    packed: list[bytes] = []
    last = kind
    for kind, content in chunks:
        if kind == b"IDAT":
            if packed and last != b"IDAT":
                raise Refusal(SYNTAX, "a PNG image in pieces")
            packed.append(content)
        elif kind in (b"PLTE", b"tRNS"):
            if packed or kind in once or b"tRNS" in once:
                raise Refusal(SYNTAX, "a PNG image with its chunks out of order")
            once[kind] = content
        elif kind in _ANIMATION:
            raise Refusal(SYNTAX, "a PNG image of several frames")
        elif not kind[0] & 0x20 and kind != b"IEND":
            raise Refusal(SYNTAX, "a PNG image with an unknown chunk")
        last = kind
    palette = once.pop(b"PLTE", b"")
    colours, odd = divmod(len(palette), 3)
    if colour != _PALETTE:
        palette, colours = b"", 0  # a suggestion for screens of few colours
    elif odd or not 0 < colours <= 2**depth:
        raise Refusal(SYNTAX, "a PNG image with a wrong palette")
    transparent = once.get(b"tRNS")
    if transparent is not None:
        wanted = {_GRAY: (2,), _COLOUR: (6,), _PALETTE: range(1, colours + 1)}
        fits = len(transparent) in wanted.get(colour, ())
        if fits and colour != _PALETTE:
            fits = all(level < 2**depth for (level,) in struct.iter_unpack(">H", transparent))
        if not fits:
            raise Refusal(SYNTAX, "a PNG image with wrong transparency")
    parts = [PNG, _chunk(b"IHDR", header)]
    if palette:
        parts.append(_chunk(b"PLTE", palette))
    if transparent is not None:
        parts.append(_chunk(b"tRNS", transparent))
    lines = _inflated(b"".join(packed), _lines(width, height, depth * _SAMPLES[colour], interlace))
    parts += (_chunk(b"IDAT", zlib.compress(lines, 0)), _chunk(b"IEND", b""))
    return Parts("PNG", width, height, colours, b"".join(parts))


def _lines(width: int, height: int, bits: int, interlace: int) -> int:
    """Bytes of all lines of an image, each with its filter before it."""
    passes = _PASSES if interlace else ((0, 0, 1, 1),)
    size = 0
    for x, y, across, down in passes:
        columns, rows = -((x - width) // across), -((y - height) // down)
        if columns > 0 and rows > 0:
            size += rows * (1 + (columns * bits + 7) // 8)
    return size


def _inflated(packed: bytes, size: int) -> bytes:
    """Just so many bytes: decoders differ in what they make of fewer, and in what more may hide."""
    stream = zlib.decompressobj()
    try:
        lines = stream.decompress(packed, size + 1)
    except zlib.error:
        raise Refusal(SYNTAX, "a PNG image that does not decompress") from None
    if len(lines) != size or not stream.eof or stream.unused_data:
        raise Refusal(SYNTAX, "a PNG image with more or fewer pixels than it says")
    return lines


def _jpeg_parts(data: bytes, pixels: int) -> Parts:
    kept: list[bytes] = [data[:2]]
    size: tuple[int, int] | None = None
    scans = 0
    at = 2
    for _ in range(_SEGMENTS):
        marker, content, start, at = _segment(data, at)
        if marker == _END:
            if size is None or not scans:
                raise Refusal(SYNTAX, "a JPEG image without pixels")
            # What follows is dropped: cameras hang previews, depth maps and films there.
            kept.append(b"\xff\xd9")
            return Parts("JPEG", *size, 0, b"".join(kept))
        if marker == _SCAN:
            scans += 1
            if size is None or scans > _SCANS:
                raise Refusal(SYNTAX, "a JPEG image with a scan too many")
            found = _MARKER.search(data, at)
            if found is None:
                raise Refusal(SYNTAX, "a truncated JPEG image")
            at = found.start()
            kept.append(data[start:at])
        elif marker in _FRAMES:
            if size is not None:
                raise Refusal(SYNTAX, "a JPEG image of several frames")
            size = _frame(content)
            _check_size(*size, pixels)
            kept.append(data[start:at])
        elif marker in _TABLES:
            kept.append(data[start:at])
        elif marker == 0xE0 and content.startswith(b"JFIF\0"):
            if len(kept) == 1:
                kept.append(_JFIF)  # its colours are luminance and chrominance
        elif marker == 0xEE and content.startswith(b"Adobe") and len(content) == 12:
            kept.append(data[start:at])  # says what its colours are
        elif marker in _OTHER_FRAMES:
            raise Refusal(SYNTAX, "a JPEG image of a rare kind: arithmetic, lossless or layered")
        elif not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            raise Refusal(SYNTAX, "a JPEG image with an unknown segment")
    raise Refusal(SYNTAX, f"a JPEG image of more than {_SEGMENTS} segments")


def _segment(data: bytes, at: int) -> tuple[int, bytes, int, int]:
    """A segment's marker and content, and where it begins and ends."""
    found = _FILL.match(data, at)
    if found is None or found.end() == len(data):
        raise Refusal(SYNTAX, "a truncated JPEG image")
    at = found.end() - 1
    marker = data[at + 1]
    if marker == _END:
        return marker, b"", at, at + 2
    stop = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    if stop < at + 4 or stop > len(data):
        raise Refusal(SYNTAX, "a truncated JPEG image")
    return marker, data[at + 4 : stop], at, stop


def _frame(content: bytes) -> tuple[int, int]:
    """Width and height of a frame of one or three components of 8 bits."""
    if len(content) < 6:
        raise Refusal(SYNTAX, "a truncated JPEG image")
    precision, height, width, components = struct.unpack_from(">BHHB", content)
    if precision != 8 or components not in (1, 3) or len(content) != 6 + 3 * components:
        raise Refusal(SYNTAX, "a JPEG image that is neither grey nor of three colours of 8 bits")
    return width, height
