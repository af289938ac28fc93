"""Contracts of data frames: columns with names, each of numbers, categories or words.

A column is a tensor of one element a row. A category is scored through its declared encoding, a
missing element as what its column says it counts as; words are checked and passed on, not scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from proxy.protocols.contract import ANY, Contract, ContractError, TensorSpec

DATATYPES: Final = {
    "number": "FP64",
    "integer": "INT64",
    "boolean": "BOOL",
    "category": "BYTES",
    "string": "BYTES",
}
"""The types of columns, with the datatype of their tensors. Categories that are integers are INT64;
numbers of which none is written as a float are forwarded as integers."""

_KEYS: Final = frozenset(
    {"name", "type", "min", "max", "values", "encoding", "missing", "optional"}
)
_ENCODINGS: Final = ("ordinal", "one_hot")
_MOST_CATEGORIES: Final = 4096
_MOST_FEATURES: Final = 2**16
_MOST_INTEGER: Final = 2**63 - 1


def columns_contract(
    columns: Sequence[Mapping[str, Any]],
    *,
    width: int | None = None,
    names: Sequence[str] | None = None,
) -> Contract:
    """The contract of a data frame.

    Args:
        columns: in the model's order, each a mapping with ``name`` and, where they say something:
            ``type`` (a key of ``DATATYPES``; number if left out), ``min`` and ``max`` of numbers,
            ``values`` of a category (all words or all integers), its ``encoding`` (ordinal or
            one_hot), ``missing`` (what a missing element counts as) and ``optional`` (whether a
            request may leave out the column, all of whose elements are then missing). None is as
            good as left out.
        width: features per row that something else fixes, such as a bundle.
        names: of these features, where they are known.

    Raises:
        ContractError: for a column without sense, or columns that make up other features.
    """
    contract = Contract(tuple(map(_spec, columns)), columns=True)
    if not contract.inputs:
        raise ContractError("the contract has no columns")
    seen: set[str] = set()
    for spec in contract.inputs:
        if spec.name in seen:
            raise ContractError(f"column {spec.name!r} is declared twice")
        seen.add(spec.name)
    own = sum(spec.features for spec in contract.inputs)
    if own > _MOST_FEATURES:
        raise ContractError(f"the columns make up {own} features: at most {_MOST_FEATURES}")
    if names is not None:
        check_features(contract, names)
    if own:
        return Contract(contract.inputs, width=own, columns=True).with_width(width)
    if width is not None:
        raise ContractError(f"the columns make up no features, not {width}")
    return Contract(contract.inputs, width=0, columns=True)


def numbers_contract(names: Iterable[str]) -> Contract:
    """The contract of a data frame of numbers, one column for each feature of a bundle.

    Raises:
        ContractError: if a name is repeated or empty.
    """
    return columns_contract([{"name": name} for name in names])


def feature_names(contract: Contract) -> tuple[str, ...]:
    """What the features of a row are called, in their order: the column's name, or for each
    category of a one-hot column ``NAME=VALUE``."""
    return tuple(
        name
        for spec in contract.inputs
        if spec.features
        for name in (
            [f"{spec.name}={_text(value)}" for value in spec.categories]
            if spec.encoding == "one_hot" and spec.categories
            else [spec.name]
        )
    )


def check_features(contract: Contract, names: Sequence[str]) -> None:
    """Holds the columns against the features that a bundle was fitted with.

    Raises:
        ContractError: if they are not the same, in the same order: says where they part.
    """
    own = feature_names(contract)
    for place, (one, other) in enumerate(zip(own, names, strict=False)):
        if one != other:
            raise ContractError(
                f"feature {place} of the columns is {one!r}, that of the bundle {other!r}"
            )
    if len(own) != len(names):
        raise ContractError(
            f"the columns make up {len(own)} features, the bundle was fitted with {len(names)}"
        )


def _spec(column: Mapping[str, Any]) -> TensorSpec:
    """One column's declaration, checked."""
    given = {key: value for key, value in column.items() if value is not None}
    name = given.get("name")
    if not isinstance(name, str) or not name:
        raise ContractError("a column of the contract has no name")
    where = f"column {name!r}"
    if unknown := set(given) - _KEYS:
        raise ContractError(f"{where}: unknown key {min(unknown)!r}")
    kind = given.get("type", "number")
    datatype = DATATYPES.get(kind) if isinstance(kind, str) else None
    if datatype is None:
        raise ContractError(f"{where}: type {kind!r} is not one of {', '.join(DATATYPES)}")
    categories: tuple[bytes, ...] | tuple[int, ...] = ()
    encoding = given.get("encoding", _ENCODINGS[0])
    if kind == "category":
        categories = _categories(where, given.get("values"))
        if type(categories[0]) is int:
            datatype = "INT64"
        if encoding not in _ENCODINGS:
            raise ContractError(f"{where}: encoding {encoding!r} is neither ordinal nor one_hot")
    else:
        for key in ("values", "encoding"):
            if key in given:
                raise ContractError(f"{where}: only a category has {key}")
    low, high = (_bound(where, kind, key, given.get(key)) for key in ("min", "max"))
    if low is not None and high is not None and low > high:
        raise ContractError(f"{where}: the range is empty: min {low:g} is above max {high:g}")
    missing = given.get("missing")
    optional = given.get("optional", False)
    if type(optional) is not bool:
        raise ContractError(f"{where}: optional is neither true nor false")
    if missing is not None:
        missing = _missing(where, kind, missing, categories)
    elif optional and kind != "string":
        raise ContractError(f"{where}: optional needs missing: what counts where it is left out?")
    return TensorSpec(name, datatype, (ANY,), low, high, optional, categories, encoding, missing)


