"""Results as a file of JSON: written whole or not at all, and read strictly."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from loadtest.evidence.results import VERSION, Results, Share
from loadtest.load.hdr import Histogram

_ADAPTER: Final = TypeAdapter(Results)
_MOST_FAULTS: Final = 5
_DEEPEST: Final = 50
_INTEGERS: Final = 2**63


class StoreError(Exception):
    """Results cannot be written or read; says where and why."""


def dump(results: Results) -> bytes:
    """As JSON.

    Raises:
        StoreError: if a number is not finite, which JSON cannot say, or something in ``details`` is
            no plain value.
    """
    return orjson.dumps(plain(results), option=orjson.OPT_INDENT_2) + b"\n"


def plain(value: Any) -> Any:
    """As what JSON has.

    Raises:
        StoreError: as :func:`dump`.
    """
    return _plain(value, "")


def write(results: Results, path: Path) -> None:
    """Writes them atomically: whoever reads sees what was there before, or all of it.

    Raises:
        StoreError: as :func:`dump`, or if it cannot be written.
    """
    save(dump(results), path)


def save(data: bytes, path: Path) -> None:
    """Writes any report atomically.

    Raises:
        StoreError: if it cannot be written; what was there before stays.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp is stricter than a report needs: a web server may have to read it.
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise StoreError(f"{path}: {error.strerror}") from None
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read(path: Path) -> Results:
    """Reads what :func:`write` wrote.

    Raises:
        StoreError: if it cannot be read, is of another version, or is anything else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None
    try:
        return load(data)
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from None


def load(data: bytes) -> Results:
    """The inverse of :func:`dump`.

    Raises:
        StoreError: if it is not that.
    """
    try:
        raw = orjson.loads(data)  # refuses NaN, which pydantic's own reader takes
    except orjson.JSONDecodeError as error:
        raise StoreError(f"not JSON: {error}") from None
    if not isinstance(raw, dict) or "version" not in raw:
        raise StoreError("no results of a load test: they have a version")
    if raw["version"] != VERSION:
        raise StoreError(f"version {raw['version']!r} of results: this is {VERSION}")
    try:
        results = _ADAPTER.validate_json(data, strict=True)
    except ValidationError as error:
        raise StoreError(_words(error)) from None
    unknown = list(_unknown(raw, plain(results), ""))
    if unknown:
        raise StoreError(f"unknown fields: {', '.join(unknown[:_MOST_FAULTS])}")
    faults = list(_faults(results))
    if faults:
        raise StoreError("; ".join(faults[:_MOST_FAULTS]))
    return results


def _plain(value: Any, place: str, depth: int = 0) -> Any:
    """As what JSON has; sequences become lists, numpy's numbers plain ones."""
    if depth > _DEEPEST:
        raise StoreError(f"{place}: nested too deeply")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name), _join(place, field.name), depth + 1)
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {
            str(key): _plain(one, _join(place, str(key)), depth + 1) for key, one in value.items()
        }
    if isinstance(value, str):
        # Surrogates come of undecodable names; JSON in UTF-8 has none.
        return value.encode("utf-8", "replace").decode()
    if value is None or isinstance(value, (bool, int)):
        if value is not None and not -_INTEGERS <= value < _INTEGERS:
            raise StoreError(f"{place}: a whole number of more than 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise StoreError(f"{place}: {value} is not finite")
        return float(value)
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        return _plain(value.tolist(), place, depth + 1)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_plain(one, f"{place}[{i}]", depth + 1) for i, one in enumerate(value)]
    raise StoreError(f"{place}: a {type(value).__name__} is no plain value")


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _words(error: ValidationError) -> str:
    faults = error.errors(include_url=False)
    words = []
    for fault in faults[:_MOST_FAULTS]:
        place = ""
        for part in fault["loc"]:
            place = f"{place}[{part}]" if isinstance(part, int) else _join(place, str(part))
        words.append(f"{place}: {fault['msg']}")
    if len(faults) > _MOST_FAULTS:
        words.append(f"and {len(faults) - _MOST_FAULTS} more")
    return "; ".join(words)


def _unknown(raw: Any, known: Any, place: str) -> Iterator[str]:
    if isinstance(raw, dict) and isinstance(known, dict):
        for key, value in raw.items():
            if key not in known:
                yield _join(place, key)
            else:
                yield from _unknown(value, known[key], _join(place, key))
    elif isinstance(raw, list) and isinstance(known, list):
        for i, (one, other) in enumerate(zip(raw, known, strict=False)):
            yield from _unknown(one, other, f"{place}[{i}]")


def _faults(results: Results) -> Iterator[str]:
    """What is of the right types and still cannot be."""
    for i, load in enumerate(results.loads):
        place = f"loads[{i}]"
        for name in ("latency", "refusal_latency"):
            try:
                Histogram.decode(getattr(load, name))
            except ValueError as error:
                yield f"{place}.{name}: {error}"
        counts = (load.offered, load.sent, load.late, load.dropped, load.good, load.round)
        tables = (load.statuses, load.said, load.errors, load.rules)
        if min((*counts, *(n for table in tables for n in table.values()))) < 0:
            yield f"{place}: a count is negative"
        if load.late > load.sent or load.good > load.sent:
            yield f"{place}: more late or good than sent"
        if load.sent + load.dropped > load.offered:
            yield f"{place}: more sent and dropped than offered"
        if sum(load.said.values()) + sum(load.errors.values()) > load.sent:
            yield f"{place}: more replies and errors than were sent"
    for i, attack in enumerate(results.attacks):
        place = f"attacks[{i}]"
        for name, share in (("success", attack.success), ("recognised", attack.recognised)):
            if share is not None and not _possible(share):
                yield f"{place}.{name}: {share.count} of {share.total}"
        if attack.recognised and len(attack.to_recognition) > attack.recognised.total:
            yield f"{place}.to_recognition: more than there were tries"


def _possible(share: Share) -> bool:
    return 0 <= share.count <= share.total
