"""The fast way for data frames of numbers alone: one matrix, of which the columns are views."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import numpy as np

from proxy.protocols.base import Rows
from proxy.protocols.contract import Contract
from proxy.protocols.tensors import FP64, Tensor, from_values
from proxy.rules import Refusal

_EXACT: Final = 2.0**53  # integers below this are doubles
_NUMBERS: Final = {int, float}


class NumberFrames:
    """Reads the frames of one contract, or leaves them to ``frames.read_frame``.

    What is read here is what would be read there. Whatever is wrong, or merely unusual, is left:
    words, missing elements and columns, integers that no double holds, and so on.

    Args:
        contract: any.
        max_rows: rows of one request.
    """

    def __init__(self, contract: Contract, max_rows: int) -> None:
        specs = contract.inputs
        self._able = contract.columns and all(
            spec.datatype in ("FP64", "INT64") and not spec.categories for spec in specs
        )
        self._max_rows = max_rows
        self._names = [spec.name for spec in specs]
        self._places = {name: place for place, name in enumerate(self._names)}
        self._whole = {place for place, spec in enumerate(specs) if spec.datatype == "INT64"}
        self._low: Tensor | None = None
        self._high: Tensor | None = None
        if any(spec.minimum is not None for spec in specs):
            low = [-np.inf if spec.minimum is None else spec.minimum for spec in specs]
            self._low = np.array(low, np.float64)
        if any(spec.maximum is not None for spec in specs):
            high = [np.inf if spec.maximum is None else spec.maximum for spec in specs]
            self._high = np.array(high, np.float64)

    def read(self, names: Sequence[Any], rows: Any) -> tuple[dict[str, Tensor], Rows] | None:
        """The columns in the contract's order, and the (n, d) float32 that are scored; None if the
        frame is to be read otherwise.

        Args:
            names: as they stand beside the rows.
            rows: JSON values, of any kind.
        """
        if not self._able or type(rows) is not list or not 0 < len(rows) <= self._max_rows:
            return None
        if set(map(type, rows)) != {list} or set(map(len, rows)) != {len(self._names)}:
            return None
        order = self._order(names)
        if order is None:
            return None
        n, width = len(rows), len(order)
        flat: list[Any] = rows[0] if n == 1 else list(chain.from_iterable(rows))
        kinds = set(map(type, flat))
        if not kinds <= _NUMBERS:
            return None
        try:
            matrix = from_values("", FP64, flat, (n, width), booleans=False)
        except Refusal:  # an integer beyond any double
            return None
        whole = self._whole_columns(rows, kinds)
        if names != self._names:
            whole = [self._places[names[place]] for place in whole]
            matrix = matrix[:, order]
        if not self._whole.issubset(whole) or (whole and not np.abs(matrix).max() < _EXACT):
            return None
        if (self._low is not None and (matrix < self._low).any()) or (
            self._high is not None and (matrix > self._high).any()
        ):
            return None
        with np.errstate(over="ignore"):
            scored: Rows = matrix.astype(np.float32, order="C")
        if not np.isfinite(scored).all():
            return None
        matrix.flags.writeable = scored.flags.writeable = False
        columns: list[Tensor] = list(matrix.T)
        if whole:
            integers = matrix.T[whole].astype(np.int64)
            integers.flags.writeable = False
            for place, column in zip(whole, integers, strict=True):
                columns[place] = column
        return dict(zip(self._names, columns, strict=True)), scored

    def _order(self, names: Sequence[Any]) -> list[int] | None:
        """Where each column of the contract is among these; None if they are not the same."""
        if names == self._names:
            return list(range(len(self._names)))
        try:
            places = {name: place for place, name in enumerate(names)}
        except TypeError:  # an object or a list
            return None
        if places.keys() != self._places.keys() or len(places) != len(names):
            return None
        return [places[name] for name in self._names]

    def _whole_columns(self, rows: list[list[Any]], kinds: set[type]) -> list[int]:
        """The columns of which no number is written as a float."""
        if kinds == {float}:
            return []
        if kinds == {int}:
            return list(range(len(self._names)))
        if len(rows) == 1:
            return [place for place, value in enumerate(rows[0]) if type(value) is int]
        columns = zip(*rows, strict=True)
        return [
            place for place, column in enumerate(columns) if float not in set(map(type, column))
        ]
