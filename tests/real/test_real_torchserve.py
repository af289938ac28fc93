"""TorchServe with rows and with images. Its clients are whatever sends HTTP."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from real_bytes import A, B, Bytes, dumps
from real_bytes_json import EVERYWHERE, joined, json_probes
from real_guard import Way
from real_java import TorchServe
from real_pairs import ROUNDS, Pair

SERVER = TorchServe
PICTURES = {
    "name": "torchserve",
    "image": {"width": 2, "height": 2, "channels": 1, "scale": [-1, 1]},
}
WAYS = {
    "torchserve": Way("torchserve", "/predictions/{model}", "/predictions/linear"),
    "images": Way(PICTURES, "/predictions/{model}-images", "/predictions/linear"),
}


class RequestsPair(Pair):
    client = "requests"
    distribution = "requests"
    environment = "clients"
    program = "requests_driver.py"
    blocked = ("requests.exceptions.HTTPError", "403")
    limited = ("requests.exceptions.HTTPError", "429")
    wordless = True  # it never shows a body in its exception


class TestRows(RequestsPair):
    way = "torchserve"
    shown_way = "TorchServe"

    def ask(self, driver, guarded, rows, model="linear", *, through=True):
        url = f"http://127.0.0.1:{guarded.port(through)}/predictions/{model}"
        return driver.ask(url=url, json=rows)


class ImagePair(RequestsPair):
    """Grey images of four pixels."""

    way = "images"
    form = "PNG"
    sent: tuple[tuple[str, str], ...] = (("content_type", "image/png"),)

    def questions(self):
        draw = np.random.default_rng(17)
        return [draw.integers(0, 256, (2, 2), dtype=np.uint8) for _ in range(ROUNDS)]

    def ask(self, driver, guarded, pixels, model="linear", *, through=True):
        saved = io.BytesIO()
        if pixels.shape != (2, 2):
            pixels = np.zeros((2, 2), np.uint8)
        Image.fromarray(pixels).save(saved, self.form)
        path = f"/predictions/{model}-images" if through else "/predictions/linear"
        return driver.ask(
            url=f"http://127.0.0.1:{guarded.port(through)}{path}",
            body=base64.b64encode(saved.getvalue()).decode(),
            **dict(self.sent),
        )

    test_a_block = None  # every image of so few pixels is an honest one


class TestPng(ImagePair):
    shown_way = "TorchServe, PNG"


class TestJpeg(ImagePair):
    shown_way = "TorchServe, JPEG"
    form = "JPEG"
    sent = (("content_type", "image/jpeg"),)


class TestForm(ImagePair):
    shown_way = "TorchServe, PNG in a form"
    sent = (("content_type", "image/png"), ("field", "data"))


class TestPut(ImagePair):
    shown_way = "TorchServe, PNG by PUT"
    sent = (("method", "PUT"),)


def document(rows):
    return {"instances": rows}


PROBES = json_probes(document, joined(dumps(document([A])), dumps(document([B]))))


class TestBytes(Bytes):
    protocol = "TorchServe"
    THROUGH = (("content type absent", "503"),)  # its handler takes the bytes for an image
    DIRECT = (
        ("content type absent", "503"),
        ("5000 rows in a request", "answers"),
        ("NaN", "NaN"),
        ("UTF-16", "503"),
        ("byte order mark", "503"),
        ("duplicate JSON key", "last"),
        ("gzip", "503"),
        ("numeric strings", "coerces"),
    )
    EVERYWHERE = EVERYWHERE

    def extract(self, body):
        return json.loads(body)

    @pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
    def test_bytes(self, guarded, observe, probe):
        self.compare(guarded, observe, probe, "/predictions/linear")
