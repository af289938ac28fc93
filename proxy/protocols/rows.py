"""Between a request's tensors and the rows that are scored: the same for every codec."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from proxy.protocols.base import InferRequest, Rows
from proxy.protocols.columns import feature_names
from proxy.protocols.contract import ANY, Contract, TensorSpec
from proxy.protocols.tensors import DATATYPES, Tensor, datatype_of, from_rows, to_rows
from proxy.rules import VALUE, Refusal

MISSING: Final = "missing"
"""The option of a request that says which elements of which columns are missing: by name, (n,)
booleans. Their tensors hold what a missing element counts as."""


def scored_rows(tensors: Mapping[str, Tensor], n: int, contract: Contract | None = None) -> Rows:
    """Tensors of n rows each as (n, d) float32: flattened per row and joined in their order.

    Args:
        contract: if it is one of columns, these are encoded as it says, in its order.

    Raises:
        Refusal: VALUE for an FP64 element that only a double can hold, or a category that the
            contract does not name.
    """
    if contract is not None and contract.columns:
        return _encoded(contract, tensors, n)
    parts = [
        to_rows(name, datatype_of(tensor.dtype), tensor, n) for name, tensor in tensors.items()
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _encoded(contract: Contract, tensors: Mapping[str, Tensor], n: int) -> Rows:
    """Columns as (n, d) float32: numbers as they are, categories by their encoding."""
    rows = np.zeros((n, contract.width or 0), np.float32)
    at = 0
    with np.errstate(over="ignore"):
        for spec in contract.inputs:
            features = spec.features
            if not features:
                continue
            tensor = tensors.get(spec.name)
            if not spec.categories:
                rows[:, at] = spec.missing if tensor is None else tensor
            elif spec.encoding == "ordinal":
                rows[:, at] = _places(spec, tensor, n)
            else:
                rows[np.arange(n), np.add(_places(spec, tensor, n), at)] = 1
            at += features
    rows.flags.writeable = False
    if not np.isfinite(rows).all():
        column = int(np.argmin(np.isfinite(rows).all(axis=0)))
        raise Refusal(VALUE, f"{_owner(contract, column)} has an element beyond the range of FP32")
    return rows


def _places(spec: TensorSpec, tensor: Tensor | None, n: int) -> list[int]:
    """The number of each element's category."""
    places = spec.places
    if tensor is None:
        assert spec.missing is not None  # what may be left out has one
        return [places[spec.missing]] * n  # type: ignore[index]  # a category: no float
    try:
        return [places[value] for value in tensor.tolist()]
    except KeyError:
        raise Refusal(VALUE, f"{spec.name} has a category that is not declared") from None


def _owner(contract: Contract, feature: int) -> str:
    """The name of the column that a feature comes from."""
    at = 0
    for spec in contract.inputs:
        at += spec.features
        if feature < at:
            return spec.name
    raise AssertionError("no such feature")


def feature_name(contract: Contract, feature: int) -> str | None:
    """What a feature of the scored rows is called: its column, its tensor, or an element of that
    (``image[3,4]``). None where the contract leaves it open."""
    if contract.columns:
        return feature_names(contract)[feature]
    scored = [spec for spec in contract.inputs if spec.features]
    at = 0
    for spec in scored:
        sizes = spec.shape[1:] if contract.batched else spec.shape
        if ANY in sizes and len(scored) == 1:
            return f"{spec.name}[{feature}]"
        if ANY in sizes or spec.optional:
            return None
        elements = math.prod(sizes)
        if feature < at + elements:
            place = ",".join(str(index) for index in np.unravel_index(feature - at, sizes or (1,)))
            return spec.name if elements == 1 else f"{spec.name}[{place}]"
        at += elements
    return None


def check_range(spec: TensorSpec, tensor: Tensor) -> None:
    """Refuses values outside the contract's range.

    Raises:
        Refusal: VALUE.
    """
    # As Python numbers: a 64-bit integer is not rounded to a double before it is compared.
    if tensor.size == 1:
        low = high = tensor.item()
    else:
        low, high = tensor.min().item(), tensor.max().item()
    if (spec.minimum is not None and low < spec.minimum) or (
        spec.maximum is not None and high > spec.maximum
    ):
        raise Refusal(VALUE, f"{spec.name} must lie in [{spec.minimum}, {spec.maximum}]")


def most_rows(contract: Contract, request: InferRequest, most: int) -> int:
    """The most rows of one request like this one: 1 where the contract fixes the batch.

    Args:
        most: rows of any request.
    """
    fixed = not contract.batched or any(spec.shape[0] == 1 for spec in contract.inputs)
    if fixed or any(len(tensor) != request.n for tensor in request.tensors.values()):
        return 1
    return most


def other_rows(
    contract: Contract,
    request: InferRequest,
    rows: Rows,
    origins: npt.NDArray[np.int64],
    most: int,
) -> InferRequest:
    """The same question about other rows. See ``Codec.with_rows``.

    Only numbers are others: the categories, words and missing elements of a data frame are those
    of the row's origin.

    Args:
        most: rows of any request.

    Raises:
        ValueError: if they do not fit the request, or are more than its ``batch``.
    """
    m = len(rows)
    if rows.shape[1] != request.rows.shape[1] or m > most_rows(contract, request, most):
        raise ValueError(f"rows of shape {rows.shape} do not fit the request")
    ranges = {spec.name: spec for spec in contract.inputs}
    if contract.columns:
        return _other_columns(contract, request, rows, origins)
    tensors: dict[str, Tensor] = {}
    at = 0
    for name, tensor in request.tensors.items():
        batched = len(tensor) == request.n
        shape = (m, *tensor.shape[1:]) if batched else tensor.shape
        kind = datatype_of(tensor.dtype)
        if not kind.numeric:
            tensors[name] = tensor[origins] if batched else tensor
            continue
        width = tensor.size // request.n
        spec = ranges.get(name)
        tensors[name] = from_rows(
            rows[:, at : at + width],
            kind,
            minimum=spec.minimum if spec else None,
            maximum=spec.maximum if spec else None,
        ).reshape(shape)
        at += width
    options = {key: value for key, value in request.options.items() if key != "id"}
    return InferRequest(tensors, rows, m, options)


def _other_columns(
    contract: Contract, request: InferRequest, rows: Rows, origins: npt.NDArray[np.int64]
) -> InferRequest:
    tensors: dict[str, Tensor] = {}
    at = 0
    for spec in contract.inputs:
        tensor = request.tensors.get(spec.name)
        if tensor is not None and (spec.categories or not spec.features):
            tensors[spec.name] = tensor[origins]
        elif tensor is not None:
            # A column of numbers takes any, whether or not those of the request were whole.
            kind = DATATYPES[spec.datatype]
            tensors[spec.name] = from_rows(
                rows[:, at], kind, minimum=spec.minimum, maximum=spec.maximum
            )
        at += spec.features
    options = {key: value for key, value in request.options.items() if key != "id"}
    if MISSING in options:
        options[MISSING] = {name: mask[origins] for name, mask in options[MISSING].items()}
    return InferRequest(tensors, rows, len(rows), options)
