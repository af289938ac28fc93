"""A bounded number of values by key, of which only the free ones are forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

Value = TypeVar("Value")

# Known keys looked at to place one newcomer: the hand moves on, so all are looked at in turn.
_GLANCES: Final = 16


class Keyed(Generic[Value]):
    """Values by key.

    A value is forgotten only if nothing is lost by it, so that no flood of newcomers clears
    anyone's record.

    Args:
        most: how many are kept; ``most`` may be changed later.

    Attributes:
        values: by key; read it, and add through ``newcomer``.
    """

    __slots__ = ("_hand", "_ring", "most", "values")

    def __init__(self, most: int) -> None:
        self.values: dict[str, Value] = {}
        self.most = most
        self._ring: list[str] = []
        self._hand = 0

    @property
    def is_full(self) -> bool:
        """Whether a newcomer takes another's place."""
        return len(self._ring) >= self.most

    def newcomer(
        self, key: str, new: Callable[[], Value], is_free: Callable[[Value], bool]
    ) -> Value | None:
        """A value for an unknown key, or None if none of those looked at is free."""
        ring = self._ring
        if len(ring) < self.most:
            ring.append(key)
        else:
            for _ in range(_GLANCES):
                self._hand = (self._hand + 1) % len(ring)
                old = ring[self._hand]
                if is_free(self.values[old]):
                    del self.values[old]
                    ring[self._hand] = key
                    break
            else:
                return None
        value = self.values[key] = new()
        return value
