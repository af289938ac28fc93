"""What a scenario may say of one driver alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from proxy.settings.section import Section

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Knobs(Section):
    """Knobs that every driver has which asks as a patient or impatient client."""

    wait: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 0.0
    """The longest pause, in seconds, after a reply that says when to try again; 0: goes on at
    once."""


K = TypeVar("K", bound=Section)


def read(kind: type[K], knobs: Mapping[str, Any]) -> K:
    """The knobs, validated.

    Raises:
        ValueError: if one is unknown or out of its range; says which, in one line.
    """
    try:
        return kind.model_validate(dict(knobs))
    except ValidationError as problem:
        faults = (
            f"there is no knob {'.'.join(map(str, fault['loc']))!r}; "
            f"there are: {', '.join(sorted(kind.model_fields))}"
            if fault["type"] == "extra_forbidden"
            else f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            for fault in problem.errors()
        )
        raise ValueError("; ".join(faults)) from None
