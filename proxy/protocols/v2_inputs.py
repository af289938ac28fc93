"""What an OIP v2 request declares of its inputs, held against the contract: the same for JSON and
for gRPC.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final, NamedTuple

from proxy.protocols.contract import ANY, Contract, TensorSpec
from proxy.protocols.tensors import BYTES, DATATYPES, Datatype
from proxy.protocols.v2_messages import check_text, read_shape, shown
from proxy.rules import DATATYPE, ROWS_PER_REQUEST, SHAPE, SYNTAX, TENSOR_NAME, Refusal

FREE_STRINGS: Final = 2**14
"""Strings where the contract does not fix their shapes: each costs up to 250 ns on its way."""


class Input(NamedTuple):
    """One input, all but its data.

    Attributes:
        range: the contract's word on the tensor if that gives a range, else None.
        elements: how many, the product of the shape.
    """

    name: str
    kind: Datatype
    shape: tuple[int, ...]
    range: TensorSpec | None
    elements: int


class InputReader:
    """Reads what requests to one model declare of their inputs.

    Args:
        contract: what the model takes.
        max_rows: rows of one request.
    """

    def __init__(self, contract: Contract, max_rows: int) -> None:
        self._open = contract.open
        # Names, order and meaning of several would be the client's to choose, and so would be what
        # of them is scored: a model may read another one, numbers as text included.
        self._lone = contract.open and contract.width is not None
        self._batched = contract.batched
        self._max_rows = max_rows
        self._inputs = {spec.name: (spec, DATATYPES[spec.datatype]) for spec in contract.inputs}
        self._required = {spec.name for spec in contract.inputs if not spec.optional}

    def read(self, items: Sequence[Any]) -> tuple[list[Input], int]:
        """The inputs in the order sent, and the number of rows that they have in common.

        Args:
            items: at least one: mappings with ``name``, ``datatype`` and ``shape``, as JSON has
                them. What else they hold is not looked at.

        Raises:
            Refusal: SYNTAX, TENSOR_NAME, DATATYPE, SHAPE or ROWS_PER_REQUEST.
        """
        inputs: list[Input] = []
        names: set[str] = set()
        n = 0
        for item in items:
            if type(item) is not dict:
                raise Refusal(SYNTAX, "an input is not an object")
            name, kind, shape, spec = self._identify(item)
            if name in names:
                raise Refusal(TENSOR_NAME, f"{shown(name)} is there twice")
            rows = shape[0] if self._batched else 1
            if not names:
                n = rows
                if n > self._max_rows:
                    raise Refusal(ROWS_PER_REQUEST, f"at most {self._max_rows}")
            elif rows != n:
                raise Refusal(SHAPE, f"{name} has another number of rows than the first input")
            names.add(name)
            if self._lone and (len(items) > 1 or kind is BYTES):
                raise Refusal(TENSOR_NAME, "no inputs are declared: one tensor of numbers")
            ranged = spec if spec is not None and spec.bounded else None
            inputs.append(Input(name, kind, shape, ranged, prod(shape)))
        if not self._required <= names:
            raise Refusal(TENSOR_NAME, f"{shown(min(self._required - names))} is missing")
        return inputs, n

    def _identify(
        self, item: dict[str, Any]
    ) -> tuple[str, Datatype, tuple[int, ...], TensorSpec | None]:
        """Which tensor of the contract an input claims to be, if it may."""
        try:
            name, declared, sizes = item["name"], item["datatype"], item["shape"]
        except KeyError as error:
            raise Refusal(SYNTAX, f"an input has no {error.args[0]}") from None
        if type(name) is not str or type(declared) is not str:
            raise Refusal(SYNTAX, "an input's name or datatype is not a string")
        if self._open:
            check_text("the name of an input", name)
            kind = DATATYPES.get(declared)
            if kind is None:
                raise Refusal(DATATYPE, f"{shown(declared)} of {name}")
            return name, kind, read_shape(name, sizes), None
        bound = self._inputs.get(name)
        if bound is None:
            raise Refusal(TENSOR_NAME, shown(name))
        spec, kind = bound
        if declared != kind.name:
            raise Refusal(DATATYPE, f"{name} is {kind.name}")
        shape = read_shape(name, sizes)
        if len(shape) != len(spec.shape):
            raise Refusal(SHAPE, f"{name} has {len(spec.shape)} dimensions")
        for size, wanted in zip(shape, spec.shape, strict=True):
            if wanted not in (size, ANY):
                raise Refusal(SHAPE, f"{name} is {list(spec.shape)}")
        return name, kind, shape, spec


def most_strings(contract: Contract, max_rows: int) -> int:
    """The most BYTES elements that one request can hold."""
    if contract.open:
        return FREE_STRINGS
    rows = max_rows if contract.batched else 1
    strings = 0
    for spec in contract.inputs:
        if spec.datatype == BYTES.name:
            row = spec.shape[1:] if contract.batched else spec.shape
            strings += FREE_STRINGS if ANY in row else rows * prod(row)
    return strings
