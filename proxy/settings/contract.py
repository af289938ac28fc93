"""The configuration of a contract: what the model takes, stated or learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

from proxy.protocols import contract as protocols
from proxy.settings.columns import DeclaredColumns
from proxy.settings.fields import Seconds
from proxy.settings.section import Faults, Section

Datatype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Tensor(Section):
    """One input tensor of the model, as its contract declares it."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    """The tensor's name."""
    datatype: Datatype
    """Its datatype, in the words of the Open Inference Protocol."""
    shape: tuple[Annotated[int, Field(ge=-1, le=2**31 - 1)], ...] = Field(
        min_length=1, max_length=8
    )
    """Its dimensions, the batch first; -1 for one of any size."""
    min: Finite | None = None
    """The least value allowed; none: any value of the datatype."""
    max: Finite | None = None
    """The greatest value allowed; none: any value of the datatype."""

    @model_validator(mode="after")
    def _check(self) -> Tensor:
        faults = Faults()
        for index, size in enumerate(self.shape):
            if size == 0:
                faults.add("a dimension is at least 1, or -1 for one of any size", "shape", index)
        if self.datatype in ("BYTES", "BOOL"):
            for key in ("min", "max"):
                if getattr(self, key) is not None:
                    faults.add(f"a {self.datatype} tensor has no range", key)
        elif self.min is not None and self.max is not None and self.min > self.max:
            faults.add(f"the range is empty: min {self.min:g} is above max {self.max:g}", "min")
        faults.report()
        return self


class DeclaredContract(Section):
    """A contract that the configuration states."""

    inputs: tuple[Tensor, ...] = Field(min_length=1, max_length=64)
    """The model's input tensors, in the order in which their features are scored."""

    def declared(
        self, width: int | None = None, names: Sequence[str] | None = None
    ) -> protocols.Contract:
        """What is stated, of so many features, where that is known.

        Args:
            names: of the features: tensors do not name them.

        Raises:
            ContractError: if they are others.
        """
        del names
        tensors = [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": tensor.shape,
                "minimum": tensor.min,
                "maximum": tensor.max,
            }
            for tensor in self.inputs
        ]
        return protocols.Contract.from_config(tensors, width=width)

    @model_validator(mode="after")
    def _check(self) -> DeclaredContract:
        faults = Faults()
        seen: set[str] = set()
        for index, tensor in enumerate(self.inputs):
            if tensor.name in seen:
                faults.add(f"the tensor {tensor.name!r} is declared twice", "inputs", index, "name")
            seen.add(tensor.name)
        faults.report()
        return self


class LearntContract(Section):
    """A contract that is learnt from the model server's own metadata."""

    refresh_seconds: Seconds = 30.0
    """How often the metadata is asked for again, to notice a new model."""


def _contract_kind(value: Any) -> str:
    if isinstance(value, DeclaredColumns) or (isinstance(value, dict) and "columns" in value):
        return "columns"
    declared = isinstance(value, DeclaredContract) or (
        isinstance(value, dict) and "inputs" in value
    )
    return "declared" if declared else "learnt"


def _learn(value: Any) -> Any:
    return {} if value == "learn" else value


Contract = Annotated[
    Annotated[DeclaredContract, Tag("declared")]
    | Annotated[DeclaredColumns, Tag("columns")]
    | Annotated[
        LearntContract,
        BeforeValidator(_learn, json_schema_input_type=Literal["learn"] | LearntContract),
        Tag("learnt"),
    ],
    Discriminator(_contract_kind),
]
