"""The bodies of SageMaker containers beside plain JSON: CSV without a header, and JSON Lines."""

from __future__ import annotations

from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from proxy.protocols.contract import Contract, TensorSpec
from proxy.protocols.delimited import read_delimited, read_numbers
from proxy.protocols.nested import FREE_VALUES, from_flat
from proxy.protocols.strict_json import loads
from proxy.protocols.tensors import Tensor
from proxy.rules import ROWS_PER_REQUEST, SYNTAX, TENSOR_NAME, VALUE, Refusal

Mask = npt.NDArray[np.bool_]

_MOST_LINES: Final = 2**20  # of an answer
_EXACT: Final = 2.0**53


def read_matrix(
    name: str, text: bytes, spec: TensorSpec | None, *, max_rows: int, max_cells: int = FREE_VALUES
) -> tuple[Tensor, Mask | None]:
    """Lines of numbers as a tensor, and which columns of a floating tensor are written as integers.

    A reader that infers the type of each column tells integers from others: so both are written as
    they came.

    Args:
        spec: of the tensor, if it is declared.
        max_rows: lines.

    Raises:
        Refusal: SYNTAX, SHAPE, VALUE or ROWS_PER_REQUEST.
    """
    lines = read_numbers(text, max_rows=max_rows, max_cells=max_cells)
    if lines is None:
        read_delimited(text, max_rows=max_rows, max_cells=max_cells)
        raise Refusal(VALUE, f"{name} has a cell that is not a number")
    n, width = len(lines), len(lines[0])
    shape = (n,) if spec is not None and len(spec.shape) == 1 and width == 1 else (n, width)
    flat = lines[0] if n == 1 else list(chain.from_iterable(lines))
    tensor = from_flat(name, flat, shape, spec, booleans=False)
    if tensor.dtype.kind != "f" or int not in set(map(type, flat)):
        return tensor, None
    columns = [float not in set(map(type, column)) for column in zip(*lines, strict=True)]
    # What is no exact integer as a double is written as the double that it became.
    largest = np.abs(tensor.reshape(n, width).astype(np.float64)).max(axis=0)
    whole = np.array(columns) & (largest <= _EXACT)
    return tensor, whole if whole.any() else None


def write_matrix(tensor: Tensor, whole: Mask | None = None) -> bytes:
    """Lines of numbers, the last one without an end. FP32 goes as the double that equals it."""
    if not tensor.size:
        return b""
    rows: Any = tensor.reshape(len(tensor), -1)
    if rows.dtype.kind == "f":
        rows = rows.astype(np.float64)
    if whole is not None:
        if whole.all():
            rows = rows.astype(np.int64)
        else:
            mask = whole.tolist()
            rows = [
                [int(cell) if is_whole else cell for cell, is_whole in zip(row, mask, strict=True)]
                for row in rows.tolist()
            ]
    text = orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)
    # Split at one letter: three are not found at the speed of memory.
    return b"\n".join([line[2:] for line in text[:-2].split(b"]")])


def read_lines(text: bytes, max_rows: int | None) -> list[Any]:
    """The documents of JSON Lines: objects or lists, one a line, none of them empty.

    Raises:
        Refusal: SYNTAX or ROWS_PER_REQUEST.
    """
    text = text.removesuffix(b"\n")
    most = _MOST_LINES if max_rows is None else max_rows
    if text.count(b"\n") >= most:
        raise Refusal(ROWS_PER_REQUEST, f"at most {most}")
    documents = [loads(line) for line in text.split(b"\n")]
    for number, document in enumerate(documents):
        if type(document) not in (dict, list):
            raise Refusal(SYNTAX, f"line {number + 1} is neither an object nor a list")
    return documents


def write_lines(documents: Any) -> bytes:
    """JSON Lines of a list of documents, or of an array's rows."""
    return b"\n".join(
        orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY) for document in documents
    )


def read_text_answer(name: str, text: bytes) -> Tensor:
    """A CSV answer: numbers, or one label a line.

    Raises:
        Refusal: SYNTAX, SHAPE or VALUE.
    """
    lines = read_numbers(text, max_rows=_MOST_LINES, max_cells=_MOST_LINES)
    if lines is not None:
        return read_matrix(name, text, None, max_rows=_MOST_LINES, max_cells=_MOST_LINES)[0]
    cells = read_delimited(text, max_rows=_MOST_LINES, max_cells=_MOST_LINES)
    if len(cells[0]) != 1:
        raise Refusal(VALUE, f"{name} has a cell that is not a number")
    labels = np.empty(len(cells), object)
    labels[:] = [line[0].encode() for line in cells]
    labels.flags.writeable = False
    return labels


def only_input(contract: Contract) -> TensorSpec | None:
    """The tensor that a body without names holds; None if nothing is declared.

    Raises:
        Refusal: TENSOR_NAME if there are several.
    """
    if len(contract.inputs) > 1:
        raise Refusal(TENSOR_NAME, "the model takes several inputs: send JSON that names them")
    return contract.inputs[0] if contract.inputs else None
