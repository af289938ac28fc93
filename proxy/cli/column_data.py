"""Tables with columns of words and categories, encoded as the gateway encodes them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import ValidationError

from detectors.training.readers import DataError, Table, read_parquet
from proxy.protocols.base import Rows
from proxy.protocols.columns import columns_contract, feature_names
from proxy.protocols.contract import Contract, ContractError
from proxy.protocols.delimited import read_delimited
from proxy.protocols.frames import check_names, read_frame
from proxy.rules import VALUE, Refusal
from proxy.settings.columns import DeclaredColumns
from proxy.settings.document import read
from proxy.settings.problems import SettingsError, Source
from proxy.settings.text import read_text

MAX_BYTES: Final = 2**20
_ANY: Final = 2**62  # of one's own file: as many rows and cells as it has


def read_columns(path: Path) -> Contract:
    """The columns that a YAML file declares, with ``columns`` as in an endpoint's contract.

    Raises:
        DataError: for all that is wrong with it.
    """
    try:
        document = read(Source(str(path), read_text(path, MAX_BYTES)), {})
    except SettingsError as error:
        raise DataError(error.summary) from error
    if document.problems:
        raise DataError(SettingsError(document.problems).summary)
    try:
        declared = DeclaredColumns.model_validate_json(orjson.dumps(document.value), strict=True)
        return columns_contract([column.model_dump() for column in declared.columns])
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)
        ]
        raise DataError(f"{path}: {'; '.join(faults)}") from error
    except ContractError as error:
        raise DataError(f"{path}: {error}") from error


def read_encoded(path: Path, contract: Contract) -> Table:
    """The rows of a csv or parquet file as the gateway scores them, with the features' names.

    An empty cell of csv, and a null of parquet, is missing.

    Raises:
        DataError: if the file is not readable, or a column is not what it is declared to be.
    """
    readers = {".csv": _csv, ".parquet": _parquet}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise DataError(f"{path}: columns with names are those of a .csv or .parquet file")
    try:
        columns, n = readers[suffix](path)
        if not n:
            raise DataError(f"{path}: there are no rows")
        rows = _rows(contract, columns, n, cells=suffix == ".csv")
    except Refusal as refusal:
        raise DataError(f"{path}: {refusal.rule.message}: {refusal.detail}") from refusal
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    if not rows.shape[1]:
        raise DataError(f"{path}: none of the columns is scored")
    return Table(rows, feature_names(contract), rows.shape[1:])


def _rows(contract: Contract, columns: Mapping[str, Sequence[Any]], n: int, cells: bool) -> Rows:
    """The scored rows of ``n`` elements in each column; a Refusal names the first faulty row."""

    def refusal(rows: int) -> Refusal | None:
        try:
            read_frame(contract, {k: v[:rows] for k, v in columns.items()}, rows, cells=cells)
        except Refusal as found:
            return found
        return None

    try:
        return read_frame(contract, columns, n, cells=cells).rows
    except Refusal as found:
        if found.rule is not VALUE:  # of the columns, not of one element
            raise
        first = bisect_left(range(1, n), True, key=lambda rows: refusal(rows) is not None)
        found = refusal(first + 1) or found
        raise Refusal(found.rule, f"{found.detail} (row {first})") from found


def _csv(path: Path) -> tuple[Mapping[str, Sequence[Any]], int]:
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    names, *lines = read_delimited(text, max_rows=_ANY, max_cells=_ANY)
    check_names("the file", names)
    return dict(zip(names, zip(*lines, strict=True), strict=bool(lines))), len(lines)


def _parquet(path: Path) -> tuple[Mapping[str, Sequence[Any]], int]:
    columns = read_parquet(path)
    return columns, len(next(iter(columns.values())))
