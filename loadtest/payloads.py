"""Open Inference Protocol v2 requests, rendered once, in pools large enough to defeat any cache."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from loadtest.wire import Header, render_request

Floats = npt.NDArray[np.float32]
TENSOR = "input"


def infer_json(rows: Floats, request_id: str = "") -> bytes:
    """The JSON body of one v2 inference request for (n, d) rows."""
    return orjson.dumps(_document(rows, request_id, data=rows.ravel()), option=_NUMPY)


def infer_binary(
    rows: Floats, request_id: str = "", *, binary_output: bool = False
) -> tuple[bytes, int]:
    """One request in Triton's binary extension: the body, and the length of its JSON header."""
    tail = np.ascontiguousarray(rows, "<f4").tobytes()
    document = _document(rows, request_id, parameters={"binary_data_size": len(tail)})
    if binary_output:
        document["parameters"] = {"binary_data_output": True}
    header = orjson.dumps(document)
    return header + tail, len(header)


def infer_request(
    rows: Floats,
    host: str,
    target: str,
    *,
    binary: bool = False,
    headers: Iterable[Header] = (),
    request_id: str = "",
) -> bytes:
    """The bytes of one whole POST of (n, d) rows."""
    extra = list(headers)
    if binary:
        body, length = infer_binary(rows, request_id)
        extra += [
            ("Content-Type", "application/octet-stream"),
            ("Inference-Header-Content-Length", str(length)),
        ]
    else:
        body = infer_json(rows, request_id)
        extra.append(("Content-Type", "application/json"))
    return render_request("POST", target, host, body, extra)


def infer_target(model: str) -> str:
    """The path of a model's inference call."""
    return f"/v2/models/{model}/infer"


_NUMPY = orjson.OPT_SERIALIZE_NUMPY


def _document(rows: Floats, request_id: str, **tensor: Any) -> dict[str, Any]:
    document: dict[str, Any] = {"id": request_id} if request_id else {}
    document["inputs"] = [{"name": TENSOR, "shape": list(rows.shape), "datatype": "FP32", **tensor}]
    return document
