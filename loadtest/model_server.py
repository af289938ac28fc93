"""A small model server that speaks the Open Inference Protocol v2 over HTTP, for real.

JSON and Triton's binary extension in both directions, metadata, health, and errors in the
protocol's own shape. It is a plain server, not a fortress: that is what stands in front of it.

Run as ``python -m loadtest.model_server --listen 127.0.0.1:0 --model digits.npz``; the model is
named after the file.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any, Final, cast

import httptools
import numpy as np
import numpy.typing as npt
import orjson

from loadtest.mlp import Floats, Mlp
from loadtest.payloads import TENSOR
from loadtest.serving import serve

MAX_BODY: Final = 64 << 20
_INFER_LENGTH: Final = b"inference-header-content-length"
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    500: "Internal Server Error",
}


class ModelError(Exception):
    """A request that cannot be answered: status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


class Answer:
    """Status, extra header lines and body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes = b"", headers: bytes = b"") -> None:
        self.status = status
        self.body = body
        self.headers = headers

    def render(self, keep_alive: bool) -> bytes:
        """The bytes on the wire."""
        kind = b"" if b"Content-Type" in self.headers else b"Content-Type: application/json\r\n"
        head = f"HTTP/1.1 {self.status} {_REASONS[self.status]}\r\n".encode()
        length = f"Content-Length: {len(self.body)}\r\n".encode()
        end = b"\r\n" if keep_alive else b"Connection: close\r\n\r\n"
        return head + kind + length + self.headers + end + self.body


class ModelService:
    """The v2 calls of one model, without any socket."""

    def __init__(self, name: str, model: Mlp) -> None:
        self._name = name
        self._model = model
        base = f"/v2/models/{name}"
        self._infer = {f"{base}/infer", f"{base}/versions/1/infer"}
        self._pages = {
            "/v2": {
                "name": "bartizan-demo",
                "version": "1",
                "extensions": ["binary_tensor_data"],
            },
            "/v2/health/live": {"live": True},
            "/v2/health/ready": {"ready": True},
            base: self._metadata(),
            f"{base}/versions/1": self._metadata(),
            f"{base}/ready": {"name": name, "ready": True},
            f"{base}/versions/1/ready": {"name": name, "ready": True},
        }

    def _metadata(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "versions": ["1"],
            "platform": "numpy",
            "inputs": [{"name": TENSOR, "datatype": "FP32", "shape": [-1, self._model.features]}],
            "outputs": [
                {"name": "label", "datatype": "INT64", "shape": [-1]},
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, self._model.classes]},
            ],
        }

    def answer(self, method: str, target: str, headers: dict[bytes, bytes], body: bytes) -> Answer:
        """One exchange; never raises."""
        try:
            if target in self._infer:
                if method != "POST":
                    raise ModelError(405, "use POST")  # noqa: TRY301 - one place renders errors
                return self.infer(headers, body)
            page = self._pages.get(target)
            if page is None:
                raise ModelError(404, f"no such path: {target}")  # noqa: TRY301 - as above
            if method != "GET":
                raise ModelError(405, "use GET")  # noqa: TRY301 - as above
            return Answer(200, orjson.dumps(page))
        except ModelError as error:
            return Answer(error.status, orjson.dumps({"error": error.message}))
        except (AttributeError, TypeError) as error:  # JSON of another structure than expected
            return Answer(400, orjson.dumps({"error": f"malformed request: {error}"}))

    def infer(self, headers: dict[bytes, bytes], body: bytes) -> Answer:
        """One inference.

        Raises:
            ModelError: if the request does not fit the model.
        """
        document, tail = _split(headers, body)
        rows = self._rows(document, tail)
        probabilities = self._model.probabilities(rows)
        outputs: dict[str, npt.NDArray[Any]] = {
            "label": probabilities.argmax(axis=1).astype(np.int64),
            "probabilities": probabilities,
        }
        return self._render(document, outputs)

    def _rows(self, document: dict[str, Any], tail: bytes | None) -> Floats:
        inputs = document.get("inputs")
        if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
            raise ModelError(400, "expected exactly one input")
        tensor = inputs[0]
        if tensor.get("name") != TENSOR or tensor.get("datatype") != "FP32":
            raise ModelError(400, f"expected a tensor {TENSOR!r} of datatype FP32")
        shape = tensor.get("shape")
        width = self._model.features
        if not isinstance(shape, list) or len(shape) != 2 or shape[1] != width:
            raise ModelError(400, f"expected shape [n, {width}]")
        try:
            if "data" in tensor:
                data = np.asarray(tensor["data"], np.float32)
            else:
                size = tensor["parameters"]["binary_data_size"]
                if tail is None or size != len(tail):
                    raise ModelError(400, "binary_data_size does not fit the body")
                data = np.frombuffer(tail, "<f4")
            return data.reshape(shape)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(400, f"cannot read the tensor: {error}") from None

    def _render(self, document: dict[str, Any], outputs: dict[str, npt.NDArray[Any]]) -> Answer:
        parameters = document.get("parameters") or {}
        all_binary = bool(parameters.get("binary_data_output"))
        asked = document.get("outputs") or [{"name": name} for name in outputs]
        described, tail = [], []
        for output in asked:
            name = output.get("name")
            if name not in outputs:
                raise ModelError(400, f"no such output: {name!r}")
            array = outputs[name]
            datatype = "INT64" if array.dtype == np.int64 else "FP32"
            entry: dict[str, Any] = {
                "name": name, "datatype": datatype, "shape": list(array.shape)
            }  # fmt: skip
            if (output.get("parameters") or {}).get("binary_data", all_binary):
                raw = array.tobytes()
                entry["parameters"] = {"binary_data_size": len(raw)}
                tail.append(raw)
            else:
                entry["data"] = array.ravel()
            described.append(entry)
        answer = {"model_name": self._name, "model_version": "1", "outputs": described}
        if isinstance(document.get("id"), str):
            answer["id"] = document["id"]
        head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
        if not tail:
            return Answer(200, head)
        headers = (
            "Content-Type: application/octet-stream\r\n"
            f"Inference-Header-Content-Length: {len(head)}\r\n"
        )
        return Answer(200, head + b"".join(tail), headers.encode())


def _split(headers: dict[bytes, bytes], body: bytes) -> tuple[dict[str, Any], bytes | None]:
    """The JSON document and the binary tail, None if the request is plain JSON."""
    tail = None
    if _INFER_LENGTH in headers:
        text = headers[_INFER_LENGTH]
        if not text.isdigit() or not 0 < int(text) <= len(body):
            raise ModelError(400, "Inference-Header-Content-Length does not fit the body")
        body, tail = body[: int(text)], body[int(text) :]
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ModelError(400, f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ModelError(400, "expected a JSON object")
    return document, tail


class HttpProtocol(asyncio.Protocol):
    """One HTTP/1 connection: keep-alive, pipelining, sized and chunked bodies."""

    def __init__(self, service: ModelService) -> None:
        self._service = service
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.WriteTransport
        self.on_message_begin()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            fault = Answer(400, orjson.dumps({"error": f"malformed request: {error}"}))
            self._transport.write(fault.render(keep_alive=False))
            self._transport.close()

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._size = 0

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size <= MAX_BODY:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._transport.is_closing():
            return
        if self._size > MAX_BODY:
            answer = Answer(413, b'{"error":"body too large"}')
        else:
            method = self._parser.get_method().decode("ascii")
            target = self._target.decode("latin-1")
            answer = self._service.answer(method, target, self._headers, b"".join(self._body))
        keep_alive = self._parser.should_keep_alive()
        self._transport.write(answer.render(keep_alive))
        if not keep_alive:
            self._transport.close()


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="loadtest.model_server", description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--model", type=Path, required=True, metavar="NAME.npz")
    options = parser.parse_args(arguments)
    service = ModelService(options.model.stem, Mlp.load(options.model))
    serve(options.listen, lambda: HttpProtocol(service))


if __name__ == "__main__":
    main()
