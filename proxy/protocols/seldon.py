"""Seldon Core, version 1: ``data.ndarray`` and ``data.tensor`` of a SeldonMessage.
https://docs.seldon.io/projects/seldon-core/en/v1.18.2/reference/apis/prediction.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from itertools import chain
from math import prod
from types import MappingProxyType
from typing import Any, Final

import orjson

from proxy.protocols.base import Headers, InferRequest, InferResponse, Refused, Route, plain
from proxy.protocols.contract import Contract
from proxy.protocols.json_codec import JSON_LINES, JsonCodec, dumps
from proxy.protocols.json_tensors import Form, JsonTensors, Reading, write_tensors
from proxy.protocols.nested import may_hold_booleans, to_nested, to_nested_finite
from proxy.protocols.rows import MISSING
from proxy.protocols.seldon_paths import Paths
from proxy.protocols.strict_json import check_unique_keys
from proxy.protocols.tensors import Tensor
from proxy.protocols.v2_messages import check_text, read_shape, shown
from proxy.rules import PARAMETER, SHAPE, SYNTAX, TENSOR_NAME, Refusal

_TENSOR: Final = "data"  # the name of what has none on the wire
# What becomes of nearly every request: shared by all of them.
_USUAL: Final = {
    form: MappingProxyType({"form": form, "kind": "ndarray"}) for form in (Form.ALONE, Form.TABLE)
}
_PLAIN_FRAME: Final = b'{"data":{"ndarray":%b}}'
_SHAPED_FRAME: Final = b'{"data":{"tensor":{"shape":%b,"values":%b}}}'


class Seldon(JsonCodec):
    """The codec of one model.

    Of a message nothing passes but its ``data``, as ``ndarray`` or ``tensor``, the names of its
    columns and ``meta.puid``: what else there can be is not inspected (``strData``, ``binData``,
    ``jsonData``, ``tftensor``) or tells the graph what to do (``meta.tags``, ``meta.routing``).

    Args:
        prefix: the path of predictions as clients write it, ``[/BASE]/api/v1.0/predictions``,
            ``[/BASE]/api/v0.1/predictions`` or ``[/BASE]/predict``.
        contract, max_rows, max_bytes, max_response_bytes: see ``JsonCodec``.
        upstream_prefix: that path on the model server; the same if None.
        health: the path below the server's base that shows that the model is there.
        features: names of the features, in the model's order: where a request names columns, it
            must name these. None: any names pass.

    Raises:
        ValueError: if a prefix is not such a path.
    """

    name = "seldon"

    def __init__(
        self,
        prefix: str,
        contract: Contract | None,
        *,
        upstream_prefix: str | None = None,
        max_rows: int = 256,
        max_bytes: int = 10 * 2**20,
        max_response_bytes: int = 10 * 2**20,
        health: str = "/health/ping",
        features: Sequence[str] | None = None,
    ) -> None:
        self._features = list(features or ())
        super().__init__(
            contract,
            max_rows=max_rows,
            max_bytes=max_bytes,
            max_response_bytes=max_response_bytes,
        )
        self._paths = Paths(prefix, upstream_prefix, health)
        self.probe: Route | None = self._paths.probe

    def _bind(self, contract: Contract | None) -> None:
        super()._bind(contract)
        held = self._held
        self._columns = self._order if held.columns else self._features

    def route(self, method: str, target: str) -> Route:
        """Understands a request target. See ``Codec.route``."""
        return self._paths.route(method, target)

    def decode_request(self, head: Headers, body: bytes, route: Route) -> InferRequest:
        """Reads a request strictly and within bounds.

        Raises:
            Refusal: and nothing else, whatever the bytes.
        """
        document = self._document(head, body)
        if type(document) is not dict:
            raise Refusal(SYNTAX, "not a JSON object")
        for key in document:
            if key not in ("data", "meta"):
                raise Refusal(PARAMETER, f"{shown(key)}: send data as ndarray or tensor")
        data = document.get("data")
        if type(data) is not dict:
            raise Refusal(SYNTAX, "data is not an object")
        kind, reading, keys = _read_data(self._tensors, data, may_hold_booleans(body, lists=True))
        keys += len(document) + len(data)
        if len(document) == 1 and len(data) == 1 and kind == "ndarray":
            check_unique_keys(body, keys)
            return self._request(reading, _USUAL[reading.form])
        options: dict[str, Any] = {"form": reading.form, "kind": kind}
        if names := self._read_names(data, reading):
            options["names"] = names
        if "meta" in document:
            meta = document["meta"]
            if type(meta) is not dict:
                raise Refusal(SYNTAX, "meta is not an object")
            keys += len(meta)
            for key, value in meta.items():
                if key != "puid":
                    # An empty one says nothing: the protocol's own client sends some.
                    if value or type(value) not in (dict, list):
                        raise Refusal(PARAMETER, f"meta.{shown(key)}")
                elif value != "":
                    check_text("meta.puid", value)
                    options["id"] = value
        check_unique_keys(body, keys)
        return self._request(reading, options)

    def encode_request(self, request: InferRequest) -> tuple[bytes, bytes]:
        """The canonical header lines and body of a request."""
        options = request.options
        kind = options["kind"]
        data = _write_data(kind, options["form"], request)
        if "names" not in options and "id" not in options:
            if kind == "ndarray":
                return JSON_LINES, _PLAIN_FRAME % dumps(data)
            return JSON_LINES, _SHAPED_FRAME % (dumps(data["shape"]), dumps(data["values"]))
        document: dict[str, Any] = {"data": {kind: data}}
        if "names" in options:
            document["data"] = {"names": options["names"], kind: data}
        if "id" in options:
            document["meta"] = {"puid": options["id"]}
        return JSON_LINES, dumps(document)

    def encode_response(self, response: InferResponse) -> tuple[bytes, bytes]:
        """Header lines and body of an answer, in the form in which it was read.

        Raises:
            ValueError: for a number that is not finite: JSON has none such.
        """
        options = response.options
        kind = options["kind"]
        (tensor,) = response.tensors.values()
        value = to_nested_finite(_TENSOR, tensor)
        if kind == "tensor":
            value = {"shape": tensor.shape, "values": to_nested(tensor.reshape(-1))}
        document = options["document"]
        return JSON_LINES, dumps({**document, "data": {**options["data"], kind: value}})

    def refuse(self, refusal: Refusal) -> Refused:
        """A refusal in the protocol's shape: the message's ``status``."""
        code = refusal.rule.status
        status = {
            "code": code,
            "info": plain(refusal.message),
            "reason": HTTPStatus(code).name,
            "status": "FAILURE",
        }
        return Refused(b"application/json", orjson.dumps({"status": status}))

    def _read_names(self, data: Mapping[str, Any], reading: Reading) -> list[str]:
        names = data.get("names", [])
        if type(names) is not list:
            raise Refusal(SYNTAX, "names is not a list")
        if not names:
            return names
        if self._columns:
            # Not another order either: some models go by the names, most by the places.
            if names != self._columns:
                raise Refusal(TENSOR_NAME, "names are not the model's, in its order")
            return names
        for name in names:
            check_text("a name", name)
        if len(set(names)) != len(names):
            raise Refusal(TENSOR_NAME, "a name is there twice")
        (tensor,) = reading.tensors.values()
        if tensor.ndim != 2 or tensor.shape[1] != len(names):
            raise Refusal(SHAPE, "not as many names as columns")
        return names

    def _read_answer(self, document: Any) -> InferResponse:
        data = document.pop("data", None) if type(document) is dict else None
        if type(data) is not dict:
            raise Refusal(SYNTAX, "no data")
        kind, reading, _ = _read_data(self._answers, data, True, smallest=0)
        del data[kind]
        options = {"kind": kind, "data": data, "document": document}
        return InferResponse(reading.tensors, reading.n, options)


def _read_data(
    tensors: JsonTensors, data: Mapping[str, Any], booleans: bool, *, smallest: int = 1
) -> tuple[str, Reading, int]:
    """The form of a message's data, its tensors, and how many keys they have."""
    for key in data:
        if smallest and key not in ("ndarray", "tensor", "names"):
            raise Refusal(PARAMETER, f"data.{shown(key)}: send ndarray or tensor")
    if ("ndarray" in data) == ("tensor" in data):
        raise Refusal(SYNTAX, "give ndarray or tensor, and not both")
    if "ndarray" in data:
        reading = tensors.alone(_TENSOR, data["ndarray"], booleans=booleans)
        return "ndarray", reading, reading.keys
    tensor = data["tensor"]
    if type(tensor) is not dict or tensor.keys() != {"shape", "values"}:
        raise Refusal(SYNTAX, "tensor is not an object of shape and values")
    shape = read_shape(_TENSOR, tensor["shape"], smallest=smallest)
    values = tensor["values"]
    if type(values) is not list or len(values) != prod(shape):
        raise Refusal(SHAPE, f"values are not a list of {prod(shape)} elements")
    return "tensor", tensors.shaped(_TENSOR, values, shape), 2


def _write_data(kind: str, form: Form, request: InferRequest) -> Any:
    value = write_tensors(form, request.tensors, missing=request.options.get(MISSING, {}))
    if kind == "ndarray":
        return value
    if form is Form.TABLE:
        shape: tuple[int, ...] = (len(value), len(value[0]))
        return {"shape": shape, "values": list(chain.from_iterable(value))}
    tensor: Tensor
    (tensor,) = request.tensors.values()
    return {"shape": tensor.shape, "values": to_nested(tensor.reshape(-1))}
