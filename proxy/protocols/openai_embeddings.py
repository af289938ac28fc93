"""Embeddings in answers of OpenAI's API, as floats or as base64: read, and written back alike."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from typing import Any, Final

import numpy as np
import orjson

from proxy.protocols.base import InferResponse, Rows
from proxy.protocols.strict_json import check_unique_keys, count_keys, loads
from proxy.rules import BODY_TOO_LARGE, MEDIA_TYPE, SHAPE, SYNTAX, VALUE, Refusal

NAME: Final = "embedding"
"""The tensor's name: (n, d) FP32, in the order of the inputs."""

_JSON: Final = b"content-type: application/json\r\n"
_FLOAT: Final = np.dtype("<f4")


def read(body: bytes, *, coded: bool, width: int | None, most: int) -> InferResponse:
    """An answer with one embedding for each input.

    Args:
        coded: whether it has a content coding; then it is refused.
        width: what each embedding must have; None: any, but all the same.
        most: bytes that the answer may have.

    Raises:
        Refusal: and nothing else, whatever the bytes.
    """
    if len(body) > most:
        raise Refusal(BODY_TOO_LARGE, f"at most {most} bytes")
    if coded:
        raise Refusal(MEDIA_TYPE, "the answer has a content coding")
    document = loads(body)
    data = document.get("data") if type(document) is dict else None
    if type(data) is not list or not data:
        raise Refusal(SYNTAX, "data is not a list of embeddings")
    vectors: list[Any] = []
    for item in data:
        if type(item) is not dict or type(item.get(NAME)) not in (str, list):
            raise Refusal(SYNTAX, "an embedding is neither a list of numbers nor base64")
        vectors.append(item[NAME])
        item[NAME] = None  # numbers are no keys: they need not be looked through
    check_unique_keys(body, count_keys(document))
    order = _order(data)
    rows = np.stack(_alike([_vector(vector) for vector in vectors], width))[order]
    forms = [type(vector) is str for vector in vectors]
    options = {"document": document, "order": order, "base64": forms}
    rows.flags.writeable = False
    return InferResponse({NAME: rows}, len(rows), options, rows)


def write(response: InferResponse) -> tuple[bytes, bytes]:
    """Header lines and body of such an answer, each embedding in the form in which it came.

    Raises:
        ValueError: for a number that is not finite.
    """
    document, forms = response.options["document"], response.options["base64"]
    rows = np.empty_like(response.tensors[NAME], dtype=_FLOAT)
    rows[response.options["order"]] = response.tensors[NAME]
    if not np.isfinite(rows).all():
        raise ValueError("an embedding is not finite")
    data = [
        {**item, NAME: b64encode(row.tobytes()).decode() if packed else row.astype(np.float64)}
        for item, row, packed in zip(document["data"], rows, forms, strict=True)
    ]
    return _JSON, orjson.dumps({**document, "data": data}, option=orjson.OPT_SERIALIZE_NUMPY)


def _order(data: list[dict[str, Any]]) -> list[int]:
    """For each input where its embedding is in the answer."""
    given = [item.get("index", place) for place, item in enumerate(data)]
    if set(map(type, given)) != {int} or sorted(given) != list(range(len(data))):
        raise Refusal(SYNTAX, "index does not number the embeddings")
    return sorted(range(len(data)), key=given.__getitem__)


def _vector(value: str | list[Any]) -> Rows:
    if type(value) is str:
        try:
            packed = b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise Refusal(SYNTAX, "an embedding is not base64") from None
        if not packed or len(packed) % _FLOAT.itemsize:
            raise Refusal(SHAPE, "an embedding is not of whole numbers of 4 bytes")
        vector = np.frombuffer(packed, _FLOAT).astype(np.float32)
    else:
        if not value or not set(map(type, value)) <= {int, float}:
            raise Refusal(VALUE, "an embedding holds what is no number")
        with np.errstate(over="ignore"):
            vector = np.array(value, np.float64).astype(np.float32)
    if not np.isfinite(vector).all():
        raise Refusal(VALUE, "an embedding is not finite")
    return vector


def _alike(vectors: list[Rows], width: int | None) -> list[Rows]:
    most = len(vectors[0]) if width is None else width
    if any(len(vector) != most for vector in vectors):
        raise Refusal(SHAPE, f"an embedding is not of {most} numbers")
    return vectors
