"""Arrays that cannot change: what every compiled detector is made of."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Singles: TypeAlias = npt.NDArray[np.float32]
Indices: TypeAlias = npt.NDArray[np.int32]


def frozen(
    array: npt.NDArray[Any], dtype: Any, shape: tuple[int | None, ...], *, finite: bool = True
) -> npt.NDArray[Any]:
    """A C-contiguous array that no one can write to, of exactly this dtype and shape.

    The copy rests on ``bytes``, so that even ``setflags(write=True)`` is refused. ``None`` in
    ``shape`` stands for any length.

    Raises:
        ValueError: if dtype or shape differ, or a value is not finite where it must be.
    """
    if array.dtype != np.dtype(dtype):
        raise ValueError(f"expected an array of {np.dtype(dtype)}, got {array.dtype}")
    if array.ndim != len(shape) or any(
        want is not None and have != want for have, want in zip(array.shape, shape, strict=True)
    ):
        wanted = " by ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"expected an array of shape {wanted}, got {array.shape}")
    if finite and not bool(np.isfinite(array).all()):
        raise ValueError("an array holds a value that is not finite")
    if array.flags.c_contiguous and _rests_on_bytes(array):
        return array
    return np.frombuffer(array.tobytes(), dtype=dtype).reshape(array.shape)


def _rests_on_bytes(array: npt.NDArray[Any]) -> bool:
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, bytes)


def check_rows(rows: npt.NDArray[np.float32], features: int) -> None:
    """Raises ValueError unless ``rows`` is (n, features) float32."""
    if rows.ndim != 2 or rows.shape[1] != features:
        raise ValueError(f"expected rows of {features} features, got shape {rows.shape}")
    if rows.dtype != np.float32:
        raise ValueError(f"expected rows of float32, got {rows.dtype}")


def whole(value: float, name: str, low: int, high: int) -> int:
    """``value`` as an int.

    Raises:
        ValueError: if it is not a whole number in [low, high].
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
    return value


def real(value: float, name: str, *, low: float = 0.0, high: float = np.inf) -> float:
    """``value`` as a finite float.

    Raises:
        ValueError: if it is not a finite number in [low, high].
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, got {value!r}")  # noqa: TRY004 - one error type
    number = float(value)
    if not np.isfinite(number) or not low <= number <= high:
        raise ValueError(f"{name} must be finite and from {low} to {high}, got {value!r}")
    return number
