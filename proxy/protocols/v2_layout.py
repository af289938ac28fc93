"""What the JSON of an OIP v2 request says of its tensors, held against the contract."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from proxy.protocols.contract import ANY, Contract, TensorSpec
from proxy.protocols.strict_json import Bounds, check_bounds, check_unique_keys, loads
from proxy.protocols.tensors import BYTES, Datatype
from proxy.protocols.v2_binary import check_size
from proxy.protocols.v2_inputs import InputReader, most_strings
from proxy.protocols.v2_messages import MAX_TENSORS, read_input_parameters, read_options, shown
from proxy.rules import BINARY_FRAMING, SHAPE, SYNTAX, Refusal

# An input has at most 2 objects and 7 keys, an output 2 and 4; the commas between them and those of
# the shape are 21 and 3. Half as many of the strings are keys, the others their values.
_MAX_FIELDS: Final = 16 * MAX_TENSORS
_MAX_COMMAS: Final = 32 * MAX_TENSORS
_MAX_STRINGS: Final = 32 * MAX_TENSORS
# What tensors may hold in JSON where the contract does not fix their shapes. A number costs
# some 50 ns on its way, an array up to 300.
FREE_VALUES: Final = 2**20
FREE_LISTS: Final = 2**16
# Bytes of JSON whose cost is looked at before it is parsed: beyond what one row of numbers takes,
# within these limits.
_LEAST: Final = 4 * 2**10
_LARGE: Final = 32 * 2**10
_NUMBER: Final = 32
_INPUT_KEYS: Final = frozenset({"name", "shape", "datatype", "parameters", "data"})


class Place(NamedTuple):
    """Where one tensor's data is.

    Attributes:
        range: the contract's word on the tensor if that gives a range, else None.
        elements: how many, the product of the shape.
        start: the offset of binary data behind the JSON, or -1 if the data is JSON.
        stop: the offset of its end.
    """

    name: str
    kind: Datatype
    shape: tuple[int, ...]
    range: TensorSpec | None
    elements: int
    start: int
    stop: int


class Layout(NamedTuple):
    """One request, all but the conversion of its data.

    Attributes:
        places: in the order sent.
        n: rows.
        arrays: the JSON data of the places that have such, in their order.
        hollow: the number of ``arrays`` if all are empty, else -1.
        tail: bytes of binary data behind the JSON.
        options: everything beside the tensors, to pass on; read-only, as layouts are shared.
    """

    places: list[Place]
    n: int
    arrays: list[list[Any]]
    hollow: int
    tail: int
    options: Mapping[str, Any]


class LayoutReader:
    """Reads the JSON of requests to one model.

    Args:
        contract: what the model takes.
        max_rows: rows of one request.
        parameters: further request parameters whose scalar values pass.
        model: the name that a request may repeat.

    Attributes:
        cheap: bytes of JSON whose cost need not be looked at.
    """

    def __init__(
        self,
        contract: Contract,
        max_rows: int,
        parameters: Collection[str],
        *,
        model: str = "",
    ) -> None:
        self._model = model
        self._parameters = frozenset(parameters)
        self._inputs = InputReader(contract, max_rows)
        self._outputs = frozenset(spec.name for spec in contract.outputs)
        self._bounds = _bounds(contract, max_rows)
        row = _NUMBER * (self._bounds.values - _MAX_COMMAS) // max_rows
        self.cheap = min(max(row, _LEAST), _LARGE)

    def check_cost(self, text: bytes) -> bool:
        """Refuses a text that would be dear to parse and could not be a request anyway.

        Returns:
            Whether it may be parsed in parts.

        Raises:
            Refusal: SYNTAX.
        """
        return check_bounds(text, self._bounds)

    def read(self, text: bytes) -> Layout:
        """Reads the JSON of a request; a function of its bytes alone.

        Raises:
            Refusal: for everything that can be wrong with it.
        """
        document = loads(text)
        if type(document) is not dict:
            raise Refusal(SYNTAX, "not a JSON object")
        inputs = document.get("inputs")
        if type(inputs) is not list or not 0 < len(inputs) <= MAX_TENSORS:
            raise Refusal(SYNTAX, f"inputs is not a list of 1 to {MAX_TENSORS} tensors")
        options, keys = read_options(document, self._outputs, self._parameters, model=self._model)
        known, n = self._inputs.read(inputs)
        tail = 0
        places: list[Place] = []
        arrays: list[list[Any]] = []
        binary: set[str] = set()
        kept: dict[str, Mapping[str, Any]] = {}
        for item, (name, kind, shape, ranged, count) in zip(inputs, known, strict=True):
            if not item.keys() <= _INPUT_KEYS:
                raise Refusal(SYNTAX, f"unknown key {shown(min(item.keys() - _INPUT_KEYS))}")
            parameters = item.get("parameters", {})
            size, passed = read_input_parameters(name, kind, parameters)
            keys += len(item) + len(parameters)
            if passed:
                kept[name] = passed
            start, stop = -1, tail
            if size is None:
                values = item.get("data")
                if type(values) is not list:
                    raise Refusal(SYNTAX, f"{name} has no list of data")
                arrays.append(values)
            else:
                if "data" in item:
                    raise Refusal(BINARY_FRAMING, f"{name} has both binary_data_size and data")
                if kind is BYTES and count > self._bounds.strings:
                    raise Refusal(SHAPE, f"{name} has too many strings")
                check_size(name, kind, size, count)
                start, stop = tail, tail + size
                binary.add(name)
            places.append(Place(name, kind, shape, ranged, count, start, stop))
            tail = stop
        check_unique_keys(text, keys)
        if binary:
            options["binary"] = frozenset(binary)
        if kept:
            options["input_parameters"] = kept
        hollow = -1 if any(arrays) else len(arrays)
        return Layout(places, n, arrays, hollow, tail, MappingProxyType(options))


def _bounds(contract: Contract, max_rows: int) -> Bounds:
    """The most that the JSON of a request can hold."""
    rows = max_rows if contract.batched else 1
    values = lists = 0
    for spec in contract.inputs:
        row = spec.shape[1:] if contract.batched else spec.shape
        outer = row[:-1]
        elements = FREE_VALUES if ANY in row else rows * prod(row)
        values += elements
        if ANY in outer:
            lists += rows + FREE_LISTS
        else:
            lists += 1 + rows * sum(prod(outer[:depth]) for depth in range(len(outer) + 1))
    if contract.open:
        values, lists = FREE_VALUES, rows + FREE_LISTS
    return Bounds(
        values=values + _MAX_COMMAS,
        lists=lists + 4 * MAX_TENSORS,
        fields=_MAX_FIELDS,
        strings=most_strings(contract, max_rows) + _MAX_STRINGS,
    )
