"""A bundle's arrays while it is read: each is taken by what it belongs to, and none may be left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy.typing as npt


class Shelf(Mapping[str, npt.NDArray[Any]]):
    """Arrays by name. Reading one takes it."""

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self._arrays = dict(arrays)
        self._left = set(self._arrays)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        array = self._arrays[name]
        self._left.discard(name)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def under(self, prefix: str) -> dict[str, npt.NDArray[Any]]:
        """Takes all whose name begins so, by the rest of their names."""
        return {name.removeprefix(prefix): self[name] for name in self if name.startswith(prefix)}

    def check_empty(self) -> None:
        """Raises ValueError if an array belongs to nothing."""
        if self._left:
            raise ValueError(f"array {min(self._left)!r} belongs to nothing in the manifest")
