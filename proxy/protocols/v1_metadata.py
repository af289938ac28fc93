"""What a V1 server says of a model: TensorFlow Serving its signatures, KServe that it is ready."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from proxy.protocols.contract import Contract, ContractError
from proxy.protocols.strict_json import strict_json
from proxy.rules import Refusal

SIGNATURE: Final = "serving_default"
_SIZE: Final = re.compile(r"-1|[0-9]{1,19}")
# tensorflow/core/framework/types.proto, as far as it can be inspected.
_DATATYPES: Final = {
    "DT_BOOL": "BOOL",
    "DT_UINT8": "UINT8",
    "DT_UINT16": "UINT16",
    "DT_UINT32": "UINT32",
    "DT_UINT64": "UINT64",
    "DT_INT8": "INT8",
    "DT_INT16": "INT16",
    "DT_INT32": "INT32",
    "DT_INT64": "INT64",
    "DT_HALF": "FP16",
    "DT_FLOAT": "FP32",
    "DT_DOUBLE": "FP64",
    "DT_STRING": "BYTES",
}


def contract_of_status(body: bytes, *, model: str, width: int | None) -> Contract:
    """An open contract, if the answer to ``GET /v1/models/MODEL`` is that of a ready model.

    Raises:
        ContractError: if it is not.
    """
    status = _object(body)
    versions = status.get("model_version_status")
    if isinstance(versions, list):  # TensorFlow Serving
        if not any(isinstance(one, dict) and one.get("state") == "AVAILABLE" for one in versions):
            raise ContractError("no version of the model is available")
    elif status.get("name") != model:
        raise ContractError(f"model status is not that of {model!r}")
    elif status.get("ready") not in (True, "true", "True"):
        raise ContractError("the model is not ready")
    return Contract().with_width(width)


def contract_of_metadata(body: bytes, *, model: str, width: int | None) -> Contract:
    """The contract that the default signature declares, its tensors in the order of their names:
    the map on the wire has none.

    A signature of ``classify`` or ``regress`` takes examples, whose features it does not tell: the
    contract is then open.

    Raises:
        ContractError: if the answer to ``GET /v1/models/MODEL/metadata`` is not such metadata, or
            names what cannot be inspected.
    """
    document = _object(body)
    told = _within(document, "model_spec").get("name")
    if told != model:
        raise ContractError(f"model metadata is not that of {model!r}")
    signatures = _within(document, "metadata", "signature_def", "signature_def")
    signature = _within(signatures, SIGNATURE)
    if str(signature.get("method_name", "")).endswith(("/classify", "/regress")):
        return Contract().with_width(width)
    inputs, outputs = (_tensors(_within(signature, side)) for side in ("inputs", "outputs"))
    return Contract.from_config(inputs, outputs, width)


def _tensors(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, **_tensor(name, _within(told, name))} for name in sorted(told)]


def _tensor(name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    shape = told.get("tensor_shape")
    if not isinstance(shape, dict) or shape.get("unknown_rank") not in (None, False):
        raise ContractError(f"tensor {name!r}: the shape is not known")
    sizes = []
    for dimension in shape.get("dim") or ():
        size = dimension.get("size") if isinstance(dimension, dict) else None
        if not isinstance(size, str | int) or _SIZE.fullmatch(str(size)) is None:
            raise ContractError(f"tensor {name!r}: dimension {size!r} is no number")
        sizes.append(int(size))
    kind = told.get("dtype")
    return {"datatype": _DATATYPES.get(str(kind), str(kind)), "shape": sizes}


def _within(document: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        inner = document.get(key)
        if not isinstance(inner, dict):
            raise ContractError(f"model metadata has no {key!r}")
        document = inner
    return document


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        document = strict_json(body)
    except Refusal as refusal:
        raise ContractError(f"model status: {refusal.message}") from None
    if not isinstance(document, dict):
        raise ContractError("model status is not a JSON object")
    return document
