"""Honest rows from files, a sample of live traffic or a generator, and who has which of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detectors.sample import Sample, class_order
from detectors.training.readers import DataError, read_labels, read_table
from loadtest.scenario.data_settings import Data, Generated
from loadtest.targets.base import Rows

_MOST_TEST_ROWS: Final = 1000
_LEAST_ROWS: Final = 10
CAPTURE: Final = ".capture"


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Who has which rows; no row is in two hands.

    Attributes:
        honest: (n, d) what honest clients send.
        own: (m, d) what attackers have; ``labels``: (m,) what they truly are, or None.
        test: (t, d) by which a stolen model is judged.
        low, high: (d,) the box that rows stay in.
        image: (height, width) where a row is a picture.
        members: (k, d) what the model was trained on, or None.
    """

    honest: Rows
    own: Rows
    test: Rows
    low: Rows
    high: Rows
    labels: npt.NDArray[np.int64] | None = None
    image: tuple[int, int] | None = None
    members: Rows | None = None

    @property
    def features(self) -> int:
        """The width of a row."""
        return int(self.honest.shape[1])


def read(data: Data, features: int | None, seed: int) -> Material:
    """The rows of a scenario, shared out at random.

    Args:
        features: of the model's input: needed where rows are generated.

    Raises:
        DataError: if a file cannot be read, or does not go with the others.
    """
    if data.generate is not None:
        if features is None:
            raise DataError("the endpoint does not say how wide its rows are: none are generated")
        rows = _generated(data.generate, features, seed)
        return shared(rows, seed, attackers=data.attackers)
    assert data.rows is not None
    rows = read_rows(data.rows)
    labels = None if data.labels is None else _labels(data.labels, len(rows))
    others = {
        name: None if path is None else read_rows(path)
        for name, path in (("test", data.test), ("members", data.members))
    }
    for name, other in others.items():
        if other is not None and other.shape[1] != rows.shape[1]:
            raise DataError(
                f"{getattr(data, name)}: rows of {other.shape[1]} features, those of {data.rows} "
                f"have {rows.shape[1]}"
            )
    if data.image is not None and data.image[0] * data.image[1] != rows.shape[1]:
        height, width = data.image
        raise DataError(f"an image of {height} by {width} has not {rows.shape[1]} features")
    return shared(
        rows,
        seed,
        attackers=data.attackers,
        labels=labels,
        image=data.image,
        low=data.low,
        high=data.high,
        **others,
    )


def shared(
    rows: Rows,
    seed: int,
    *,
    attackers: float,
    labels: npt.NDArray[np.int64] | None = None,
    test: Rows | None = None,
    members: Rows | None = None,
    image: tuple[int, int] | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Material:
    """Shares (n, d) rows out: to attackers, to honest clients, and by which theft is judged.

    Args:
        attackers: the share that is theirs.
        low, high: the box; None: what is seen.

    Raises:
        DataError: if there are too few.
    """
    # Equal rows are one: otherwise an attacker's row could be an honest client's as well.
    _, first = np.unique(rows, axis=0, return_index=True)
    if len(first) < _LEAST_ROWS:
        raise DataError(f"{len(first)} different rows are too few: at least {_LEAST_ROWS}")
    order = np.random.default_rng((seed, 1)).permutation(first)
    kept = 0 if test is not None else min(_MOST_TEST_ROWS, len(order) // 5)
    owned = min(max(1, round(attackers * len(order))), len(order) - kept - 1)
    own, rest = order[:owned], order[owned:]
    return Material(
        honest=rows[rest[kept:]],
        own=rows[own],
        test=rows[rest[:kept]] if test is None else test,
        low=_bound(low, rows.min(axis=0)),
        high=_bound(high, rows.max(axis=0)),
        labels=None if labels is None else labels[own],
        image=image,
        members=members,
    )


def read_rows(path: Path) -> Rows:
    """(n, d) finite rows of a table or a sample of live traffic.

    Raises:
        DataError: if it cannot be read.
    """
    if path.suffix.lower() != CAPTURE:
        return read_table(path).rows
    try:
        sample = Sample.decode(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    # What was drawn for being rare would be far too common in honest traffic.
    rows = np.ascontiguousarray(sample.rows[sample.uniform], np.float32)
    if not len(rows):
        raise DataError(f"{path}: there are no rows")
    return rows


def _bound(stated: float | None, seen: Rows) -> Rows:
    """(d,): what is stated, or what was seen."""
    return seen if stated is None else np.full_like(seen, stated)


def _labels(path: Path, count: int) -> npt.NDArray[np.int64]:
    """(count,) indices of classes: whole numbers as they are, words in the order of classes."""
    words = read_labels(path, count)
    names: list[Any] = sorted(set(words.tolist()), key=class_order)
    if all(name.isdecimal() for name in names):
        return words.astype(np.int64)
    place = {name: index for index, name in enumerate(names)}
    return np.array([place[word] for word in words.tolist()], np.int64)


def _generated(settings: Generated, features: int, seed: int) -> Rows:
    rng = np.random.default_rng((seed, 0))
    shape = (settings.rows, features)
    if settings.distribution == "uniform":
        return rng.uniform(settings.low, settings.high, shape).astype(np.float32)
    middle, width = (settings.low + settings.high) / 2, settings.high - settings.low
    return rng.normal(middle, width / 6, shape).clip(settings.low, settings.high).astype(np.float32)
