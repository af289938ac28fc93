"""What every section of the configuration shares, and how a section reports what contradicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

CONTRADICTION: Final = "contradiction"
"""The pydantic error type whose context lists faults with their places."""

Place = tuple[str | int, ...]


class Section(BaseModel):
    """One mapping of the configuration: immutable, and closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        validate_default=False,
        hide_input_in_errors=True,
    )


class Faults:
    """Gathers what contradicts within a section, so that all of it is reported at once."""

    def __init__(self) -> None:
        self._faults: list[tuple[Place, str]] = []

    def add(self, message: str, *place: str | int) -> None:
        """Notes a fault of the key at ``place``, relative to the section."""
        self._faults.append((place, message))

    def report(self) -> None:
        """Ends the validation if anything was noted.

        Raises:
            PydanticCustomError: with every fault and its place in its context.
        """
        if self._faults:
            summary = "; ".join(message for _, message in self._faults)
            # Pydantic formats the template: the summary goes in as a value, never as a template.
            raise PydanticCustomError(
                CONTRADICTION, "{summary}", {"summary": summary, "faults": self._faults}
            )


def placed(faults: object) -> Sequence[tuple[Place, str]]:
    """The faults in the context of a CONTRADICTION error."""
    return faults if isinstance(faults, list) else ()
