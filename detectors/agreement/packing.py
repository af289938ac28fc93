"""Agreement detectors to named arrays and scalars, and back: what a bundle keeps of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, TypeAlias, cast, get_type_hints

import numpy.typing as npt

from detectors.agreement import OPINIONS, REGISTRY
from detectors.agreement.base import AgreementDetector, SecondOpinion
from detectors.agreement.gradients import Gradients
from detectors.agreement.space import Space

Parameters: TypeAlias = dict[str, dict[str, int | float]]
Arrays: TypeAlias = dict[str, npt.NDArray[Any]]

VIEWS: Final[dict[str, type[Space]]] = {view.name: view for view in (Space, Gradients)}
"""What several detectors share, by name: a bundle holds each at most once."""
BYTES_CAP: Final = 64 << 20
"""Of all the arrays together."""


def pack(
    detectors: Sequence[AgreementDetector], opinions: Sequence[SecondOpinion] = ()
) -> tuple[Parameters, Arrays]:
    """Scalars by kind, and arrays named ``<kind>/<field>``; shared views come by their own names.

    Raises:
        ValueError: if a kind occurs twice, two detectors hold different views of one name, or the
            arrays are too large.
    """
    parameters: Parameters = {}
    arrays: Arrays = {}
    views: dict[str, object] = {}
    waiting: list[Any] = [*detectors, *opinions]
    while waiting:
        part = waiting.pop(0)
        if part.name in parameters:
            raise ValueError(f"{part.name} occurs twice")
        scalars = parameters[part.name] = {}
        for field, hint in _stored(type(part)).items():
            value = getattr(part, field)
            if hint in (int, float):
                scalars[field] = value
            elif hint in VIEWS.values():
                if views.setdefault(value.name, value) is not value:
                    raise ValueError(f"the detectors do not share one {value.name}")
            else:
                arrays[f"{part.name}/{field}"] = value
        if not waiting:
            waiting = [view for name, view in views.items() if name not in parameters]
    _check_size(arrays)
    return parameters, arrays


def unpack(
    parameters: Mapping[str, Mapping[str, int | float]], arrays: Mapping[str, npt.NDArray[Any]]
) -> tuple[list[AgreementDetector], list[SecondOpinion]]:
    """What :func:`pack` took apart; detectors and opinions in the order of their registries.

    Raises:
        ValueError: whatever is wrong with the parameters or the arrays.
    """
    _check_size(arrays)
    kinds: dict[str, type[Any]] = {**VIEWS, **REGISTRY, **OPINIONS}
    unknown = sorted(set(parameters) - set(kinds))
    if unknown:
        raise ValueError(f"unknown agreement detector {unknown[0]!r}")
    given = dict(arrays)
    made: dict[str, Any] = {}
    used: set[str] = set()
    for name, kind in kinds.items():  # views first
        if name not in parameters:
            continue
        scalars = dict(parameters[name])
        values: dict[str, Any] = {}
        for field, hint in _stored(kind).items():
            array = f"{name}/{field}"
            if hint in VIEWS.values() and hint.name in made:
                values[field] = made[hint.name]
                used.add(hint.name)
            elif hint in (int, float) and field in scalars:
                values[field] = scalars.pop(field)
            elif hint not in (int, float, *VIEWS.values()) and array in given:
                values[field] = given.pop(array)
            else:
                raise ValueError(f"{name}: {field} is missing")
        if scalars:
            raise ValueError(f"{name}: unknown parameter {min(scalars)!r}")
        try:
            made[name] = kind(**values)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{name}: {error}") from error
    left = sorted(given) + sorted(made.keys() & VIEWS.keys() - used)
    if left:
        raise ValueError(f"{left[0]!r} belongs to no agreement detector")
    return (
        [cast(AgreementDetector, made[name]) for name in REGISTRY if name in made],
        [cast(SecondOpinion, made[name]) for name in OPINIONS if name in made],
    )


def _stored(kind: type[Any]) -> dict[str, Any]:
    """The fields that make up an instance, with their types."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


def _check_size(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    if sum(array.nbytes for array in arrays.values()) > BYTES_CAP:
        raise ValueError(f"the arrays of the agreement detectors exceed {BYTES_CAP >> 20} MiB")
