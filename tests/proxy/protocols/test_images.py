"""Images: decoded as Pillow would, within bounds, and written as PNG without loss."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from proxy.protocols import image_files
from proxy.protocols.image_files import take_apart, write_png
from proxy.protocols.images import MAX_PIXELS, ImageReader, ImageSpec
from proxy.rules import MEDIA_TYPE, SHAPE, SYNTAX, Refusal

RNG = np.random.default_rng(5)
WIDTH, HEIGHT = 20, 12
RGB = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
GREY = RGB[:, :, 0]
COLOUR = ImageReader(ImageSpec(WIDTH, HEIGHT, 3))
LUMA = ImageReader(ImageSpec(WIDTH, HEIGHT, 1))
ANY = ImageReader(ImageSpec(8, 8, 3, resize="stretch"))


def file(pixels, kind="PNG", **how):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    made = io.BytesIO()
    image.save(made, kind, **how)
    return made.getvalue()


def opened(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)


def refused(reader, data, media=None):
    with pytest.raises(Refusal) as refusal:
        reader.pixels(data, media)
    return refusal.value.rule


def chunk(kind, data=b""):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks, width=8, height=8, depth=8, colour=2, interlace=0):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return b"".join((image_files.PNG, chunk(b"IHDR", header), *chunks, chunk(b"IEND")))


PLAIN = chunk(b"IDAT", zlib.compress(bytes(8 * 25)))
PHOTO = Image.fromarray(RGB)
PALETTE = PHOTO.quantize(7)
JPEG = file(RGB, "JPEG")


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"progressive": True},
        {"quality": 95, "subsampling": 0},
        {"quality": 10, "optimize": True},
        {"keep_rgb": True},
        {"restart_marker_blocks": 1},
        {"icc_profile": b"p" * 200_000, "comment": b"c" * 999, "exif": b"Exif\0\0MM\0*"},
    ],
)
def test_jpeg_has_the_pixels_that_pillow_finds(how):
    data = file(RGB, "JPEG", **how)
    assert np.array_equal(COLOUR.pixels(data, b"image/jpeg"), opened(data))
    parts = take_apart(data, 10**6)
    assert len(parts.data) <= len(data)
    assert not any(word in parts.data for word in (b"ICC", b"ccc", b"Exif"))


@pytest.mark.parametrize(
    ("image", "how"),
    [
        (RGB, {}),
        (RGB, {"compress_level": 0}),
        (PALETTE, {}),
        (PALETTE, {"bits": 4}),
        (np.dstack([RGB, np.full_like(GREY, 255)]), {}),
        (RGB, {"transparency": (1, 2, 3)}),
        (GREY, {}),
        (Image.fromarray(GREY).convert("1"), {}),
    ],
    ids=["rgb", "stored", "palette", "4 bit", "opaque", "unused key", "grey", "1 bit"],
)
def test_png_has_the_pixels_that_pillow_finds(image, how):
    data = file(image, **how)
    with Image.open(io.BytesIO(data)) as reference:
        expected = np.array(reference.convert("RGB"))
    pixels = COLOUR.pixels(data, b"image/png")
    assert np.array_equal(pixels, expected)
    assert not pixels.flags.writeable


@pytest.mark.parametrize("form", ["L", "LA", "RGB", "P"])
def test_grey_in_whatever_form(form):
    data = file(Image.fromarray(GREY).convert(form))
    assert np.array_equal(LUMA.pixels(data)[:, :, 0], GREY)


def test_interlaced():
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
    lines = b""
    for x, y, across, down in [*passes, (0, 1, 1, 2)]:
        for row in RGB[:8, :8][y::down, x::across]:
            lines += b"\0" + row.tobytes()
    data = png(chunk(b"IDAT", zlib.compress(lines)), interlace=1)
    assert np.array_equal(ANY.pixels(data), RGB[:8, :8])


CLEAR = np.dstack([RGB, np.full_like(GREY, 255)])
CLEAR[3, 4, 3] = 254


@pytest.mark.parametrize(
    ("reader", "data", "rule"),
    [
        (LUMA, file(RGB), SHAPE),
        (LUMA, JPEG, SHAPE),
        (COLOUR, file(CLEAR), SHAPE),
        (COLOUR, file(PALETTE, transparency=3), SHAPE),
        (LUMA, file(GREY, transparency=int(GREY[0, 0])), SHAPE),
        (COLOUR, file(RGB[:-1]), SHAPE),
        (COLOUR, file(RGB.transpose(1, 0, 2)), SHAPE),
        (LUMA, file(GREY.astype(np.uint16)), SYNTAX),
        (COLOUR, file(PHOTO.convert("CMYK"), "JPEG"), SYNTAX),
        (COLOUR, file(PHOTO, save_all=True, append_images=[PALETTE]), SYNTAX),
        (COLOUR, file(PHOTO, "GIF"), SYNTAX),
        (COLOUR, file(PHOTO, "BMP"), SYNTAX),
        (COLOUR, file(PHOTO, "TIFF"), SYNTAX),
        (COLOUR, file(PHOTO, "WEBP"), SYNTAX),
        (COLOUR, b"", SYNTAX),
        (COLOUR, file(RGB) + b"PK\3\4", SYNTAX),
        (COLOUR, b"\0" + file(RGB), SYNTAX),
    ],
)
def test_what_no_two_readers_take_alike(reader, data, rule):
    assert refused(reader, data) is rule


def test_the_media_type_must_be_true():
    assert refused(COLOUR, file(RGB), b"image/jpeg") is MEDIA_TYPE
    assert refused(COLOUR, JPEG, b"image/png") is MEDIA_TYPE
    assert refused(COLOUR, file(RGB), b"image/gif") is MEDIA_TYPE
    assert refused(COLOUR, file(RGB), b"text/html") is MEDIA_TYPE
    for media in (None, b"application/octet-stream", b"Image/PNG", b"image/png; a=b"):
        assert COLOUR.pixels(file(RGB), media).shape == RGB.shape


def test_further_pictures_of_a_jpeg_are_dropped():
    several = file(PHOTO, "MPO", save_all=True, append_images=[Image.fromarray(255 - RGB)])
    assert np.array_equal(COLOUR.pixels(several), opened(JPEG))
    assert np.array_equal(COLOUR.pixels(JPEG + b"PK\3\4" * 99), opened(JPEG))
    assert take_apart(JPEG + b"PK\3\4", 10**6).data == take_apart(JPEG, 10**6).data


BARE = take_apart(png(PLAIN), 64).data
BOMB = zlib.compress(bytes(10**7), 9)


@pytest.mark.parametrize(
    "data",
    [
        png(PLAIN, width=2**31 - 1, height=2**31 - 1),
        png(PLAIN, width=2**12, height=2**10 + 1),
        png(PLAIN, width=0),
        png(PLAIN, height=0),
        png(PLAIN, height=9),
        png(PLAIN, depth=7),
        png(PLAIN, colour=5),
        png(PLAIN, interlace=2),
        png(),
        png(chunk(b"IDAT")),
        png(chunk(b"IDAT", b"x" * 99)),
        png(chunk(b"IDAT", zlib.compress(bytes(8 * 25 - 1)))),
        png(chunk(b"IDAT", zlib.compress(bytes(8 * 25 + 1)))),
        png(chunk(b"IDAT", zlib.compress(bytes(8 * 25)) + b"x")),
        png(chunk(b"IDAT", zlib.compress(bytes(8 * 25))[:-1])),
        png(chunk(b"IDAT", zlib.compress(b"\5" + bytes(8 * 25 - 1)))),
        png(PLAIN, chunk(b"tEXt", b"a\0b"), PLAIN),
        png(chunk(b"PLTE", bytes(3)), PLAIN, chunk(b"PLTE", bytes(3))),
        png(chunk(b"PLTE", bytes(4)), PLAIN, colour=3),
        png(chunk(b"PLTE", bytes(771)), PLAIN, colour=3),
        png(PLAIN, colour=3),
        png(chunk(b"PLTE", bytes(3)), chunk(b"IDAT", zlib.compress(b"\0\1" * 36)), colour=3),
        png(chunk(b"tRNS", bytes(257)), PLAIN),
        png(chunk(b"tRNS", bytes(3)), PLAIN),
        png(chunk(b"tRNS", b"\1\0" * 3), PLAIN),
        png(chunk(b"acTL", bytes(8)), PLAIN),
        png(PLAIN, chunk(b"QUUX")),
        png(PLAIN).replace(b"IDAT", b"IDAU"),
        png(PLAIN)[:-12],
        png(PLAIN)[:-1],
        image_files.PNG,
        image_files.PNG + chunk(b"IDAT"),
        image_files.PNG + chunk(b"IHDR", bytes(13)) + chunk(b"tEXt") * 20_000,
        image_files.PNG + b"\xff" * 99,
    ],
)
def test_crafted_png(data):
    assert refused(ANY, data) is SYNTAX


def test_bombs_cost_nothing():
    """What expands is either not read at all, or only as far as the image goes."""
    assert len(BARE) < 999
    for kind in (b"iTXt", b"zTXt", b"iCCP", b"eXIf"):
        bomb = png(chunk(kind, b"k\0\0" + BOMB), PLAIN)
        assert take_apart(bomb, 64).data == BARE
    assert refused(ANY, png(chunk(b"IDAT", BOMB))) is SYNTAX
    split = [chunk(b"IDAT", PLAIN[8:-4][at : at + 1]) for at in range(len(PLAIN) - 12)]
    assert take_apart(png(*split), 64).data == BARE


def at(marker):
    return JPEG.index(bytes((0xFF, marker)))


def sized(width, height):
    start = at(0xC0) + 5
    return JPEG[:start] + struct.pack(">HH", height, width) + JPEG[start + 4 :]


SCAN = JPEG[at(0xDA) : -2]


@pytest.mark.parametrize(
    "data",
    [
        sized(65535, 65535),
        sized(0, 8),
        sized(8, 0),
        JPEG[:-2],
        JPEG[: at(0xDA)] + b"\xff\xd9",
        JPEG[: at(0xC0)] + JPEG[at(0xDA) :],
        JPEG[: at(0xC0)] + JPEG[at(0xC0) : at(0xC4)] + JPEG[at(0xC0) :],
        JPEG[:-2] + SCAN * 24 + b"\xff\xd9",
        JPEG.replace(b"\xff\xc0", b"\xff\xc3"),
        JPEG.replace(b"\xff\xc0", b"\xff\xc9"),
        JPEG.replace(b"\xff\xc0", b"\xff\xdc"),
        JPEG[:2] + b"\xff\xf0\0\2" + JPEG[2:],
        JPEG[:2] + b"\xff\xfe\0\1" + JPEG[2:],
        JPEG[:2] + b"\xff\xfe\xff\xff",
        JPEG[:2] + b"\xff\xfe\0\2" * 2000 + JPEG[2:],
        JPEG[:2] + b"\xff" * 1_000_000,
        JPEG[:2] + b"\xff\xd8" * 99,
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xc0\0\4\x08\0\xff\xd9",
    ],
)
def test_crafted_jpeg(data):
    assert refused(ANY, data) is SYNTAX


def test_a_scan_of_stuffing_costs_no_loop():
    data = JPEG[: at(0xDA) + 14] + b"\xff\x00\xff\xd0" * 250_000 + b"\xff\xd9"
    assert len(take_apart(data, 10**6).data) == pytest.approx(len(data), abs=99)


@pytest.mark.parametrize(
    ("data", "checked"),
    [(file(RGB), True), (JPEG, False), (file(RGB, "JPEG", progressive=True), False)],
    ids=["png", "jpeg", "progressive"],
)
def test_every_prefix_and_every_odd_byte(data, checked):
    """PNG has checksums; a JPEG with an odd byte is another image."""
    accepted = 0
    for cut in range(len(data)):
        refused(COLOUR, data[:cut])
        odd = data[:cut] + bytes((data[cut] ^ 0x55,)) + data[cut + 1 :]
        try:
            pixels = COLOUR.pixels(odd)
        except Refusal:
            continue
        accepted += 1
        assert pixels.shape == RGB.shape
    assert (accepted == 0) is checked


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_written_is_what_was_read(channels):
    pixels = RGB[:, :, :channels]
    data = write_png(pixels)
    assert np.array_equal(opened(data).reshape(pixels.shape), pixels)
    assert write_png((COLOUR if channels == 3 else LUMA).pixels(data)) == data
    assert np.array_equal(opened(write_png(pixels[:1, :1])).ravel(), pixels[0, 0])


@pytest.mark.parametrize("layout", ["hwc", "chw"])
@pytest.mark.parametrize("scale", [(0, 1), (0, 255), (-1, 1), (-2.1, 2.6)])
def test_rows_and_back(layout, scale):
    reader = ImageReader(ImageSpec(WIDTH, HEIGHT, 3, layout, scale))
    pixels = reader.pixels(file(RGB))
    rows = reader.rows(pixels)
    assert (rows.shape, rows.dtype) == ((1, reader.spec.features), np.float32)
    planes = RGB if layout == "hwc" else RGB.transpose(2, 0, 1)
    low, high = scale
    expected = low + planes.reshape(1, -1) / 255 * (high - low)
    assert np.allclose(rows, expected, atol=1e-6)
    assert rows.min() >= np.float32(low)
    assert rows.max() <= np.float32(high)
    assert np.array_equal(reader.from_row(rows[0]), RGB)
    assert reader.from_row(rows[0] * 99 + 7).shape == RGB.shape


def test_a_side_is_capped():
    """A column of four million pixels in 8 KB: each line costs its reader time."""
    whole = zlib.compress(bytes(2 * 16_384))
    tall = png(chunk(b"IDAT", whole), width=1, height=16_384, colour=0)
    assert ANY.pixels(tall).shape == (16_384, 1, 3)
    for width, height in ((1, 16_385), (16_385, 1), (1, 2**22)):
        lines = chunk(b"IDAT", zlib.compress(bytes(height * (width + 1))))
        assert refused(ANY, png(lines, width=width, height=height, colour=0)) is SYNTAX
    jpeg = bytearray(JPEG)
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 16_385, 8)
    assert refused(ANY, bytes(jpeg)) is SYNTAX


def test_resized_for_scoring_alone():
    large = np.repeat(np.repeat(RGB, 4, axis=0), 4, axis=1)
    for resize in ("stretch", "cover"):
        reader = ImageReader(ImageSpec(WIDTH, HEIGHT, 3, resize=resize))
        pixels = reader.pixels(file(large))
        assert np.array_equal(pixels, large)
        assert reader.rows(pixels).shape == (1, RGB.size)
        assert np.array_equal(reader.rows(reader.pixels(file(RGB))), COLOUR.rows(RGB))


def test_cover_cuts_what_protrudes():
    wide = np.zeros((8, 24, 1), np.uint8)
    wide[:, 8:16] = 200
    reader = ImageReader(ImageSpec(8, 8, 1, scale=(0, 255), resize="cover"))
    assert np.array_equal(reader.rows(wide), np.full((1, 64), 200))
    reader = ImageReader(ImageSpec(8, 8, 1, scale=(0, 255), resize="stretch"))
    assert reader.rows(wide).min() == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"channels": 2},
        {"scale": (1, 1)},
        {"scale": (0, float("nan"))},
        {"max_pixels": 63},
        {"max_pixels": MAX_PIXELS + 1},
    ],
)
def test_a_specification_without_sense(wrong):
    with pytest.raises(ValueError, match=r"image|scale|max_pixels"):
        ImageSpec(**({"width": 8, "height": 8, "channels": 1} | wrong))


def test_the_cap_is_below_pillows_own():
    assert MAX_PIXELS < Image.MAX_IMAGE_PIXELS
