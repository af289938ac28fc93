"""TorchServe's ``/predictions``: rows in JSON, and images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from proxy.protocols.base import (
    INLINE_BYTES,
    Headers,
    InferRequest,
    InferResponse,
    Refused,
    Route,
    Rows,
    plain,
)
from proxy.protocols.contract import Contract
from proxy.protocols.image_files import JPEG, PNG, write_png
from proxy.protocols.images import ImageReader, ImageSpec
from proxy.protocols.json_answers import read_answer, write_answer
from proxy.protocols.json_codec import JSON_LINES, JsonCodec, dumps
from proxy.protocols.json_rows import SINGLE, read_rows, write_rows
from proxy.protocols.multipart import Part, boundary_of, read_part, write_part
from proxy.protocols.nested import may_hold_booleans
from proxy.protocols.strict_json import check_unique_keys
from proxy.protocols.torchserve_paths import Paths
from proxy.rules import (
    MEDIA_TYPE,
    SHAPE,
    SYNTAX,
    Refusal,
)

IMAGE: Final = "image"
"""The name of the tensor that is an image."""

_KEYS: Final = ("instances", "data", "inputs")
_PARTS: Final = (b"data", b"body")  # the fields that handlers look for
_OCTETS: Final = b"application/octet-stream"
_JSON: Final = re.compile(rb"(?i:application/json(?:[ \t]*;[ \t]*charset=(?:utf-8|\"utf-8\"))?)")
_IMAGE_LINES: Final = b"Content-Type: image/png\r\n"
_NO_HEAD: Final[Mapping[bytes, bytes]] = {}
_TYPES: Final = {
    400: "BadRequestException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    405: "MethodNotAllowedException",
    408: "RequestTimeoutException",
    413: "RequestEntityTooLargeException",
    415: "UnsupportedMediaTypeException",
    429: "TooManyRequestsException",
    503: "ServiceUnavailableException",
    504: "GatewayTimeoutException",
}


class TorchServe(JsonCodec):
    """The codec of one model.

    Args:
        prefix: the clients' path, ``[/BASE]/predictions/MODEL[/VERSION]``.
        contract: what the model takes; None while it is not known, and every inference is refused.
        upstream_prefix: the path on the model server; the same if None.
        max_rows: rows of one request.
        max_bytes: bytes of one request body, decompressed.
        max_response_bytes: bytes of one answer that is to be read.
        image: the fields of an ``ImageSpec``; None: images are refused.
        names: see ``JsonCodec``.

    Raises:
        ValueError: if a prefix is not such a path, if contract and image differ in their features,
            or if images are to be read and Pillow is not there.
    """

    name = "torchserve"

    def __init__(
        self,
        prefix: str,
        contract: Contract | None,
        *,
        upstream_prefix: str | None = None,
        max_rows: int = 256,
        max_bytes: int = 10 * 2**20,
        max_response_bytes: int = 10 * 2**20,
        image: Mapping[str, Any] | None = None,
        names: Sequence[str] = (),
    ) -> None:
        try:
            self._images = None if image is None else ImageReader(ImageSpec(**image))
        except ImportError as error:
            raise ValueError(
                f"images need the extra images, pip install '.[images]' in a checkout ({error})"
            ) from None
        self.inline_bytes = INLINE_BYTES if image is None else 0
        self._paths = Paths(prefix, upstream_prefix)
        self.probe: Route | None = self._paths.ping
        super().__init__(
            contract,
            max_rows=max_rows,
            max_bytes=max_bytes,
            max_response_bytes=max_response_bytes,
            names=names,
        )

    def _bind(self, contract: Contract | None) -> None:
        super()._bind(contract)
        if self._images is not None:
            self._held = self._held.with_width(self._images.spec.features)

    def learn(self, body: bytes, width: int | None) -> Contract:
        """An open contract: the answer only shows that the server is there. See ``Codec.learn``."""
        contract = super().learn(body, width)
        if self._images is not None:
            contract.with_width(self._images.spec.features)
        return contract

    def route(self, method: str, target: str) -> Route:
        """Understands a request target. See ``Codec.route``."""
        return self._paths.route(method, target)

    def decode_request(self, head: Headers, body: bytes, route: Route) -> InferRequest:
        """Reads a request strictly and within bounds: JSON, or an image, bare or as the only part
        of a form.

        Raises:
            Refusal: and nothing else, whatever the bytes.
        """
        self._admit(body)
        media = head.get(b"content-type")
        if media is not None and _JSON.fullmatch(media):
            return self._json(body, JSON_LINES)
        boundary = boundary_of(media)
        if boundary is not None:
            part = read_part(body, boundary)
            if part.name not in _PARTS:
                raise Refusal(SYNTAX, "name the part data or body")
            return self._image(part.data, part.media, {"part": part.name})
        if body.startswith((PNG, JPEG)) or (media or b"").startswith(b"image/"):
            return self._image(body, media, {})
        # Not told to be JSON, it reaches the model's code as bytes, which may parse them: so it
        # goes on with the same words.
        if media is None:
            return self._json(body, b"")
        if media == _OCTETS:
            return self._json(body, b"Content-Type: application/octet-stream\r\n")
        raise Refusal(MEDIA_TYPE, "use application/json, image/png, image/jpeg or a form of a file")

    def encode_request(self, request: InferRequest) -> tuple[bytes, bytes]:
        """The canonical header lines and body of a request. An image is a PNG, whatever it was."""
        options = request.options
        if "lines" in options:
            return options["lines"], dumps(write_rows(request))
        file = write_png(request.tensors[IMAGE][0])
        if "part" not in options:
            return _IMAGE_LINES, file
        media, body = write_part(Part(options["part"], b"image/png", file))
        return b"Content-Type: %b\r\n" % media, body

    def batch(self, request: InferRequest) -> int:
        """The most rows of one request like this one. See ``Codec.batch``."""
        if SINGLE in request.options or "lines" not in request.options:
            return 1
        return super().batch(request)

    def with_rows(
        self, request: InferRequest, rows: Rows, origins: npt.NDArray[np.int64]
    ) -> InferRequest:
        """The same question about other rows. See ``Codec.with_rows``.

        An image that is scored at another size than it came in is asked about at that size.
        """
        if "lines" in request.options or self._images is None:
            if len(rows) > self.batch(request):
                raise ValueError(f"{len(rows)} rows do not fit the request")
            return super().with_rows(request, rows, origins)
        if rows.shape != request.rows.shape:
            raise ValueError(f"rows of shape {rows.shape} do not fit the request")
        pixels = self._images.from_row(rows[0])
        return InferRequest({IMAGE: pixels[None]}, rows, 1, request.options)

    def encode_response(self, response: InferResponse) -> tuple[bytes, bytes]:
        """Header lines and body of an answer, in the form in which it was read.

        Raises:
            ValueError: for a number that is not finite: JSON has none such.
        """
        return JSON_LINES, dumps(write_answer(response.tensors, response.options["form"]))

    def refuse(self, refusal: Refusal) -> Refused:
        """A refusal as the server's own errors look."""
        status = refusal.rule.status
        error = {
            "code": status,
            "type": _TYPES.get(status, "InternalServerException"),
            "message": plain(refusal.message),
        }
        return Refused(b"application/json", orjson.dumps(error))

    def _json(self, body: bytes, lines: bytes) -> InferRequest:
        document = self._document(_NO_HEAD, body)
        booleans = may_hold_booleans(body)
        reading, options = read_rows(self._tensors, self._held, document, _KEYS, booleans=booleans)
        check_unique_keys(body, reading.keys)
        return self._request(reading, {**options, "lines": lines})

    def _image(self, data: bytes, media: bytes | None, options: Mapping[str, Any]) -> InferRequest:
        if self._images is None:
            raise Refusal(MEDIA_TYPE, "this model takes no images")
        pixels = self._images.pixels(data, media)
        rows = self._images.rows(pixels)
        rows.flags.writeable = False
        if rows.shape[1] != self._held.width:
            raise Refusal(SHAPE, f"a row has {self._held.width} features")
        return InferRequest({IMAGE: pixels[None]}, rows, 1, options)

    def _read_answer(self, document: Any) -> InferResponse:
        tensors, form = read_answer(document, labelled=True)
        first = {len(tensor) for tensor in tensors.values()}
        n = first.pop() if len(first) == 1 else 1
        return InferResponse(tensors, n, {"form": form})
