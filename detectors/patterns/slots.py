"""Which key lives in which slot, and whom a newcomer may replace."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

TRIES: Final = 16
"""Keys that are looked at to make room for one: bounds the cost of a newcomer."""


class Slots:
    """Keys and their slots, at most so many. A key that holds evidence is never given up.

    Attributes:
        names: the key of each slot, "" for none.
        evictions: keys given up so far.
        refusals: newcomers that found no room so far.
    """

    def __init__(self, count: int) -> None:
        """``count`` slots, numbered from 1: slot 0 is the caller's."""
        self.names: Final = [""] * (count + 1)
        self.evictions = 0
        self.refusals = 0
        self._slots: Final[OrderedDict[str, int]] = OrderedDict()
        self._next = 1

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, key: str) -> bool:
        return key in self._slots

    def find(self, key: str) -> int:
        """The slot of a key, or 0."""
        return self._slots.get(key, 0)

    def touch(self, key: str) -> int:
        """The slot of a key that was seen now, or 0."""
        slot = self._slots.get(key, 0)
        if slot:
            self._slots.move_to_end(key)
        return slot

    def admit(
        self, key: str, may_leave: Callable[[int], bool], leave: Callable[[int], None]
    ) -> int:
        """The slot of a new key, or 0 if there is no room for it.

        Those that were not seen for longest are asked to leave first. One that may not is asked
        again only after all others: a newcomer looks at a few at most.

        Args:
            key: new.
            may_leave: whether a slot holds nothing that matters.
            leave: called with a slot that is given up, before it is.
        """
        if self._next < len(self.names):
            slot = self._next
            self._next += 1
        else:
            slot = self._vacate(may_leave, leave)
            if not slot:
                self.refusals += 1
                return 0
        self._slots[key] = slot
        self.names[slot] = key
        return slot

    def items(self) -> list[tuple[str, int]]:
        """Every key and its slot, the last seen last."""
        return list(self._slots.items())

    def _vacate(self, may_leave: Callable[[int], bool], leave: Callable[[int], None]) -> int:
        for _ in range(min(TRIES, len(self._slots))):
            key, slot = next(iter(self._slots.items()))
            if may_leave(slot):
                leave(slot)
                del self._slots[key]
                self.names[slot] = ""
                self.evictions += 1
                return slot
            self._slots.move_to_end(key)
        return 0
