"""The tensor contract of one model: which tensors it takes, of which datatype, shape and range.

It comes from the configuration, or from the metadata that the model server gives of itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal, Self

from proxy.protocols.strict_json import strict_json
from proxy.protocols.tensors import DATATYPES, MAX_RANK
from proxy.rules import Refusal

ANY: Final = -1
_MAX_DIMENSION: Final = 2**63 - 1
_TENSOR_KEYS: Final = frozenset({"name", "datatype", "shape", "minimum", "maximum", "optional"})


class ContractError(ValueError):
    """A contract that cannot be held: the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What one tensor must be.

    Attributes:
        name: as on the wire.
        datatype: a name in ``DATATYPES``; for an output, any the server knows.
        shape: one size per dimension, ``ANY`` (-1) where every size from 1 on will do.
        minimum: the smallest value allowed, or None.
        maximum: the largest value allowed, or None.
        optional: whether a request may leave it out.
        categories: the only values that elements may have, BYTES or integers; empty: any.
        encoding: how a category is scored: as its number in ``categories``, or as one feature for
            each of them, 1 for the one that it is.
        missing: what an element that is missing counts as when it is scored; None: none may be.
        places: the number of each category.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    minimum: float | None = None
    maximum: float | None = None
    optional: bool = False
    categories: tuple[bytes, ...] | tuple[int, ...] = ()
    encoding: Literal["ordinal", "one_hot"] = "ordinal"
    missing: float | bytes | None = None
    places: Mapping[bytes | int, int] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        places = {value: number for number, value in enumerate(self.categories)}
        object.__setattr__(self, "places", places)

    @property
    def numeric(self) -> bool:
        """Whether the elements are numbers on the wire."""
        return self.datatype in DATATYPES and DATATYPES[self.datatype].numeric

    @property
    def features(self) -> int:
        """How many features an element has among those that are scored: 0 for words."""
        if self.categories and self.encoding == "one_hot":
            return len(self.categories)
        return int(self.numeric or bool(self.categories))

    @property
    def bounded(self) -> bool:
        """Whether the values have a range to lie in."""
        return self.minimum is not None or self.maximum is not None


