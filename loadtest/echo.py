"""The fastest upstream there can be: the same v2 answer for every inference request.

It is to measure a proxy, so it must cost little itself. With ``--digest`` it answers the SHA-256 of
what it received instead: of the body as it is, and of the tensors' little-endian bytes, so that a
test can tell that the bytes that were scored are those that arrived.

Run as ``python -m loadtest.echo --listen 127.0.0.1:0 --model f64=64``.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import re
from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
import orjson

from loadtest.payloads import TENSOR
from loadtest.serving import serve
from loadtest.wire import body_span, dechunk

_HEADER_LENGTH: Final = re.compile(
    rb"\r\ninference-header-content-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE
)
_DTYPES: Final = {
    "BOOL": "?", "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


def render_answer(status: str, body: bytes) -> bytes:
    """One JSON answer with its head."""
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


_LABEL: Final = 3
_SCORES: Final = "probabilities"


def canned_answer(classes: int = 0) -> bytes:
    """What every inference is answered: a label and, if there are ``classes``, a score of each."""
    outputs = [{"name": "label", "datatype": "INT64", "shape": [1], "data": [_LABEL]}]
    if classes:
        scores = np.linspace(0.02, 0.06, classes)
        scores[_LABEL] += 1 - scores.sum()
        outputs.append({
            "name": _SCORES, "datatype": "FP32", "shape": [1, classes], "data": scores.tolist()
        })  # fmt: skip
    document = {"model_name": "bench", "model_version": "1", "outputs": outputs}
    return render_answer("200 OK", orjson.dumps(document))


CANNED: Final = canned_answer()


def metadata(model: str, features: int, classes: int = 0) -> dict[str, Any]:
    """The v2 metadata of a model that takes one (n, features) FP32 tensor."""
    scores = {"name": _SCORES, "datatype": "FP32", "shape": [-1, classes]}
    return {
        "name": model,
        "versions": ["1"],
        "platform": "echo",
        "inputs": [{"name": TENSOR, "datatype": "FP32", "shape": [-1, features]}],
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            *([scores] if classes else []),
        ],
    }


def tensor_digest(body: bytes, header_length: int | None) -> str:
    """SHA-256 over the little-endian bytes of all numeric tensors, in the order sent."""
    document = orjson.loads(body if header_length is None else body[:header_length])
    tail = b"" if header_length is None else body[header_length:]
    digest = hashlib.sha256()
    at = 0
    for tensor in document["inputs"]:
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            data = np.asarray(tensor["data"]).astype(_DTYPES[tensor["datatype"]])
            digest.update(data.tobytes())
        else:
            digest.update(tail[at : at + size])
            at += size
    return digest.hexdigest()


def digest_answer(body: bytes, header_length: int | None) -> bytes:
    """The answer that names what was received: v2, with the request's id."""
    document = orjson.loads(body if header_length is None else body[:header_length])
    outputs = [
        {"name": name, "datatype": "BYTES", "shape": [1], "data": [value]}
        for name, value in (
            ("body_sha256", hashlib.sha256(body).hexdigest()),
            ("tensor_sha256", tensor_digest(body, header_length)),
        )
    ]
    answer = {"model_name": "echo", "model_version": "1", "outputs": outputs}
    if "id" in document:
        answer["id"] = document["id"]
    return render_answer("200 OK", orjson.dumps(answer))


class EchoProtocol(asyncio.Protocol):
    """Answers every complete POST alike, and every known GET from a table."""

    def __init__(self, pages: dict[bytes, bytes], digest: bool, answer: bytes = CANNED) -> None:
        self._pages = pages
        self._digest = digest
        self._inferred = answer
        self._pending = b""
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        if self._pending:
            data = self._pending + data
        while data:
            head_end = data.find(b"\r\n\r\n")
            if head_end < 0:
                break
            start, end = body_span(data, head_end)
            if end < 0:
                break
            if data.startswith(b"POST ") and not self._digest:
                self._transport.write(self._inferred)
            else:
                self._transport.write(self._answer(data, head_end, start, end))
            data = data[end:]
        self._pending = data

    def _answer(self, data: bytes, head_end: int, start: int, end: int) -> bytes:
        method, target, _ = data[: data.index(b"\r\n")].split(b" ", 2)
        if method != b"POST":
            return self._pages.get(target, _NOT_FOUND)
        body = data[start:end]
        if b"\r\ntransfer-encoding:" in data[:head_end].lower():
            body = dechunk(body)
        length = _HEADER_LENGTH.search(data, 0, head_end + 2)
        try:
            return digest_answer(body, int(length[1]) if length else None)
        except (KeyError, TypeError, ValueError):
            return render_answer("400 Bad Request", b'{"error":"not a v2 request"}')


_NOT_FOUND: Final = render_answer("404 Not Found", b'{"error":"not found"}')


def pages(
    models: dict[str, int], others: Sequence[str] = (), classes: int = 0
) -> dict[bytes, bytes]:
    """What is answered to GET: server and model metadata, health, readiness; others with {}."""
    server = {"name": "echo", "version": "1", "extensions": ["binary_tensor_data"]}
    table = {
        "/v2": orjson.dumps(server),
        "/v2/health/live": b"",
        "/v2/health/ready": b"",
    }
    for model, features in models.items():
        table[f"/v2/models/{model}"] = orjson.dumps(metadata(model, features, classes))
        table[f"/v2/models/{model}/ready"] = b""
    table |= dict.fromkeys(others, b"{}")
    return {path.encode(): render_answer("200 OK", body) for path, body in table.items()}


def _model(text: str) -> tuple[str, int]:
    name, _, features = text.partition("=")
    return name, int(features)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="loadtest.echo", description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--model", type=_model, action="append", required=True, metavar="NAME=D")
    parser.add_argument("--digest", action="store_true", help="answer what was received")
    parser.add_argument("--page", action="append", default=[], metavar="PATH")
    parser.add_argument("--classes", type=int, default=0, help="answer a score of each as well")
    options = parser.parse_args(arguments)
    table = pages(dict(options.model), options.page, options.classes)
    answer = canned_answer(options.classes)
    serve(options.listen, lambda: EchoProtocol(table, options.digest, answer))


if __name__ == "__main__":
    main()
