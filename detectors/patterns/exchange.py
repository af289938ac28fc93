"""What replicas tell each other about a client, and how it merges. Values only.

A replica decides on its own copy. Now and then it hands over what it has learnt since (a
:class:`Delta` for each key) and takes back what all have learnt (a :class:`Merged`). Everything
merges without a lost update:

- evidence is a CUSUM, and a stretch of a CUSUM is a pair that composes (:class:`Stretch`);
- sums add;
- marks are bytes of which the larger stays (visited cells, HyperLogLog registers);
- entries of a ring cannot be added up: they are exchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Stretch(NamedTuple):
    """A stretch x_1 … x_k of a CUSUM S = max(0, S + x): what it does to any S before it.

    S after the stretch is ``max(S + total, peak)``. Stretches compose associatively, so that any
    grouping of the same order gives the same S: (T1, P1) then (T2, P2) is
    (T1 + T2, max(P1 + T2, P2)).

    Attributes:
        total: the sum of the increments, in nats.
        peak: S after the stretch had it begun at 0, in nats; at least 0.
    """

    total: float = 0.0
    peak: float = 0.0

    def after(self, level: float) -> float:
        """S after the stretch, from ``level`` before it."""
        return max(level + self.total, self.peak)

    def then(self, later: Stretch) -> Stretch:
        """This stretch and a later one as one."""
        return Stretch(self.total + later.total, max(self.peak + later.total, later.peak))


@dataclass(frozen=True, slots=True)
class Layout:
    """How the records of one tracker are laid out, and how they age. Without a tracker: no rings.

    Attributes:
        entry_bytes: of one entry of a ring.
        ring: entries that the ring of a client, subnet or lineage holds; the newest stay.
        shared_ring: entries that the ring over all clients (``shared``) holds.
        recovery: nats that every level loses in an hour.
        retention: seconds for which an untouched key is remembered.
        ceiling: nats that no level exceeds once it is merged, so that everybody can recover.
    """

    entry_bytes: int = 0
    ring: int = 0
    shared_ring: int = 0
    recovery: float = 1.0
    retention: float = 86_400.0
    ceiling: float = 64.0

    def ring_of(self, key: str) -> int:
        """How many entries the ring of this key holds."""
        return self.shared_ring if key == "shared" else self.ring


@dataclass(frozen=True, slots=True)
class Delta:
    """What one replica learnt about one key since it last told.

    Attributes:
        key: ``client:…``, ``subnet:…``, ``lineage:…``, ``endpoint`` or ``shared`` (the ring over
            all clients).
        stretches: one a family of evidence, in the tracker's order; () where the key has none.
        sums: float64, little-endian, to be added element by element; b"" for none. Its length is
            fixed for a key.
        marks: bytes of which the larger stays, element by element; b"" for none. Fixed length.
        entries: ring entries added here since, oldest first, whole multiples of the tracker's
            ``entry_bytes``.
        cursor: how many entries of the shared ring this replica has seen: :class:`Merged` gives it.
        epoch: of the state that this was learnt on top of: a forgiven key has a later one, and
            what was learnt before counts no more.
        levels: what the stretches lie on: S of each family as of the last :class:`Merged`; () if
            there was none. Only a state that has lost the key (a flush, a failover) begins there,
            so that a lost state clears nobody.
    """

    key: str
    stretches: tuple[Stretch, ...] = ()
    sums: bytes = b""
    marks: bytes = b""
    entries: bytes = b""
    cursor: int = 0
    epoch: int = 0
    levels: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Merged:
    """What all replicas know of one key, this replica's delta included.

    Attributes:
        key: that of the delta.
        levels: S of each family of evidence, in nats.
        sums, marks: as in :class:`Delta`, over all replicas; b"" if nobody sent any.
        entries: what was added to the ring since the delta's cursor, save what the tracker handed
            over since, oldest first, and no more than the ring holds. A cursor of 0 brings back the
            whole ring, what this replica once added included.
        cursor: how many entries were ever added: the next delta's.
        epoch: the state's; later than the delta's if the key was forgiven meanwhile.
    """

    key: str
    levels: tuple[float, ...] = ()
    sums: bytes = b""
    marks: bytes = b""
    entries: bytes = b""
    cursor: int = 0
    epoch: int = 0
