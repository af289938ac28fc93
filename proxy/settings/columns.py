"""The configuration of a contract that is a data frame's: its columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import (
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    StringConstraints,
    model_validator,
)

from proxy.protocols.columns import columns_contract
from proxy.protocols.contract import Contract, ContractError
from proxy.settings.section import Faults, Section

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Column(Section):
    """One column of the data frame that the model takes."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    """The column's name."""
    type: Literal["number", "integer", "boolean", "category", "string"] = "number"
    """What its elements are. A ``string`` is passed on and not scored."""
    min: Finite | None = None
    """The least number allowed; none: any."""
    max: Finite | None = None
    """The greatest number allowed; none: any."""
    values: tuple[StrictStr | StrictInt, ...] | None = None
    """The values that a category may have, all words or all integers. Any other is refused."""
    encoding: Literal["ordinal", "one_hot"] | None = None
    """How a category is scored: ``ordinal``, as its place in ``values`` from 0 on, or
    ``one_hot``, as one feature for each of them; none: ``ordinal``."""
    missing: StrictBool | StrictInt | StrictFloat | StrictStr | None = None
    """What an element counts as that is missing (``null``, an empty cell) when it is scored; it is
    forwarded as missing. None: a request with such an element is refused."""
    optional: bool = False
    """Whether a request may leave the column out: all its elements are missing then."""

    @model_validator(mode="after")
    def _check(self) -> Column:
        faults = Faults()
        try:
            columns_contract([self.model_dump()])
        except ContractError as error:
            faults.add(str(error))
        faults.report()
        return self


class DeclaredColumns(Section):
    """A contract that the configuration states, of a data frame."""

    columns: tuple[Column, ...] = Field(min_length=1, max_length=4096)
    """The columns, in the order in which their features are scored. Requests may have another:
    they are forwarded in this one."""

    def declared(self, width: int | None = None, names: Sequence[str] | None = None) -> Contract:
        """What is stated, of so many features, with these names where they are known.

        Raises:
            ContractError: if they are others.
        """
        return columns_contract(
            [column.model_dump() for column in self.columns], width=width, names=names
        )

    @model_validator(mode="after")
    def _check(self) -> DeclaredColumns:
        faults = Faults()
        seen: set[str] = set()
        for index, column in enumerate(self.columns):
            if column.name in seen:
                faults.add(
                    f"the column {column.name!r} is declared twice", "columns", index, "name"
                )
            seen.add(column.name)
        faults.report()
        return self
