"""The conformance suite over TorchServe: JSON, PNG images, and forms of one file."""

import json
import struct
import zlib

import numpy as np
from conformance import CodecConformance
from conformance_bodies import JsonBodies, with_a_member_twice
from conformance_wire import Wire, matrices
from hypothesis import strategies as st
from plain_json import INFERRED, alone, tensor, written

from proxy.protocols.torchserve import TorchServe

PATH = "/predictions/digits"


class OverTorchServe(CodecConformance):
    kind = TorchServe
    wire = Wire(
        names=("data",),
        typed=False,
        shapes=matrices,
        answers=INFERRED,
        answer_names=("predictions",),
    )

    def codec(self, contract, **bounds):
        return TorchServe(PATH, contract, **bounds)

    def target(self):
        return PATH

    def write_answer(self, named):
        """The server gives its answers no Content-Type."""
        return {}, json.dumps(alone(named)).encode()

    def parse_answer(self, headers, body):
        return {"predictions": tensor(json.loads(body))}


def rows_of(value):
    """Rows, also where one stands for itself."""
    array = tensor(value)
    return array[None] if array.ndim == 1 else array


class TestData(JsonBodies, OverTorchServe):
    def write(self, named):
        return written({"data": alone(named)})

    def parse(self, headers, body):
        assert headers == {b"content-type": b"application/json"}
        ((key, value),) = json.loads(body).items()
        assert key == "data"
        return {"data": rows_of(value)}


class TestBareJson(JsonBodies, OverTorchServe):
    """Not told to be JSON."""

    def duplicated(self):
        _, body = written({"data": alone(self.pair())})
        for odd in with_a_member_twice(body):
            yield {}, odd

    def write(self, named):
        return {}, json.dumps(alone(named)).encode()

    def parse(self, headers, body):
        assert headers == {}
        return {"data": rows_of(json.loads(body))}


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels, *, depth=8, colour=0, before=b"", after=b"", lines=None):
    """A PNG file of grey pixels, each line as it is."""
    height, width = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    if lines is None:
        lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            before,
            chunk(b"IDAT", zlib.compress(lines)),
            after,
            chunk(b"IEND", b""),
        )
    )


def pixels_of(file):
    """The grey pixels of a file as the codec writes it, by zlib alone: lines as differences."""
    assert file.startswith(b"\x89PNG\r\n\x1a\n")
    at, chunks = 8, []
    while at < len(file):
        (size,) = struct.unpack_from(">I", file, at)
        kind, data = file[at + 4 : at + 8], file[at + 8 : at + 8 + size]
        assert file[at : at + size + 12] == chunk(kind, data)
        chunks.append((kind, data))
        at += size + 12
    assert [kind for kind, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[0][1])
    assert rest == [8, 0, 0, 0, 0]
    lines = np.frombuffer(zlib.decompress(chunks[1][1]), np.uint8).reshape(height, width + 1)
    assert (lines[:, 0] == 2).all()
    return np.cumsum(lines[:, 1:], axis=0, dtype=np.uint8)


HEIGHT, WIDTH = 3, 4
IMAGES = {
    "test_too_many_rows": "a request is one image",
    "test_text_that_is_not_plain_utf_8": "the body is no text",
}


class TestPng(OverTorchServe, without=IMAGES):
    wire = Wire(
        {"UINT8"},
        names=("image",),
        shapes=lambda rows: st.just((rows, HEIGHT, WIDTH, 1)),
        shape=lambda rows: (rows, HEIGHT, WIDTH, 1),
        rows=1,
        answers=INFERRED,
        answer_names=("predictions",),
    )
    media = {b"content-type": b"image/png"}  # noqa: RUF012 - a constant

    def codec(self, contract, **bounds):
        image = {"width": WIDTH, "height": HEIGHT, "channels": 1, "scale": (0, 255)}
        return TorchServe(PATH, contract, image=image, **bounds)

    def pixels(self, named):
        ((_, array),) = named.values()
        return array[0, :, :, 0]

    def frame(self, file):
        return self.media, file

    def duplicated(self):
        pixels = self.pixels(self.pair())
        file = png(pixels)
        header = file[8:33]
        for odd in (
            file + file,
            png(pixels, before=header),
            png(pixels, before=chunk(b"acTL", struct.pack(">II", 2, 0))),
            png(pixels, after=chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", b"")),
            png(pixels, colour=3, before=chunk(b"PLTE", bytes(768)) * 2),
        ):
            yield self.frame(odd)

    def wrong(self, datatype):
        pixels = self.pixels(self.wire.example(datatype))
        for odd in (
            png(pixels, depth=16),
            png(pixels, colour=2),
            png(pixels, colour=4),
            png(pixels, colour=7),
            png(pixels, depth=3),
            png(pixels.T.copy()),
            png(pixels[:1]),
            png(pixels, lines=b"\0" * 3),
            png(pixels, lines=b"\7" * 100),
            png(pixels, colour=3, before=chunk(b"PLTE", bytes(3))),
            png(pixels, before=chunk(b"tRNS", struct.pack(">H", pixels[0, 0]))),
            png(pixels, before=chunk(b"ABCD", b"")),
        ):
            yield self.frame(odd)

    def write(self, named):
        return self.frame(png(self.pixels(named)))

    def parse(self, headers, body):
        assert headers == {b"content-type": b"image/png"}
        return {"image": pixels_of(body)[None, :, :, None]}


class TestForm(TestPng):
    media = {b"content-type": b'multipart/form-data; boundary="it\'s"'}  # noqa: RUF012 - a constant

    def frame(self, file):
        head = b'Content-Disposition: form-data; name="data"; filename="a b.png"\r\n'
        return self.media, b"--it's\r\n%b\r\n%b\r\n--it's--" % (head, file)

    def duplicated(self):
        yield from super().duplicated()
        _, body = self.write(self.pair())
        part = body.removesuffix(b"--")
        yield self.media, part + b"\r\n" + body.removeprefix(b"--it's\r\n")
        for line in body.split(b"\r\n")[1:2]:
            yield self.media, body.replace(line, line + b"\r\n" + line)

    def parse(self, headers, body):
        media, boundary = headers[b"content-type"].split(b"; boundary=")
        assert media == b"multipart/form-data"
        empty, part, rest = body.split(b"--" + boundary)
        assert (empty, rest) == (b"", b"--\r\n")
        head, file = part.split(b"\r\n\r\n", 1)
        assert head.split(b"\r\n")[1:] == [
            b'Content-Disposition: form-data; name="data"; filename="data"',
            b"Content-Type: image/png",
        ]
        return {"image": pixels_of(file.removesuffix(b"\r\n"))[None, :, :, None]}
