"""V1, as TensorFlow Serving and KServe speak it: rows (``instances``), columns (``inputs``), and
TensorFlow's examples. https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, Literal

import orjson

from proxy.protocols.base import Headers, InferRequest, InferResponse, Refused, Route, plain
from proxy.protocols.contract import Contract
from proxy.protocols.json_codec import JSON_LINES, JsonCodec, dumps
from proxy.protocols.json_tensors import Form, Reading, write_tensors
from proxy.protocols.nested import may_hold_booleans, to_nested_finite
from proxy.protocols.rows import MISSING
from proxy.protocols.strict_json import check_unique_keys, count_keys
from proxy.protocols.v1_answers import Pairs, read_pairs, write_pairs
from proxy.protocols.v1_metadata import contract_of_metadata, contract_of_status
from proxy.protocols.v1_paths import Paths
from proxy.protocols.v2_messages import shown
from proxy.rules import PARAMETER, ROWS_PER_REQUEST, SYNTAX, TENSOR_NAME, Refusal

_PREDICT: Final = b":predict"
_DATA: Final = ("instances", "inputs")
_ANSWERS: Final = ("predictions", "outputs", "result")
# What becomes of nearly every request: shared by all of them.
_USUAL: Final = {
    key: MappingProxyType({"key": key, "form": Form.ALONE, "encoded": frozenset[str]()})
    for key in _DATA
}
_FRAMES: Final = {key: b'{"%b":%%b}' % key.encode() for key in _DATA}


class V1(JsonCodec):
    """The codec of one model.

    What came in rows is forwarded in rows, what came in columns in columns. Without a declared
    datatype integers stay integers and floats floats.

    Args:
        prefix: the model's path as clients write it, ``[/BASE]/v1/models/MODEL``, or that of one
            of its versions or labels.
        contract, max_rows, max_bytes, max_response_bytes, names: see ``JsonCodec``.
        upstream_prefix: the model's path on the model server; the same if None.
        calls: those that pass, of ``predict``, ``classify`` and ``regress``.
        signatures: values of ``signature_name`` that pass.
        server: ``tensorflow`` declares its tensors, ``kserve`` does not.

    Raises:
        ValueError: if a prefix is not such a path.
    """

    name = "v1"
    b64 = True

    def __init__(
        self,
        prefix: str,
        contract: Contract | None,
        *,
        upstream_prefix: str | None = None,
        max_rows: int = 256,
        max_bytes: int = 10 * 2**20,
        max_response_bytes: int = 10 * 2**20,
        calls: Collection[str] = ("predict",),
        signatures: Collection[str] = ("serving_default",),
        server: Literal["kserve", "tensorflow"] = "kserve",
        names: Sequence[str] = (),
    ) -> None:
        super().__init__(
            contract,
            max_rows=max_rows,
            max_bytes=max_bytes,
            max_response_bytes=max_response_bytes,
            names=names,
        )
        self._paths = Paths(prefix, upstream_prefix, calls)
        self._signatures = frozenset(signatures)
        self._declares = server == "tensorflow"
        suffix = "/metadata" if self._declares else ""
        self.probe: Route | None = self._paths.route("GET", f"{prefix}{suffix}")

    def learn(self, body: bytes, width: int | None) -> Contract:
        """The contract of TensorFlow's metadata; an open one of KServe. See ``Codec.learn``."""
        if self._declares:
            learnt = contract_of_metadata(body, model=self._paths.served, width=width)
            return _ordered(learnt, self._names)
        return contract_of_status(body, model=self._paths.served, width=width)

    def route(self, method: str, target: str) -> Route:
        """Understands a request target. See ``Codec.route``."""
        return self._paths.route(method, target)

    def decode_request(self, head: Headers, body: bytes, route: Route) -> InferRequest:
        """Reads a request strictly and within bounds. One contract holds for every version.

        Raises:
            Refusal: and nothing else, whatever the bytes.
        """
        document = self._document(head, body)
        if type(document) is not dict:
            raise Refusal(SYNTAX, "not a JSON object")
        booleans = may_hold_booleans(body, lists=True)
        if route.target.endswith(_PREDICT):
            key, reading = self._read_predict(document, booleans)
            keys = len(document) + reading.keys
        else:
            keys = count_keys(document)
            key, reading = self._read_examples(document, booleans)
        check_unique_keys(body, keys)
        if len(document) == 1 and reading.form is Form.ALONE and not reading.encoded:
            options: Mapping[str, Any] = _USUAL[key]
        else:
            options = {"key": key, "form": reading.form, "encoded": reading.encoded}
            if "signature_name" in document:
                options = {"signature_name": document["signature_name"], **options}
        return self._request(reading, options)

    def encode_request(self, request: InferRequest) -> tuple[bytes, bytes]:
        """The canonical header lines and body of a request."""
        options = request.options
        key = options["key"]
        value = write_tensors(
            options["form"], request.tensors, options["encoded"], options.get(MISSING, {})
        )
        if "signature_name" in options:
            return JSON_LINES, dumps({"signature_name": options["signature_name"], key: value})
        if key == "examples":
            return JSON_LINES, dumps({key: value})
        return JSON_LINES, _FRAMES[key] % dumps(value)

    def encode_response(self, response: InferResponse) -> tuple[bytes, bytes]:
        """Header lines and body of an answer, in the form in which it was read.

        Raises:
            ValueError: for a number that is not finite: JSON has none such.
        """
        options = response.options
        form = options["form"]
        value = (
            write_pairs(response.tensors)
            if form is Pairs.CLASSES
            else write_tensors(form, response.tensors, options["encoded"], nest=to_nested_finite)
        )
        return JSON_LINES, dumps({**options["document"], options["key"]: value})

    def refuse(self, refusal: Refusal) -> Refused:
        """A refusal in the protocol's shape."""
        return Refused(b"application/json", orjson.dumps({"error": plain(refusal.message)}))

    def _read_predict(self, document: dict[str, Any], booleans: bool) -> tuple[str, Reading]:
        keys = [key for key in _DATA if key in document]
        if len(keys) != 1:
            raise Refusal(SYNTAX, "give instances or inputs, and not both")
        (key,) = keys
        if len(document) > 1:
            self._check_rest(document, {key})
        read = self._tensors.rows if key == "instances" else self._tensors.columns
        return key, read(key, document[key], booleans=booleans)

    def _read_examples(self, document: dict[str, Any], booleans: bool) -> tuple[str, Reading]:
        """``classify`` and ``regress``: features by name, those of the context in each example."""
        self._check_rest(document, {"examples", "context"})
        examples = document.get("examples")
        if type(examples) is not list or not all(type(example) is dict for example in examples):
            raise Refusal(SYNTAX, "examples is not a list of objects")
        context = document.get("context", {})
        if type(context) is not dict:
            raise Refusal(SYNTAX, "context is not an object")
        if context:
            if len(examples) > self._max_rows:
                raise Refusal(ROWS_PER_REQUEST, f"at most {self._max_rows}")
            if any(not context.keys().isdisjoint(example) for example in examples):
                raise Refusal(TENSOR_NAME, "a feature is in the context and in an example")
            examples = [context | example for example in examples]
        reading = self._tensors.rows("examples", examples, booleans=booleans)
        return "examples", reading

    def _check_rest(self, document: dict[str, Any], known: Collection[str]) -> None:
        for key, value in document.items():
            if key == "signature_name":
                if type(value) is not str or value not in self._signatures:
                    raise Refusal(PARAMETER, "signature_name")
            elif key not in known:
                raise Refusal(SYNTAX, f"unknown key {shown(key)}")

    def _read_answer(self, document: Any) -> InferResponse:
        if type(document) is not dict:
            raise Refusal(SYNTAX, "not a JSON object")
        keys = [key for key in _ANSWERS if key in document]
        if len(keys) != 1:
            raise Refusal(SYNTAX, "not exactly one of predictions, outputs and result")
        (key,) = keys
        value = document.pop(key)
        if key == "result" and (pairs := read_pairs(value)) is not None:
            return InferResponse(
                pairs, len(value), {"key": key, "form": Pairs.CLASSES, "document": document}
            )
        reading = (
            self._answers.columns(key, value)
            if type(value) is dict
            else self._answers.rows(key, value)
        )
        options = {
            "key": key,
            "form": reading.form,
            "encoded": reading.encoded,
            "document": document,
        }
        return InferResponse(reading.tensors, reading.n, options)


def _ordered(contract: Contract, names: Sequence[str]) -> Contract:
    """A contract with its inputs in the order of the features, where they are their names."""
    inputs = {spec.name: spec for spec in contract.inputs}
    if len(names) != len(inputs) or inputs.keys() != set(names):
        return contract
    return replace(contract, inputs=tuple(inputs[name] for name in names))
