"""What it costs to read an image and to write the one that is forwarded. A part of
``loadtest.codec_cost``.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from loadtest.report import table
from proxy.build_codecs import Bounds, Spoken, codec
from proxy.protocols.contract import Contract
from proxy.settings.protocols import TorchServe

SHAPES: Final = ((28, 28, 1), (224, 224, 3))
_PATH: Final = "/predictions/m"


def picture(shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """(height, width, channels): waves with a little noise, which compress as photographs do."""
    y, x, c = np.indices(shape)
    waves = np.sin(5 * x / shape[1] + c) * np.cos(4 * y / shape[0] - c)
    noise = np.random.default_rng(0).normal(0, 6, shape)
    return np.asarray(np.clip(128 + 90 * waves + noise, 0, 255), np.uint8)


def encoded(pixels: npt.NDArray[np.uint8], form: str) -> bytes:
    """A file of these pixels, PNG or JPEG."""
    from PIL import Image  # noqa: PLC0415 - of an extra

    into = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(into, form)
    return into.getvalue()


def image_costs(least: Callable[[Callable[[], Any]], float]) -> dict[str, tuple[int, float, float]]:
    """By size and format: bytes, and microseconds to read and to write. Nothing without Pillow.

    Args:
        least: times a call.
    """
    found: dict[str, tuple[int, float, float]] = {}
    if importlib.util.find_spec("PIL") is None:
        return found
    for shape in SHAPES:
        height, width, channels = shape
        settings = TorchServe.model_validate(
            {"image": {"width": width, "height": height, "channels": channels}}
        )
        reader = codec(Spoken(settings, _PATH), Contract(), Bounds())
        route = reader.route("POST", _PATH)
        for form in ("PNG", "JPEG"):
            body = encoded(picture(shape), form)
            head = {b"content-type": f"image/{form.lower()}".encode()}
            read = partial(reader.decode_request, head, body, route)
            write = partial(reader.encode_request, read())
            title = f"{form}, {width} x {height}, {'grey' if channels == 1 else 'colour'}"
            found[title] = (len(body), least(read), least(write))
    return found


def lines_of(costs: Mapping[str, tuple[int, float, float]]) -> list[str]:
    """Of the page; none without figures."""
    if not costs:
        return []
    rows = [
        [title, f"{size:,}", f"{reading:,.0f}", f"{writing:,.0f}"]
        for title, (size, reading, writing) in costs.items()
    ]
    return [
        "",
        "An image to TorchServe, read in a thread, and written as the PNG that is forwarded:",
        "",
        *table(["", "bytes", "read, µs", "write, µs"], rows),
    ]
