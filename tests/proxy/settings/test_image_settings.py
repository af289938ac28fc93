"""The images of a model behind TorchServe, as the configuration states them."""

import pytest
from test_models import faults, make

from proxy.protocols.images import ImageSpec
from proxy.settings.protocols import Image

SIZE = {"width": 28, "height": 28, "channels": 1}


def photos(image):
    return {"match": "/predictions/m", "protocol": {"name": "torchserve", "image": image}}


def test_an_image_is_what_its_reader_takes():
    given = SIZE | {"layout": "chw", "scale": [-1, 1], "resize": "cover", "max_pixels": 1000}
    image = make(photos(given)).endpoints[0].protocol.image
    assert image == Image(**given)
    assert ImageSpec(**image.model_dump()).scale == (-1, 1)
    plain = make(photos(SIZE)).endpoints[0].protocol.image
    assert ImageSpec(**plain.model_dump()) == ImageSpec(**SIZE)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"width": 0}, "greater than 0"),
        ({"channels": 4}, "1 or 3"),
        ({"layout": "nhwc"}, "'hwc' or 'chw'"),
        ({"scale": [1, 0]}, "the first number must be below the second"),
        ({"scale": [0]}, "at least 2 items"),
        ({"scale": [0, 1, 2]}, "at most 2 items"),
        ({"max_pixels": 783}, "more pixels"),
        ({"max_pixels": 2**26 + 1}, "less than or equal to"),
        ({"mean": 0.5}, "not permitted"),
    ],
)
def test_what_has_no_sense(wrong, words):
    found = faults(photos(SIZE | wrong))
    assert any(words in message for message in found.values()), found