@dataclass(frozen=True)
class Contract:
    """An immutable value: two contracts are equal if the same requests satisfy them.

    Attributes:
        inputs: in the model's order, which is the order of the features. Empty: the contract is
            open, names, datatypes and shapes are the client's, and only their agreement with the
            data is checked.
        outputs: what a request may ask for. Empty: anything.
        width: features per row, or None if requests may differ in it. Taken from ``inputs`` where
            they fix it.
        columns: whether the inputs are the columns of a data frame: each of one element a row. See
            ``proxy.protocols.columns``.
    """

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    width: int | None = None
    columns: bool = False

    @cached_property
    def open(self) -> bool:
        """Whether nothing is declared about the inputs."""
        return not self.inputs

    @cached_property
    def batched(self) -> bool:
        """Whether the first dimension counts rows.

        It does unless a declared input fixes it to something other than 1: then the model takes
        one unbatched sample at a time, and a request is one row.
        """
        return all(spec.shape[0] in (ANY, 1) for spec in self.inputs)

    @classmethod
    def from_config(
        cls,
        inputs: Sequence[Mapping[str, Any]],
        outputs: Sequence[Mapping[str, Any]] = (),
        width: int | None = None,
    ) -> Self:
        """A contract of plain values: each tensor a mapping with the fields of ``TensorSpec``.

        Raises:
            ContractError: for anything missing, unknown, repeated or without sense.
        """
        for tensor in (*inputs, *outputs):
            if unknown := set(tensor) - _TENSOR_KEYS:
                raise ContractError(f"unknown key {min(unknown)!r} in a tensor of the contract")
        return cls._of(inputs, outputs).with_width(width)

    @classmethod
    def from_metadata(cls, body: bytes, *, model: str = "", width: int | None = None) -> Self:
        """The contract that a server's model metadata declares (OIP v2, "Model Metadata").

        Unknown fields are ignored. A server that declares no inputs (MLServer's scikit-learn
        runtime, unless its settings name them) gives an open contract.

        Args:
            body: the JSON of ``GET /v2/models/MODEL``.
            model: the name that the answer must bear, or "".
            width: features per row that something else fixes, such as a bundle.

        Raises:
            ContractError: if the answer is not such metadata, or names what cannot be inspected.
        """
        try:
            metadata = strict_json(body)
        except Refusal as refusal:
            raise ContractError(f"model metadata: {refusal.message}") from None
        if not isinstance(metadata, dict):
            raise ContractError("model metadata is not a JSON object")
        if model and metadata.get("name") != model:
            raise ContractError(f"model metadata is not that of {model!r}")
        sides: list[Sequence[Mapping[str, Any]]] = []
        for side in ("inputs", "outputs"):
            tensors = metadata.get(side) or ()
            if not isinstance(tensors, list | tuple) or not all(
                isinstance(tensor, dict) for tensor in tensors
            ):
                raise ContractError(f"model metadata: {side} is not a list of tensors")
            sides.append(
                [
                    {key: tensor[key] for key in ("name", "datatype", "shape") if key in tensor}
                    for tensor in tensors
                ]
            )
        return cls._of(*sides).with_width(width)

    def with_width(self, width: int | None) -> Self:
        """The same contract, with the features per row fixed where the tensors leave them open.

        Raises:
            ContractError: if the tensors fix another width.
        """
        if width is None or width == self.width:
            return self
        if self.width is not None:
            raise ContractError(f"the model takes {self.width} features per row, not {width}")
        if type(width) is not int or width < 1:
            raise ContractError("the width must be a positive number of features")
        return replace(self, width=width)

    @classmethod
    def _of(cls, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> Self:
        takes = tuple(_spec(tensor, scored=True) for tensor in inputs)
        gives = tuple(_spec(tensor, scored=False) for tensor in outputs)
        for specs in (takes, gives):
            if len({spec.name for spec in specs}) != len(specs):
                raise ContractError("two tensors of the contract have the same name")
        contract = cls(takes, gives)
        return replace(contract, width=_width(contract)) if takes else contract


def _spec(tensor: Mapping[str, Any], *, scored: bool) -> TensorSpec:
    name = tensor.get("name")
    if not isinstance(name, str) or not name:
        raise ContractError("a tensor of the contract has no name")
    datatype = tensor.get("datatype")
    # Outputs are passed on, so a datatype that cannot be inspected does no harm there.
    if not isinstance(datatype, str) or (scored and datatype not in DATATYPES):
        raise ContractError(f"tensor {name!r}: datatype {datatype!r} cannot be inspected")
    shape = tensor.get("shape")
    if not isinstance(shape, list | tuple) or len(shape) > MAX_RANK or (scored and not shape):
        raise ContractError(f"tensor {name!r}: shape {shape!r} is not 1 to {MAX_RANK} dimensions")
    smallest = 1 if scored else 0
    for size in shape:
        if type(size) is not int or not (size == ANY or smallest <= size <= _MAX_DIMENSION):
            raise ContractError(f"tensor {name!r}: dimension {size!r} is neither positive nor -1")
    bounds = []
    for bound in ("minimum", "maximum"):
        value = tensor.get(bound)
        if value is not None:
            if type(value) not in (int, float) or not math.isfinite(value):
                raise ContractError(f"tensor {name!r}: {bound} {value!r} is not a finite number")
            if datatype == "BYTES":
                raise ContractError(f"tensor {name!r}: BYTES have no {bound}")
        bounds.append(value)
    minimum, maximum = bounds
    if minimum is not None and maximum is not None and minimum > maximum:
        raise ContractError(f"tensor {name!r}: minimum {minimum} is above maximum {maximum}")
    optional = tensor.get("optional", False)
    if type(optional) is not bool:
        raise ContractError(f"tensor {name!r}: optional is neither true nor false")
    return TensorSpec(name, datatype, tuple(shape), minimum, maximum, optional)


def _width(contract: Contract) -> int | None:
    width = 0
    for spec in contract.inputs:
        if not spec.features:
            continue
        sizes = spec.shape[1:] if contract.batched else spec.shape
        if spec.optional or ANY in sizes:
            return None
        width += math.prod(sizes)
    return width
