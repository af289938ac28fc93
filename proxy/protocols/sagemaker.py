"""``/invocations`` as SageMaker's containers understand it: CSV without a header, JSON, JSON Lines
and NPY. https://docs.aws.amazon.com/sagemaker/latest/dg/cdf-inference.html
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from proxy.protocols.base import (
    Call,
    Headers,
    InferRequest,
    InferResponse,
    Refused,
    Route,
    Rows,
    plain,
)
from proxy.protocols.contract import Contract
from proxy.protocols.delimited import read_delimited, read_numbers
from proxy.protocols.frames import column_values, read_frame
from proxy.protocols.invocations_paths import Paths
from proxy.protocols.json_answers import ANSWER, AnswerForm, read_answer, write_answer
from proxy.protocols.json_codec import JSON_LINES, JsonCodec, dumps
from proxy.protocols.json_rows import SINGLE, read_rows, write_rows
from proxy.protocols.json_tensors import Form, Reading
from proxy.protocols.nested import FREE_VALUES, check_shape, may_hold_booleans
from proxy.protocols.npy import read_npy, write_npy
from proxy.protocols.rows import MISSING, check_range
from proxy.protocols.sagemaker_forms import (
    only_input,
    read_lines,
    read_matrix,
    read_text_answer,
    write_lines,
    write_matrix,
)
from proxy.protocols.strict_json import check_bounds, check_unique_keys, count_keys, strict_json
from proxy.protocols.tensors import Tensor, datatype_of
from proxy.rules import (
    BODY_TOO_LARGE,
    DATATYPE,
    MEDIA_TYPE,
    PARAMETER,
    ROWS_PER_REQUEST,
    SHAPE,
    SYNTAX,
    UPSTREAM_INVALID,
    Refusal,
)

_CSV: Final = "text/csv"
_JSON: Final = "application/json"
_LINES: Final = "application/jsonlines"
_NPY: Final = "application/x-npy"
_MEDIA: Final = {
    b"text/csv": _CSV,
    b"application/json": _JSON,
    b"application/jsonlines": _LINES,
    b"application/x-npy": _NPY,
}
_HEADERS: Final = {
    media: b"Content-Type: %b\r\n" % media.encode() for media in (_CSV, _LINES, _NPY)
} | {_JSON: JSON_LINES}
_CHARSET: Final = re.compile(rb"[ \t]*;[ \t]*(?i:charset=(?:utf-8|\"utf-8\"))")
_KEYS: Final = ("instances", "inputs")
_SAMPLE: Final = "features"
_NUMBERS: Final = frozenset({"FP64", "INT64"})
_NO_HEAD: Final[Mapping[bytes, bytes]] = {}
_ENDPOINT: Final = re.compile(r"(?:/[^/]+)*/endpoints/[^/]+/invocations")

# What they ask for is another model, another container or other bytes than were inspected; and
# custom attributes mean to a container whatever its author wished.
_CHOOSING: Final = tuple(
    b"x-amzn-sagemaker-" + name
    for name in (
        b"custom-attributes",
        b"enable-explanations",
        b"inference-component",
        b"session-id",
        b"target-container-hostname",
        b"target-model",
        b"target-variant",
    )
)

# The service's own words: the client makes its exceptions of them, and retries some. A block is
# none of these.
_ERRORS: Final = {
    403: b"AccessDeniedException",
    429: b"ThrottlingException",
    500: b"InternalFailure",
    502: b"ModelError",
    503: b"ServiceUnavailable",
    504: b"ModelError",
}


class SageMaker(JsonCodec):
    """The codec of one model.

    A body goes on in the form in which it came. Its rows are those of the contract's only tensor;
    with a contract of columns, CSV has these columns in this order.

    Args:
        prefix: the clients' path, ``[/BASE]/invocations``; the AWS clients have
            ``[/BASE]/endpoints/NAME/invocations``.
        contract: what the model takes; None while it is not known, and every inference is refused.
        upstream_prefix: the path on the model server; None: ``/invocations`` for that of the AWS
            clients, else the same.
        max_rows: rows of one request.
        max_bytes: bytes of one request body, decompressed.
        max_response_bytes: bytes of one answer that is to be read.
        names: see ``JsonCodec``.

    Raises:
        ValueError: if a prefix is not such a path.
    """

    name = "sagemaker"
    accepts = frozenset({*_MEDIA, b"*/*"})

    def __init__(
        self,
        prefix: str,
        contract: Contract | None,
        *,
        upstream_prefix: str | None = None,
        max_rows: int = 256,
        max_bytes: int = 10 * 2**20,
        max_response_bytes: int = 10 * 2**20,
        parameters: Sequence[str] = (),
        names: Sequence[str] = (),
    ) -> None:
        if parameters:
            raise ValueError("SageMaker's containers have no parameters: remove them")
        if upstream_prefix is None and _ENDPOINT.fullmatch(prefix):
            upstream_prefix = "/invocations"
        self._paths = Paths(prefix, upstream_prefix, own={"/ping": Call.HEALTH})
        self.probe: Route | None = self._paths.ping
        super().__init__(
            contract,
            max_rows=max_rows,
            max_bytes=max_bytes,
            max_response_bytes=max_response_bytes,
            names=names,
        )

    def route(self, method: str, target: str) -> Route:
        """Understands a request target. See ``Codec.route``."""
        return self._paths.route(method, target)

    def decode_request(self, head: Headers, body: bytes, route: Route) -> InferRequest:
        """Reads a request strictly and within bounds.

        Raises:
            Refusal: and nothing else, whatever the bytes.
        """
        self._admit(body)
        for name in _CHOOSING:
            if head.get(name) is not None:
                raise Refusal(PARAMETER, f"the header {name.decode()}")
        media = _media(head.get(b"content-type"))
        if media == _JSON:
            return self._json(body)
        if media == _CSV:
            return self._csv(body)
        if media == _NPY:
            return self._npy(body)
        return self._lines(body)

    def encode_request(self, request: InferRequest) -> tuple[bytes, bytes]:
        """The canonical header lines and body of a request."""
        options = request.options
        media = options["media"]
        if media == _JSON:
            body = dumps(write_rows(request))
        elif media == _LINES:
            body = write_lines(write_rows(request))
        elif "frame" in options:
            body = _write_cells(request)
        else:
            (tensor,) = request.tensors.values()
            npy = media == _NPY
            body = write_npy(tensor) if npy else write_matrix(tensor, options.get("whole"))
        return _HEADERS[media], body

    def batch(self, request: InferRequest) -> int:
        """The most rows of one request like this one. See ``Codec.batch``."""
        return 1 if SINGLE in request.options else super().batch(request)

    def with_rows(
        self, request: InferRequest, rows: Rows, origins: npt.NDArray[np.int64]
    ) -> InferRequest:
        """The same question about other rows. See ``Codec.with_rows``."""
        if len(rows) > self.batch(request):
            raise ValueError(f"{len(rows)} rows do not fit the request")
        other = super().with_rows(request, rows, origins)
        whole = request.options.get("whole")
        if whole is not None:
            ((name, tensor),) = other.tensors.items()
            matrix = tensor.reshape(len(tensor), -1)
            rounded = np.where(whole, np.rint(matrix), matrix).astype(tensor.dtype)
            other.tensors[name] = rounded.reshape(tensor.shape)
        return other

    def decode_response(self, head: Headers, body: bytes) -> InferResponse:
        """Reads a successful answer to an inference strictly and within bounds.

        Raises:
            Refusal: UPSTREAM_INVALID, and nothing else, whatever the bytes.
        """
        try:
            self._check_plain(head, body)
            media = _media(head.get(b"content-type") or b"application/json")
            if media == _JSON:
                return self._read_answer(strict_json(body))
            if media == _LINES:
                documents = read_lines(body, None)
                check_unique_keys(body, count_keys(documents))
                return _answer(*read_answer(documents), media)
            if media == _CSV:
                tensor = read_text_answer(ANSWER, body)
            else:
                tensor = read_npy(ANSWER, body, smallest=0)
            return _answer({ANSWER: tensor}, AnswerForm(Form.ALONE), media)
        except Refusal as refusal:
            detail = f"{refusal.rule.message}: {refusal.detail}"
            raise Refusal(UPSTREAM_INVALID, detail) from None

    def encode_response(self, response: InferResponse) -> tuple[bytes, bytes]:
        """Header lines and body of an answer, in the form in which it was read.

        Raises:
            ValueError: for a number that is not finite, but in NPY: text has none such.
        """
        media, form = response.options["media"], response.options["form"]
        if media == _NPY:
            (tensor,) = response.tensors.values()
            return _HEADERS[media], write_npy(tensor)
        document = write_answer(response.tensors, form)
        if media == _CSV:
            (tensor,) = response.tensors.values()
            body = _labels(tensor) if tensor.dtype.hasobject else write_matrix(tensor)
        else:
            body = write_lines(document) if media == _LINES else dumps(document)
        return _HEADERS[media], body

    def refuse(self, refusal: Refusal) -> Refused:
        """A refusal as the AWS clients read it: the kind in a header, the words in the body."""
        status = refusal.rule.status
        kind = _ERRORS.get(status, b"ValidationError" if status < 500 else b"InternalFailure")
        body = orjson.dumps({"Message": plain(refusal.message)})
        return Refused(b"application/json", body, ((b"x-amzn-errortype", kind),))

    def _check_plain(self, head: Headers, body: bytes) -> None:
        if len(body) > self._max_response_bytes:
            raise Refusal(BODY_TOO_LARGE, f"at most {self._max_response_bytes} bytes")
        if head.get(b"content-encoding") not in (None, b"identity"):
            raise Refusal(SYNTAX, "the answer is compressed")

    def _json(self, body: bytes) -> InferRequest:
        document = self._document(_NO_HEAD, body)
        reading, options = read_rows(
            self._tensors,
            self._held,
            document,
            _KEYS,
            sample=_SAMPLE,
            booleans=may_hold_booleans(body),
        )
        check_unique_keys(body, reading.keys)
        return self._request(reading, {**options, "media": _JSON})

    def _lines(self, body: bytes) -> InferRequest:
        if len(body) > self._cheap:
            check_bounds(body, self._bounds)
        documents = read_lines(body, self._max_rows)
        booleans = may_hold_booleans(body)
        reading = self._tensors.rows("instances", documents, booleans=booleans)
        check_unique_keys(body, reading.keys)
        options = {"key": None, "form": reading.form, "media": _LINES}
        return self._request(reading, options)

    def _csv(self, body: bytes) -> InferRequest:
        held = self._held
        cells = FREE_VALUES if held.width is None else self._max_rows * held.width
        if held.columns:
            return self._frame(body)
        spec = only_input(held)
        name = _SAMPLE if spec is None else spec.name
        most = self._max_rows if held.batched else FREE_VALUES
        tensor, whole = read_matrix(name, body, spec, max_rows=most, max_cells=cells)
        options = {"media": _CSV} if whole is None else {"media": _CSV, "whole": whole}
        return self._of(name, tensor, options)

    def _frame(self, body: bytes) -> InferRequest:
        held = self._held
        names = [spec.name for spec in held.inputs]
        rows, most = self._max_rows, self._max_rows * len(names)
        lines: Sequence[Sequence[Any]] | None = None
        if all(spec.datatype in _NUMBERS for spec in held.inputs):
            lines = read_numbers(body, max_rows=rows, max_cells=most)
        cells = lines is None
        if lines is None:
            lines = read_delimited(body, max_rows=rows, max_cells=most)
        if len(lines[0]) != len(names):
            raise Refusal(SHAPE, f"a line of the CSV has {len(names)} cells")
        # Containers that split a text at its line ends would find more rows in it.
        if cells and body.removesuffix(b"\n").count(b"\n") >= len(lines):
            raise Refusal(SYNTAX, "a cell of the CSV has the end of a line in it: send JSON")
        columns = dict(zip(names, zip(*lines, strict=True), strict=True))
        options = {"media": _CSV, "frame": True}
        return read_frame(held, columns, len(lines), cells=cells, options=options)

    def _npy(self, body: bytes) -> InferRequest:
        held = self._held
        spec = only_input(held)
        name = _SAMPLE if spec is None else spec.name
        tensor = read_npy(name, body)
        if held.batched and len(tensor) > self._max_rows:
            raise Refusal(ROWS_PER_REQUEST, f"at most {self._max_rows}")
        if spec is not None:
            if datatype_of(tensor.dtype).name != spec.datatype:
                raise Refusal(DATATYPE, f"{name} is {spec.datatype}")
            check_shape(name, tensor.shape, spec)
            if spec.bounded:
                check_range(spec, tensor)
        return self._of(name, tensor, {"media": _NPY})

    def _of(self, name: str, tensor: Tensor, options: Mapping[str, Any]) -> InferRequest:
        n = len(tensor) if self._held.batched else 1
        return self._request(Reading(Form.ALONE, {name: tensor}, n, 0), options)

    def _read_answer(self, document: Any) -> InferResponse:
        return _answer(*read_answer(document), _JSON)


def _answer(tensors: dict[str, Tensor], form: AnswerForm, media: str) -> InferResponse:
    first = {len(tensor) for tensor in tensors.values() if tensor.ndim}
    n = first.pop() if len(first) == 1 else 1
    return InferResponse(tensors, n, {"form": form, "media": media})


def _media(value: bytes | None) -> str:
    """Which of the forms a Content-Type names.

    Raises:
        Refusal: MEDIA_TYPE.
    """
    known = _MEDIA.get(value or b"")
    if known is None:
        kind, semicolon, rest = (value or b"").partition(b";")
        known = _MEDIA.get(kind.strip(b" \t").lower())
        if known is None or not _CHARSET.fullmatch(semicolon + rest) or known == _NPY:
            raise Refusal(
                MEDIA_TYPE,
                "use text/csv, application/json, application/jsonlines or application/x-npy",
            )
    return known


def _write_cells(request: InferRequest) -> bytes:
    """A data frame as CSV without a header, its texts in quotes; nothing where an element is
    missing."""
    masks = request.options.get(MISSING, {})
    columns = [
        [_cell(value) for value in column_values(tensor, masks.get(name))]
        for name, tensor in request.tensors.items()
    ]
    # Of a single column that is missing an empty line would be left, which readers skip.
    return "\n".join([",".join(row) or '""' for row in zip(*columns, strict=True)]).encode()


def _cell(value: Any) -> str:
    if type(value) is str:
        doubled = value.replace('"', '""')
        return f'"{doubled}"'
    if value is None:
        return ""
    return ("true" if value else "false") if type(value) is bool else repr(value)


def _labels(tensor: Tensor) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[label.decode()] for label in tensor.tolist()])
    return text.getvalue().removesuffix("\n").encode()
