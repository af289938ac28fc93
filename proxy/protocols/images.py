"""Images as rows: PNG and JPEG files decoded within bounds, scored as an array of numbers, and
forwarded as a PNG file of the very pixels that were scored.

Pillow does the decoding (extra ``images``). What an image's pixels are is left to no reader's
taste: colour profiles, gamma and orientation are dropped unread, as Pillow's own ``open`` leaves
them be, and what would need a lossy conversion is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt

from proxy.protocols.base import Rows
from proxy.protocols.image_files import JPEG, PNG, take_apart
from proxy.rules import MEDIA_TYPE, SHAPE, SYNTAX, Refusal

if TYPE_CHECKING:
    from PIL import Image

Layout = Literal["hwc", "chw"]
Resize = Literal["none", "stretch", "cover"]
Pixels = npt.NDArray[np.uint8]

MAX_PIXELS: Final = 2**26
"""The largest cap on pixels: below the size at which Pillow itself takes an image for a bomb."""

_OPAQUE: Final = 255


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """The images that a model takes, and the numbers that are scored of one.

    Attributes:
        width: pixels of a scored image.
        height: pixels of a scored image.
        channels: 1, grey; 3, red, green and blue.
        layout: of the scored row: ``hwc``, the channels of a pixel side by side; ``chw``, one
            channel after the other.
        scale: the numbers that 0 and 255 become.
        resize: ``none``, an image has the size exactly; ``stretch``, any size is brought to it;
            ``cover``, likewise, but the proportions are kept and what protrudes is cut off on both
            sides. Bilinear, over all pixels of the original. The full image is forwarded.
        max_pixels: of an image as it comes.
    """

    width: int
    height: int
    channels: Literal[1, 3]
    layout: Layout = "hwc"
    scale: tuple[float, float] = (0.0, 1.0)
    resize: Resize = "none"
    max_pixels: int = 2**22

    def __post_init__(self) -> None:
        low, high = self.scale
        if min(self.width, self.height) < 1 or self.channels not in (1, 3):
            raise ValueError("an image has at least one pixel, of 1 or 3 channels")
        if not self.width * self.height <= self.max_pixels <= MAX_PIXELS:
            raise ValueError(f"max_pixels must hold the image, and be at most {MAX_PIXELS}")
        if not (np.isfinite(self.scale).all() and low < high):
            raise ValueError("scale must be two finite numbers, the lower one first")

    @property
    def features(self) -> int:
        """Numbers of a row."""
        return self.width * self.height * self.channels


class ImageReader:
    """Reads images of one kind. Any thread; it takes milliseconds, too long for an event loop.

    Raises:
        ImportError: if Pillow is not there.
    """

    def __init__(self, spec: ImageSpec) -> None:
        from PIL import Image, JpegImagePlugin, PngImagePlugin  # noqa: PLC0415 - an extra

        self.spec = spec
        self._image = Image
        # Each decoder by itself: ``Image.open`` would try others, and take JPEG files with several
        # pictures for another format.
        self._open = {"PNG": PngImagePlugin.PngImageFile, "JPEG": JpegImagePlugin.JpegImageFile}
        low, high = spec.scale
        self._table = np.linspace(low, high, 256).astype(np.float32)

    def pixels(self, data: bytes, media: bytes | None = None) -> Pixels:
        """The pixels of a file, as they will be forwarded: (h, w, channels), read-only.

        Args:
            media: its Content-Type; None or octets: what it is shows in its first bytes.

        Raises:
            Refusal: MEDIA_TYPE if it is another than the Content-Type says, SHAPE if it is not of
                the model's size or colours, SYNTAX for all else.
        """
        check_image_type(data, media)
        spec = self.spec
        parts = take_apart(data, spec.max_pixels)
        if spec.resize == "none" and (parts.width, parts.height) != (spec.width, spec.height):
            raise Refusal(SHAPE, f"an image is {spec.width} by {spec.height} pixels")
        try:
            with self._open[parts.format](BytesIO(parts.data)) as image:
                image.load()
                pixels = self._exact(image, parts.colours)
        except Refusal:
            raise
        except Exception:  # a decoder raises whatever its many parts do
            raise Refusal(SYNTAX, "the image cannot be decoded") from None
        if pixels.shape[:2] != (parts.height, parts.width):
            raise Refusal(SYNTAX, "the image is not of the size that it says")
        pixels.flags.writeable = False
        return pixels

    def rows(self, pixels: Pixels) -> Rows:
        """What is scored of an image: (1, features) float32, as the spec has it."""
        spec = self.spec
        sized = self._sized(pixels)
        row = self._table[sized if spec.layout == "hwc" else sized.transpose(2, 0, 1)]
        return row.reshape(1, -1)

    def from_row(self, row: Rows) -> Pixels:
        """The (h, w, channels) image whose row is the nearest to (features,) numbers."""
        spec = self.spec
        low, high = spec.scale
        levels = np.clip(np.rint((row.astype(np.float64) - low) * (255 / (high - low))), 0, 255)
        flat = levels.astype(np.uint8)
        if spec.layout == "hwc":
            return flat.reshape(spec.height, spec.width, spec.channels)
        planes = flat.reshape(spec.channels, spec.height, spec.width)
        return np.ascontiguousarray(planes.transpose(1, 2, 0))

    def _exact(self, image: Image.Image, colours: int) -> Pixels:
        """The pixels in the model's channels, if they can be had without loss."""
        if colours and int(np.asarray(image).max()) >= colours:
            raise Refusal(SYNTAX, "an image with a colour that its palette does not have")
        if image.mode in ("RGBA", "LA") or "transparency" in image.info:
            image = _opaque(image)
        elif image.mode in ("1", "P"):
            image = image.convert("L" if image.mode == "1" else "RGB")
        channels = self.spec.channels
        if image.mode == "L" and channels > 1:
            image = image.convert("RGB")
        if image.mode not in ("L", "RGB"):
            raise Refusal(SHAPE, f"an image of mode {image.mode}")
        pixels: Pixels = np.array(image).reshape(image.height, image.width, -1)
        if pixels.shape[2] == channels:
            return pixels
        red = pixels[:, :, :1]
        if not np.array_equal(pixels, np.broadcast_to(red, pixels.shape)):
            raise Refusal(SHAPE, "an image is grey")
        return red.copy()

    def _sized(self, pixels: Pixels) -> Pixels:
        spec = self.spec
        height, width, channels = pixels.shape
        if (width, height) == (spec.width, spec.height):
            return pixels
        box = None
        if spec.resize == "cover":
            ratio = min(width / spec.width, height / spec.height)
            across, down = spec.width * ratio, spec.height * ratio
            left, top = (width - across) / 2, (height - down) / 2
            box = (left, top, left + across, top + down)
        image = self._image.fromarray(pixels if channels == 3 else pixels[:, :, 0])
        bilinear = self._image.Resampling.BILINEAR
        sized = image.resize((spec.width, spec.height), bilinear, box)
        return np.asarray(sized).reshape(spec.height, spec.width, channels)


def _opaque(image: Image.Image) -> Image.Image:
    """An image without its transparency, of which there must be none: what is behind, readers make
    up in different ways."""
    full = image.convert("RGBA")
    if full.getchannel("A").getextrema() != (_OPAQUE, _OPAQUE):
        raise Refusal(SHAPE, "an image with transparency")
    opaque = full.convert("RGB")
    return opaque.getchannel("R") if image.mode in ("L", "LA") else opaque


def check_image_type(data: bytes, media: bytes | None) -> None:
    """Refuses an image that is not what its Content-Type says.

    Raises:
        Refusal: MEDIA_TYPE.
    """
    kind = (media or b"").partition(b";")[0].strip().lower()
    if kind in (b"", b"application/octet-stream"):
        return
    wanted = {b"image/png": PNG, b"image/jpeg": JPEG}.get(kind)
    if wanted is None:
        raise Refusal(MEDIA_TYPE, "use image/png or image/jpeg")
    if not data.startswith(wanted):
        raise Refusal(MEDIA_TYPE, f"the body is no {kind.decode()}")