def _categories(where: str, values: Any) -> tuple[bytes, ...] | tuple[int, ...]:
    if not isinstance(values, list | tuple) or not 0 < len(values) <= _MOST_CATEGORIES:
        raise ContractError(f"{where}: a category needs 1 to {_MOST_CATEGORIES} values")
    kinds = set(map(type, values))
    if kinds not in ({str}, {int}):
        raise ContractError(f"{where}: the values are neither all words nor all integers")
    if len(set(values)) != len(values):
        raise ContractError(f"{where}: a value is declared twice")
    if kinds == {int}:
        if max(map(abs, values)) > _MOST_INTEGER:
            raise ContractError(f"{where}: a value is beyond 64 bits")
        return tuple(values)
    return tuple(_bytes(where, value) for value in values)


def _bound(where: str, kind: str, key: str, value: Any) -> float | None:
    if value is None:
        return None
    if kind not in ("number", "integer"):
        raise ContractError(f"{where}: a {kind} has no {key}")
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ContractError(f"{where}: {key} {value!r} is not a finite number")
    number: float = value
    return number


def _missing(
    where: str, kind: str, value: Any, categories: tuple[bytes, ...] | tuple[int, ...]
) -> float | bytes:
    wanted = {
        "number": (int, float),
        "integer": (int,),
        "boolean": (bool,),
        "category": (str, int),
        "string": (str,),
    }[kind]
    if type(value) not in wanted:
        raise ContractError(f"{where}: missing {value!r} is not a {kind}")
    if type(value) in (int, float) and not abs(value) <= _MOST_INTEGER:
        raise ContractError(f"{where}: missing {value!r} is too large")
    found: float | bytes = _bytes(where, value) if isinstance(value, str) else value
    if kind == "category" and found not in categories:
        raise ContractError(f"{where}: missing {value!r} is not among the values")
    return found


def _bytes(where: str, word: str) -> bytes:
    try:
        return word.encode()
    except UnicodeEncodeError:
        raise ContractError(f"{where}: {word!r} is not text") from None


def _text(value: bytes | int) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
