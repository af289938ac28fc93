"""Exchanges and events as lines of JSON: ASCII only, no control characters, whatever they hold."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import orjson

from proxy.decision import ALLOWED, Decision
from proxy.telemetry.record import Record

_DELETE: Final = 0x7F  # the one control character that JSON leaves as it is
_TARGET: Final = 2048  # characters of a request target, and of a reason's detail, that are kept
_KNOWN: Final = 1024  # endpoints, over reloads, whose part is kept rendered
_LINE: Final = 2**20  # bytes of a record; beyond it, its notes are left out
_DIGEST: Final = 16  # hex digits of a digest in each record; "configured" records hold all 64


class Lines:
    """Renders the part of each line that does not depend on the chain.

    Args:
        offset: seconds from the monotonic clock's zero to the epoch.
    """

    __slots__ = ("_prefix", "_second", "_served", "offset")

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset
        self._second = -1
        self._prefix = ""
        self._served: dict[tuple[str, str, str], bytes] = {}

    def exchange(self, record: Record) -> bytes:
        """An exchange, from after ``{"seq":…,"prev":…,`` to its closing brace. Never raises: what
        cannot be rendered is still told by its id.
        """
        try:
            return self._exchange(record)
        except Exception as error:
            fields = {"id": str(record.id), "fault": repr(error)}
            return _render({"type": "unreadable", **fields})

    def _exchange(self, record: Record) -> bytes:
        served = record.endpoint, record.bundle, record.configuration
        decision = record.decision
        received = record.received
        target = record.target
        upstream = record.upstream_seconds
        values: dict[str, Any] = {
            "time": self.time(received + self.offset),
            "id": record.id,
            "client": record.client,
            "method": record.method,
            "target": target if len(target) <= _TARGET else target[:_TARGET],
            "status": record.status,
            "rows": record.rows,
            "request_bytes": record.request_bytes,
            "response_bytes": record.response_bytes,
            "total_us": int((record.finished - received) * 1e6),
            "overhead_us": int((record.finished - record.read - upstream) * 1e6),
            "upstream_us": int(upstream * 1e6),
        }
        if record.p_value is not None:
            values["score"] = record.score
            values["p_value"] = record.p_value
            values["worst_row"] = record.worst_row
            values["flagged_rows"] = record.flagged_rows
            values["signals"] = record.signals
        if record.answer_score is not None:
            values["answer"] = _judged(record)
        if record.shaped:
            values["shaped"] = True
        if record.fault:
            values["fault"] = record.fault
        if record.notes:
            values["notes"] = record.notes
        start = self._served.get(served) or self._serve(*served)
        return start + (_ALLOWED if decision is ALLOWED else _decided(decision)) + _render(values)

    def _serve(self, endpoint: str, bundle: str, configuration: str) -> bytes:
        """The part that changes with the configuration only; rendered once."""
        if len(self._served) >= _KNOWN:
            self._served.clear()
        rendered = _render(
            {
                "type": "exchange",
                "endpoint": endpoint,
                "bundle": bundle[:_DIGEST],
                "configuration": configuration[:_DIGEST],
            }
        )
        self._served[endpoint, bundle, configuration] = part = rendered[:-1] + b","
        return part

    def event(self, kind: str, at: float, fields: Mapping[str, Any]) -> bytes:
        """Any other record. ``at``: seconds since the epoch."""
        return _render({"type": kind, "time": self.time(at), **fields})

    def time(self, at: float) -> str:
        """Seconds since the epoch as UTC, to the microsecond."""
        second = int(at)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        return f"{self._prefix}{str(int((at - second) * 1e6)).zfill(6)}Z"


def _judged(record: Record) -> dict[str, Any]:
    """What was found of the rows with their answers."""
    judged: dict[str, Any] = {
        "score": record.answer_score,
        "p_value": record.answer_p_value,
        "worst_row": record.answer_row,
        "flagged_rows": record.answer_flagged_rows,
        "signals": record.answer_signals,
    }
    if record.answer_label:
        judged["label"] = record.answer_label
    if record.suspicious_rows:
        judged["second_opinion"] = {
            "suspicious_rows": record.suspicious_rows,
            "asked_rows": record.asked_rows,
            "copies": record.opinion_rows,
            "fault": record.opinion_fault[:_TARGET],
        }
    return judged


def _decided(decision: Decision) -> bytes:
    reasons = [
        {"rule": reason.rule.id, "atlas": reason.rule.atlas, "detail": reason.detail[:_TARGET]}
        for reason in decision.reasons
    ]
    rendered = _render(
        {
            "action": decision.action.value,
            "enforced": decision.enforced.value,
            "would_block": decision.would_block,
            "reasons": reasons,
        }
    )
    return rendered[:-1] + b","


def _render(values: dict[str, Any]) -> bytes:
    try:
        line = orjson.dumps(values, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY)
    except (TypeError, ValueError):  # a lone surrogate, a key that is no string, a cycle
        line = b""
    if line and line.isascii() and line.find(_DELETE) < 0 and len(line) <= _LINE:
        return line[1:]
    return _render_slowly(values)


def _render_slowly(values: dict[str, Any]) -> bytes:
    """As ``_render``, for what orjson does not take, or writes in bytes that a terminal obeys."""
    line = b""
    try:
        # Numpy values are plain ones after this; what it cannot take is handled below.
        values = orjson.loads(
            orjson.dumps(values, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY)
        )
    except (TypeError, ValueError):
        values = {name: _scrubbed(value, 0) for name, value in values.items()}
    line = json.dumps(values, separators=(",", ":"), ensure_ascii=True).encode()
    line = line.replace(b"\x7f", b"\\u007f")
    if len(line) <= _LINE:
        return line[1:]
    kept: dict[str, Any] = {
        name: value[:_TARGET] if isinstance(value, str) else value
        for name, value in values.items()
        if name not in {"notes", "signals", "answer"}
    }
    notes = values.get("notes")
    if isinstance(notes, dict):  # a digest stays, the values that are too many go
        kept["notes"] = {
            name: value
            for name, value in notes.items()
            if isinstance(value, str | int | float) and len(f"{name}{value}") <= _TARGET
        }
    kept["cut"] = f"the record was {len(line)} bytes long"
    return json.dumps(kept, separators=(",", ":"), ensure_ascii=True).encode()[1:]


def _scrubbed(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if depth > 16:
        return _scrubbed(repr(value)[:_TARGET], 0)
    if isinstance(value, Mapping):
        return {
            _scrubbed(str(name), 0): _scrubbed(entry, depth + 1) for name, entry in value.items()
        }
    if isinstance(value, np.ndarray):
        return _scrubbed(value.tolist(), depth + 1)
    if isinstance(value, list | tuple):
        return [_scrubbed(entry, depth + 1) for entry in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None  # no NaN, no infinity, as orjson has it
    return _scrubbed(repr(value)[:_TARGET], 0)


def _plain(value: Any) -> Any:
    """What orjson cannot render by itself: an array as lists, anything else in words."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return repr(value)[:_TARGET]


_ALLOWED: Final = _decided(ALLOWED)
