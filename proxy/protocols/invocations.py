"""``/invocations`` as MLflow's scoring server understands it: data frames, tensors and CSV."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import orjson

from proxy.protocols.base import (
    Call,
    Headers,
    InferRequest,
    InferResponse,
    Refused,
    Route,
    plain,
)
from proxy.protocols.columns import numbers_contract
from proxy.protocols.contract import Contract
from proxy.protocols.delimited import read_delimited, read_numbers
from proxy.protocols.frames import check_names, read_frame
from proxy.protocols.invocations_paths import Paths
from proxy.protocols.json_codec import JSON_LINES, JsonCodec, dumps
from proxy.protocols.json_tensors import Form, write_tensors
from proxy.protocols.nested import FREE_VALUES, may_hold_booleans, to_nested_finite
from proxy.protocols.number_frames import NumberFrames
from proxy.protocols.rows import MISSING
from proxy.protocols.strict_json import check_bounds, check_unique_keys, loads
from proxy.protocols.v2_messages import shown
from proxy.rules import (
    MEDIA_TYPE,
    PARAMETER,
    SHAPE,
    SYNTAX,
    TENSOR_NAME,
    Refusal,
)

_SPLIT: Final = "dataframe_split"
_RECORDS: Final = "dataframe_records"
_INSTANCES: Final = "instances"
_INPUTS: Final = "inputs"
_KEYS: Final = frozenset({_SPLIT, _RECORDS, _INSTANCES, _INPUTS})
_PARAMS: Final = "params"
_MOST_ITEMS: Final = 1024  # of a parameter that is a list
_PLAIN: Final = frozenset({str, int, float, bool})
_NUMERAL: Final = re.compile(r"[ \t]*[-+]?\.?[0-9]")

_UTF8: Final = rb"(?:[ \t]*;[ \t]*charset=(?:utf-8|\"utf-8\"))?"
_JSON: Final = re.compile(rb"(?i:application/json" + _UTF8 + rb")")
_CSV: Final = re.compile(rb"(?i:text/csv" + _UTF8 + rb")")

# Those of the server's own words that its clients turn into their exceptions.
_ERROR_CODES: Final = {
    400: "BAD_REQUEST",
    403: "PERMISSION_DENIED",
    404: "ENDPOINT_NOT_FOUND",
    405: "BAD_REQUEST",
    413: "BAD_REQUEST",
    415: "BAD_REQUEST",
    429: "REQUEST_LIMIT_EXCEEDED",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class Invocations(JsonCodec):
    """The codec of one model.

    A data frame, in whatever form it came, is forwarded as ``dataframe_split`` with its columns in
    the contract's order; ``instances`` and ``inputs`` stay what they are.

    Args:
        prefix: the clients' path, ``[/BASE]/invocations``.
        contract: what the model takes, of columns or of tensors; None while it is not known, and
            every inference is refused.
        upstream_prefix: the path on the model server; the same if None.
        max_rows: rows of one request.
        max_bytes: bytes of one request body, decompressed.
        max_response_bytes: bytes of one answer that is to be read.
        parameters: names of ``params`` that the operator vouches for.
        names: of the features, where something such as a bundle says so: what is learnt of a
            model that declares nothing is then a data frame of these numbers.

    Raises:
        ValueError: if a prefix is not such a path.
    """

    name = "invocations"

    def __init__(
        self,
        prefix: str,
        contract: Contract | None,
        *,
        upstream_prefix: str | None = None,
        max_rows: int = 256,
        max_bytes: int = 10 * 2**20,
        max_response_bytes: int = 10 * 2**20,
        parameters: Collection[str] = (),
        names: Sequence[str] = (),
    ) -> None:
        super().__init__(
            contract,
            max_rows=max_rows,
            max_bytes=max_bytes,
            max_response_bytes=max_response_bytes,
            names=names,
        )
        own = {"/ping": Call.HEALTH, "/health": Call.HEALTH, "/version": Call.METADATA}
        self._paths = Paths(prefix, upstream_prefix, own=own)
        self.probe: Route | None = self._paths.ping
        self._parameters = frozenset(parameters)

    def learn(self, body: bytes, width: int | None) -> Contract:
        """What is known of a model that declares nothing: the names of its features, or how many
        they are. See ``Codec.learn``."""
        contract = numbers_contract(self._names) if self._names else Contract()
        return contract.with_width(width)

    def route(self, method: str, target: str) -> Route:
        """Understands a request target. See ``Codec.route``."""
        return self._paths.route(method, target)

    def decode_request(self, head: Headers, body: bytes, route: Route) -> InferRequest:
        """Reads a request strictly and within bounds.

        Raises:
            Refusal: and nothing else, whatever the bytes.
        """
        self._admit(body)
        media = head.get(b"content-type") or b""
        if _JSON.fullmatch(media):
            return self._json(body)
        if _CSV.fullmatch(media):
            return self._csv(body)
        raise Refusal(MEDIA_TYPE, "use application/json or text/csv, in UTF-8")

    def encode_request(self, request: InferRequest) -> tuple[bytes, bytes]:
        """The canonical header lines and body of a request."""
        options = request.options
        key: str = options["key"]
        form: Form = options["form"]
        if key == _SPLIT:
            value: Any = _split_of(request)
        else:
            value = write_tensors(form, request.tensors, missing=options.get(MISSING, {}))
        document = {key: value}
        if "parameters" in options:
            document[_PARAMS] = options["parameters"]
        return JSON_LINES, dumps(document)

    def encode_response(self, response: InferResponse) -> tuple[bytes, bytes]:
        """Header lines and body of an answer, in the form in which it was read.

        Raises:
            ValueError: for a number that is not finite: JSON has none such.
        """
        form: Form = response.options["form"]
        value = write_tensors(form, response.tensors, nest=to_nested_finite)
        return JSON_LINES, dumps({"predictions": value})

    def refuse(self, refusal: Refusal) -> Refused:
        """A refusal as the server's own errors look."""
        code = _ERROR_CODES.get(refusal.rule.status, "INTERNAL_ERROR")
        body = {"error_code": code, "message": plain(refusal.message)}
        return Refused(b"application/json", orjson.dumps(body))

    def _json(self, body: bytes) -> InferRequest:
        if len(body) > self._cheap:
            check_bounds(body, self._bounds)
        document = loads(body)
        if type(document) is not dict:
            raise Refusal(SYNTAX, "the body is not an object")
        keys = len(document)
        params = document.pop(_PARAMS, None)
        if len(document) != 1 or not document.keys() <= _KEYS:
            one = ", ".join(sorted(_KEYS))
            raise Refusal(SYNTAX, f"the body needs one of {one}, and at most {_PARAMS} beside it")
        ((key, value),) = document.items()
        request, own = self._request_of(key, value, may_hold_booleans(body))
        if params is not None:
            own += self._check_params(params)
            if params:
                request.options = {**request.options, "parameters": params}
        check_unique_keys(body, keys + own)
        return request

    def _request_of(self, key: str, value: Any, booleans: bool) -> tuple[InferRequest, int]:
        """A request, and the keys of all objects in what it was read from."""
        if key == _SPLIT:
            return self._split(value, booleans)
        if key == _INPUTS and type(value) is dict:
            reading = self._tensors.columns(key, value, booleans=booleans)
        elif type(value) is list and value:
            plain = self._plain(key, value)
            if plain is not None:
                return plain
            reading = self._tensors.rows(key, value, booleans=booleans)
        else:
            raise Refusal(SYNTAX, f"{key} is not a list of rows")
        if key == _RECORDS:
            if reading.form is not Form.RECORDS:
                raise Refusal(SYNTAX, f"{key} is not a list of objects")
            key = _SPLIT
        # The server makes one array of a table: words among numbers would make words of them all.
        if reading.form is Form.TABLE and (
            reading.missing or any(one.dtype.kind not in "if" for one in reading.tensors.values())
        ):
            raise Refusal(TENSOR_NAME, f"name the columns of {key}: not all are numbers")
        return self._request(reading, _options(key, reading.form)), reading.keys

    def _plain(self, key: str, rows: list[Any]) -> tuple[InferRequest, int] | None:
        """Rows of a data frame of numbers, the fast way; None if they are to be read otherwise."""
        if type(rows[0]) is not dict:
            found = self._numbers.read(self._order, rows) if key != _RECORDS else None
            form, keys = Form.TABLE, 0
        else:
            names = list(rows[0])
            lists = [list(row.values()) for row in rows if type(row) is dict and list(row) == names]
            found = self._numbers.read(names, lists) if len(lists) == len(rows) else None
            form, keys = Form.RECORDS, len(rows) * len(names)
        if found is None:
            return None
        options = _options(_SPLIT if key == _RECORDS else key, form)
        return InferRequest(*found, len(rows), options), keys

    def _split(self, value: Any, booleans: bool) -> tuple[InferRequest, int]:
        if type(value) is not dict or not {"data"} <= value.keys() <= {"columns", "index", "data"}:
            raise Refusal(SYNTAX, f"{_SPLIT} is not an object of columns, index and data")
        data, names = value["data"], value.get("columns")
        if type(data) is not list or (data and type(data[0]) is dict):
            raise Refusal(SYNTAX, f"the data of {_SPLIT} are not a list of rows")
        plain = self._numbers.read(names, data) if type(names) is list else None
        if "index" in value:
            _check_index(value["index"], len(data))
        if plain is not None:
            request = InferRequest(*plain, len(data), _options(_SPLIT, Form.COLUMNS))
            return request, len(value)
        if names is None or (type(names) is list and names == list(range(len(names)))):
            if self._held.columns:
                raise Refusal(TENSOR_NAME, f"{_SPLIT} does not name its columns")
            reading = self._tensors.rows(_SPLIT, data, booleans=booleans)
            (tensor,) = reading.tensors.values()
            if names is not None and len(names) != tensor.size // len(tensor):
                raise Refusal(SHAPE, "a row has not as many elements as there are columns")
        else:
            check_names(_SPLIT, names)
            if set(map(type, data)) != {list} or set(map(len, data)) != {len(names)}:
                raise Refusal(SHAPE, "a row has not as many elements as there are columns")
            columns = dict(zip(names, map(list, zip(*data, strict=True)), strict=True))
            reading = self._tensors.columns(_SPLIT, columns, booleans=booleans)
        return self._request(reading, _options(_SPLIT, reading.form)), len(value)

    def _csv(self, body: bytes) -> InferRequest:
        """A data frame in CSV: forwarded as JSON, in which a number is what it was scored as."""
        held = self._held
        if not (held.columns or held.open):
            raise Refusal(TENSOR_NAME, "CSV has columns, and the contract declares tensors")
        cells = self._max_rows * len(held.inputs) if held.columns else FREE_VALUES
        end = body.find(b"\n") + 1
        numbers = None
        if end and self._numeric and b'"' not in body[:end]:
            numbers = read_numbers(body[end:], max_rows=self._max_rows, max_cells=cells)
        header = body if numbers is None else body[:end]
        lines = read_delimited(header, max_rows=self._max_rows, max_cells=cells, header=True)
        names = lines[0]
        rows: Sequence[Sequence[Any]] = lines[1:] if numbers is None else numbers
        if not rows:
            raise Refusal(SHAPE, "the CSV has no rows below its header")
        if held.open and any(_NUMERAL.match(name) for name in names):
            raise Refusal(TENSOR_NAME, "the first line of the CSV does not name the columns")
        if len(rows[0]) != len(names):
            raise Refusal(SHAPE, "line 2 has not as many cells as the first")
        options = _options(_SPLIT, Form.COLUMNS)
        plain = self._numbers.read(names, rows) if numbers is not None else None
        if plain is not None:
            return InferRequest(*plain, len(rows), options)
        check_names("the CSV", names)
        columns = dict(zip(names, zip(*rows, strict=True), strict=True))
        if held.open and held.width is not None and len(names) > 1:
            columns = {name: columns[name] for name in self._in_order(names)}
        return read_frame(held, columns, len(rows), cells=numbers is None, options=options)

    def _check_params(self, params: Any) -> int:
        """How many keys the parameters have."""
        if type(params) is not dict:
            raise Refusal(SYNTAX, f"{_PARAMS} is not an object")
        for name, value in params.items():
            if name not in self._parameters:
                raise Refusal(PARAMETER, shown(name))
            items = value if type(value) is list else [value]
            if len(items) > _MOST_ITEMS or not set(map(type, items)) <= _PLAIN:
                raise Refusal(PARAMETER, f"{shown(name)} is not a plain value, or a list of such")
        return len(params)

    def _read_answer(self, document: Any) -> InferResponse:
        if type(document) is not dict or document.keys() != {"predictions"}:
            raise Refusal(SYNTAX, "the answer is not an object of predictions")
        value = document["predictions"]
        read = self._answers.columns if type(value) is dict else self._answers.rows
        reading = read("predictions", value)
        return InferResponse(reading.tensors, reading.n, {"form": reading.form})

    def _bind(self, contract: Contract | None) -> None:
        super()._bind(contract)
        # Whether cells of numbers alone can be what the columns hold.
        self._numbers = NumberFrames(self._held, self._max_rows)
        self._numeric = all(spec.datatype in ("FP64", "INT64") for spec in self._held.inputs)


@lru_cache(maxsize=16)
def _options(key: str, form: Form) -> Mapping[str, Any]:
    """What is kept of a request that says nothing else: the same for all that came so."""
    return {"key": key, "form": form}


def _split_of(request: InferRequest) -> dict[str, Any]:
    """A data frame as ``dataframe_split``, row by row."""
    options = request.options
    if options["form"] is Form.ALONE:
        return {"data": write_tensors(Form.ALONE, request.tensors)}
    missing = options.get(MISSING, {})
    rows = write_tensors(Form.TABLE, request.tensors, missing=missing)
    return {"columns": list(request.tensors), "data": rows}


def _check_index(index: Any, n: int) -> None:
    """Refuses what is no index of the rows. It is not passed on: no model is to look at it."""
    if type(index) is not list or len(index) != n or not set(map(type, index)) <= {int, str}:
        raise Refusal(SYNTAX, "the index is not a list of a number or a string for each row")
