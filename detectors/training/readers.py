"""Reads training rows from npy, npz, csv and parquet, with a clear word for whatever is wrong."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detectors.arrays import Singles


class DataError(ValueError):
    """The data cannot be used. Says which file, where in it and why."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows as read.

    Attributes:
        rows: (n, d) float32, finite.
        names: of the features, where the file has any.
        row_shape: the shape of one row in the file; more than one length if it was flattened.
    """

    rows: Singles
    names: tuple[str, ...] | None
    row_shape: tuple[int, ...]


def read_table(path: Path) -> Table:
    """Reads rows; what has more than two dimensions is flattened per row, in C order.

    Raises:
        DataError: if the file is missing, empty, not a table of finite numbers or not readable.
    """
    array, names = _read(path)
    if array.ndim < 2:
        raise DataError(
            f"{path}: expected a table of rows and features, got an array of shape {array.shape}"
        )
    if array.size == 0:
        raise DataError(f"{path}: there are no rows, or no features (shape {array.shape})")
    if array.dtype.kind not in "biuf":
        raise DataError(f"{path}: expected numbers, got {_kind(array)}")
    row_shape = array.shape[1:]
    flat = array.reshape(len(array), -1)
    with np.errstate(over="ignore", invalid="ignore"):
        rows = np.ascontiguousarray(flat, dtype=np.float32)
    for what, values in (("not finite", flat), ("too large for float32", rows)):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = (int(index) for index in bad[0])
            feature = names[column] if names else column
            raise DataError(
                f"{path}: {len(bad)} values are {what}; "
                f"the first is in row {row}, feature {feature} (counted from 0)"
            )
    return Table(rows, names, row_shape)


def read_labels(path: Path, count: int) -> npt.NDArray[np.str_]:
    """(count,) class labels, each a whole number or a word in the file, as words.

    Raises:
        DataError: if it is not that, or not as many as there are rows.
    """
    array = _read(path, text=True)[0]
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{path}: expected one label a row, got an array of shape {array.shape}")
    if len(array) != count:
        raise DataError(f"{path}: {len(array)} labels for {count} rows")
    if array.dtype.kind == "f":
        if not bool((np.isfinite(array) & (array == np.round(array))).all()):
            raise DataError(f"{path}: labels are classes; these are not whole numbers")
        array = array.astype(np.int64)
    if array.dtype.kind not in "biuU":
        raise DataError(f"{path}: expected whole numbers or words as labels, got {_kind(array)}")
    labels = np.array([str(label) for label in array.tolist()], dtype=np.str_)
    if bool((labels == "").any()):
        raise DataError(f"{path}: {int((labels == '').sum())} labels are empty")
    return labels


def read_targets(path: Path, count: int) -> npt.NDArray[np.float64]:
    """(count, m) true values of a regression model, one or more a row.

    Raises:
        DataError: if they are not finite numbers, or not as many as there are rows.
    """
    array = _read(path)[0]
    if array.ndim not in (1, 2) or array.size == 0 or array.dtype.kind not in "biuf":
        raise DataError(
            f"{path}: expected numbers, one or more a row; got {_kind(array)} of {array.shape}"
        )
    if len(array) != count:
        raise DataError(f"{path}: {len(array)} values for {count} rows")
    wide = array.reshape(count, -1).astype(np.float64)
    if not bool(np.isfinite(wide).all()):
        raise DataError(f"{path}: {int((~np.isfinite(wide)).sum())} values are not finite")
    return wide


def read_mask(path: Path, count: int) -> npt.NDArray[np.bool_]:
    """(count,) true or false, or 1 or 0, for each row.

    Raises:
        DataError: if it is not that, or not as many as there are rows.
    """
    array = _read(path)[0]
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "biuf" or not bool(np.isin(array, (0, 1)).all()):
        raise DataError(f"{path}: expected true or false, or 1 or 0, for each row")
    if len(array) != count:
        raise DataError(f"{path}: {len(array)} values for {count} rows")
    return array.astype(np.bool_)


ANSWER_NAMES: Final = ("probabilities", "logits", "values", "labels", "answers")
"""What an array of answers may be called in a .npz file, the best first."""


def read_answers(path: Path, count: int) -> tuple[npt.NDArray[Any], str]:
    """What a model said of ``count`` rows, as its server would: numbers, or words; and the array's
    name, or "" if it has none.

    Raises:
        DataError: if it is not as many as there are rows, or neither numbers nor words.
    """
    name = ""
    if path.suffix.lower() == ".npz":
        array, name = _read_named(path, ANSWER_NAMES)
    else:
        array = _read(path, text=True)[0]
    if array.ndim == 0 or len(array) != count:
        raise DataError(f"{path}: answers of shape {array.shape} for {count} rows")
    if array.dtype.kind == "U" and not _are_whole(array) and all(map(_is_number, array.ravel())):
        array = array.astype(np.float64)  # a column of text that holds scores or values
    if array.dtype.kind == "U":
        words = [word.encode() for word in array.ravel().tolist()]
        array = np.array(words, dtype=object).reshape(array.shape)
    elif array.dtype.kind not in "biuf":
        raise DataError(f"{path}: expected numbers or words, got {_kind(array)}")
    elif not bool(np.isfinite(array).all()):
        raise DataError(f"{path}: {int((~np.isfinite(array)).sum())} answers are not finite")
    return array, name


def _are_whole(words: npt.NDArray[np.str_]) -> bool:
    return all(word.removeprefix("-").isdecimal() for word in words.ravel().tolist())


def _kind(array: npt.NDArray[Any]) -> str:
    words = {"O": "mixed types", "U": "text", "S": "text", "c": "complex numbers", "V": "records"}
    return words.get(array.dtype.kind, str(array.dtype))


def _read(path: Path, *, text: bool = False) -> tuple[npt.NDArray[Any], tuple[str, ...] | None]:
    readers = {
        ".npy": _read_numpy,
        ".npz": _read_numpy,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: expected .npy, .npz, .csv or .parquet")
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty")
        return reader(path, text)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def _read_numpy(path: Path, text: bool) -> tuple[npt.NDArray[Any], None]:
    return _read_named(path, ("y" if text else "X",))[0], None


def _read_named(path: Path, wanted: Sequence[str]) -> tuple[npt.NDArray[Any], str]:
    """The array of a numpy file and its name: the only one, or the first of those wanted."""
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded, ""
            names = sorted(loaded.files)
            found = [name for name in wanted if name in names] or (names if len(names) == 1 else [])
            array = loaded[found[0]] if found else None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        if "allow_pickle" in str(error) or "pickle" in str(error):
            raise DataError(
                f"{path}: holds Python objects (mixed types), which are never loaded"
            ) from error
        raise DataError(f"{path}: not a readable {path.suffix[1:]} file: {error}") from error
    if array is None:
        raise DataError(
            f"{path}: expected one array, or one named {' or '.join(wanted)}; got {names}"
        )
    return array, found[0]


def _read_csv(path: Path, text: bool) -> tuple[npt.NDArray[Any], tuple[str, ...] | None]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable csv file: {error}") from error
    if not lines:
        raise DataError(f"{path}: the file is empty")
    first = lines[0]
    header = not any(_is_number(cell) for cell in first)
    names = tuple(cell.strip() for cell in first) if header else None
    body = lines[1:] if header else lines
    if text and len(first) == 1:
        if header and _is_number(body[0][0] if body else ""):
            return np.array([line[0].strip() for line in body]), None
        return np.array([line[0].strip() for line in lines]), None
    values = np.empty((len(body), len(first)))
    for row, line in enumerate(body):
        if len(line) != len(first):
            raise DataError(f"{path}: row {row} has {len(line)} cells, the first has {len(first)}")
        try:
            values[row] = line
        except ValueError:
            column = next(i for i, cell in enumerate(line) if not _is_number(cell))
            raise DataError(
                f"{path}: row {row}, column {column} is {line[column]!r}, not a number"
            ) from None
    return values, names


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def read_parquet(path: Path) -> dict[str, list[Any]]:
    """The columns of a parquet file as plain values, None where one is missing.

    Raises:
        DataError: if it is not one, has no rows or columns, or two columns of one name.
        OSError: if it cannot be read.
    """
    table = _parquet_table(path)
    columns = {
        name: column.to_pylist()
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    if len(columns) != table.num_columns:
        raise DataError(f"{path}: two columns have the same name")
    return columns


def _parquet_table(path: Path) -> Any:
    import pyarrow  # noqa: PLC0415 - slow to import, and only this format needs it
    import pyarrow.parquet  # noqa: PLC0415

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a readable parquet file: {error}") from error
    if table.num_rows == 0 or table.num_columns == 0:
        raise DataError(f"{path}: there are no rows, or no features")
    return table


def _read_parquet(path: Path, text: bool) -> tuple[npt.NDArray[Any], tuple[str, ...] | None]:
    import pyarrow  # noqa: PLC0415 - slow to import, and only this format needs it

    table = _parquet_table(path)
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type
        numeric = pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)
        words = text and (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))
        if not (numeric or pyarrow.types.is_boolean(kind) or words):
            raise DataError(f"{path}: column {name!r} holds {kind}, not numbers")
        if column.null_count:
            raise DataError(f"{path}: column {name!r} has {column.null_count} missing values")
        columns.append(np.asarray(column.to_pylist()) if words else column.to_numpy())
    return np.column_stack(columns), tuple(table.column_names)
