"""Between a request's tensors and the rows that are scored: the same for every codec."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from proxy.protocols.base import InferRequest, Rows
from proxy.protocols.contract import Contract, TensorSpec
from proxy.protocols.tensors import Tensor, datatype_of, from_rows, to_rows
from proxy.rules import VALUE, Refusal


def scored_rows(tensors: Mapping[str, Tensor], n: int) -> Rows:
    """Tensors of n rows each as (n, d) float32: flattened per row and joined in their order.

    Raises:
        Refusal: VALUE for an FP64 element that only a double can hold.
    """
    parts = [
        to_rows(name, datatype_of(tensor.dtype), tensor, n) for name, tensor in tensors.items()
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def check_range(spec: TensorSpec, tensor: Tensor) -> None:
    """Refuses values outside the contract's range.

    Raises:
        Refusal: VALUE.
    """
    # As Python numbers: a 64-bit integer is not rounded to a double before it is compared.
    if (spec.minimum is not None and tensor.min().item() < spec.minimum) or (
        spec.maximum is not None and tensor.max().item() > spec.maximum
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

    Args:
        most: rows of any request.

    Raises:
        ValueError: if they do not fit the request, or are more than its ``batch``.
    """
    m = len(rows)
    if rows.shape[1] != request.rows.shape[1] or m > most_rows(contract, request, most):
        raise ValueError(f"rows of shape {rows.shape} do not fit the request")
    ranges = {spec.name: spec for spec in contract.inputs}
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
