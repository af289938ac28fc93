"""The same rows in every protocol that goes over HTTP: what the benchmark of codecs sends."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson

from loadtest.payloads import TENSOR, Floats, infer_binary, infer_json

Body = tuple[Mapping[str, str], bytes]

_JSON: Final = {"Content-Type": "application/json"}
_CSV: Final = {"Content-Type": "text/csv"}


@dataclass(frozen=True)
class Spelling:
    """One way to write rows.

    Attributes:
        title: for the tables.
        match: where the endpoint is.
        call: what follows ``match`` in the path of an inference.
        write: (n, d) rows to the headers and the body of a request.
        settings: of the endpoint, beside its contract: the protocol.
        columns: whether the contract names a column a feature, and not one tensor.
        pages: paths that the model server answers to GET.
        scored: whether the rows are what is scored.
    """

    title: str
    match: str
    call: str
    write: Callable[[Floats], Body]
    settings: Mapping[str, Any]
    columns: bool = False
    pages: tuple[str, ...] = ()
    scored: bool = True

    @property
    def target(self) -> str:
        """The path of an inference."""
        return self.match + self.call

    def endpoint(self, name: str, features: int) -> dict[str, Any]:
        """The endpoint's settings, without its upstream."""
        contract: dict[str, Any] = {}
        if not self.scored:
            return {"name": name, "match": self.match, **self.settings}
        if self.columns:
            contract = {"columns": [{"name": c} for c in column_names(features)]}
        else:
            tensor = {"name": TENSOR, "datatype": "FP32", "shape": [-1, features]}
            contract = {"inputs": [tensor]}
        return {"name": name, "match": self.match, "contract": contract, **self.settings}


def column_names(features: int) -> list[str]:
    """Of a data frame with so many features."""
    return [f"f{i}" for i in range(features)]


def _json(document: Any) -> Body:
    return _JSON, orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _v2_binary(rows: Floats) -> Body:
    body, length = infer_binary(rows)
    return {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(length),
    }, body


def _split(rows: Floats) -> Body:
    return _json({"dataframe_split": {"columns": column_names(rows.shape[1]), "data": rows}})


def _records(rows: Floats) -> Body:
    names = column_names(rows.shape[1])
    records = [dict(zip(names, row, strict=True)) for row in rows.tolist()]
    return _json({"dataframe_records": records})


def _lines(rows: Floats) -> str:
    return "".join(",".join(map(repr, row)) + "\n" for row in rows.tolist())


def _csv_with_names(rows: Floats) -> Body:
    return _CSV, (",".join(column_names(rows.shape[1])) + "\n" + _lines(rows)).encode()


def _csv(rows: Floats) -> Body:
    return _CSV, _lines(rows).encode()


def _npy(rows: Floats) -> Body:
    into = io.BytesIO()
    np.save(into, rows, allow_pickle=False)
    return {"Content-Type": "application/x-npy"}, into.getvalue()


def _tensor(rows: Floats) -> Body:
    return _json({"data": {"tensor": {"shape": rows.shape, "values": rows.ravel()}}})


def _chat(rows: Floats) -> Body:
    """A message a row, in which four letters stand for each feature."""
    messages = [
        {"role": "user", "content": base64.b32encode(row.tobytes()).decode()[: 4 * row.size]}
        for row in rows
    ]
    return _json({"model": "m", "messages": messages})


def _with(server: str) -> dict[str, Any]:
    return {"protocol": {"name": "invocations", "server": server}}


V2_JSON: Final = "v2, JSON"

SPELLINGS: Final[tuple[Spelling, ...]] = (
    Spelling(
        V2_JSON, "/v2/models/m", "/infer", lambda rows: (_JSON, infer_json(rows)),
        {"protocol": "v2"},
    ),
    Spelling("v2, binary", "/v2/models/b", "/infer", _v2_binary, {"protocol": "v2"}),
    Spelling(
        "v1, rows", "/v1/models/m", ":predict", lambda rows: _json({"instances": rows}),
        {"protocol": "v1"}, pages=("/v1/models/m",),
    ),
    Spelling(
        "v1, columns", "/v1/models/c", ":predict", lambda rows: _json({"inputs": rows}),
        {"protocol": "v1"}, pages=("/v1/models/c",),
    ),
    Spelling(
        "MLflow, `dataframe_split`", "/split/invocations", "", _split, _with("mlflow"),
        columns=True, pages=("/split/ping",),
    ),
    Spelling(
        "MLflow, `dataframe_records`", "/records/invocations", "", _records, _with("mlflow"),
        columns=True, pages=("/records/ping",),
    ),
    Spelling(
        "MLflow, CSV", "/csv/invocations", "", _csv_with_names, _with("mlflow"),
        columns=True, pages=("/csv/ping",),
    ),
    Spelling(
        "MLflow, `inputs`", "/tensor/invocations", "", lambda rows: _json({"inputs": rows}),
        _with("mlflow"), pages=("/tensor/ping",),
    ),
    Spelling(
        "SageMaker, CSV", "/sm-csv/invocations", "", _csv, _with("sagemaker"),
        pages=("/sm-csv/ping",),
    ),
    Spelling(
        "SageMaker, JSON", "/sm-json/invocations", "",
        lambda rows: _json({"instances": rows}), _with("sagemaker"), pages=("/sm-json/ping",),
    ),
    Spelling(
        "SageMaker, npy", "/sm-npy/invocations", "", _npy, _with("sagemaker"),
        pages=("/sm-npy/ping",),
    ),
    Spelling(
        "TorchServe, JSON", "/predictions/m", "", _json,
        {"protocol": "torchserve"}, pages=("/ping",),
    ),
    Spelling(
        "Seldon, `ndarray`", "/n/api/v1.0/predictions", "",
        lambda rows: _json({"data": {"ndarray": rows}}), {"protocol": "seldon"},
        pages=("/n/health/ping",),
    ),
    Spelling(
        "Seldon, `tensor`", "/t/api/v1.0/predictions", "", _tensor, {"protocol": "seldon"},
        pages=("/t/health/ping",),
    ),
    Spelling(
        "custom JSON", "/predict", "", lambda rows: _json({"input": rows}),
        {"protocol": {"name": "json", "rows": "$.input", "answer": "$.output"}},
    ),
    Spelling(
        "OpenAI, chat (counted, not scored)", "/openai/v1", "/chat/completions", _chat,
        {"protocol": "openai"}, scored=False,
    ),
)  # fmt: skip
