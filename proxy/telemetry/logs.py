"""The process's own log, on standard error: for people on a terminal, JSON otherwise.

An event is a fixed word or two, its specifics are fields. What a client sent may be in a field:
control characters are escaped, fields that could hold a secret or a payload are blanked, and no
event can fill a disk, as each is written at most so often.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

__all__ = ["RateLimit", "configure"]

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_SECRET: Final = frozenset(
    {
        *("api_key", "authorization", "body", "cookie", "key", "password", "payload", "rows"),
        *("secret", "tensors", "token", "values"),
    }
)
_CHARACTERS: Final = 2000  # of a field
_ENTRIES: Final = 100  # of a list
_DEPTH: Final = 4
_KNOWN: Final = 1024  # events that are limited one by one; all others share one limit


class RateLimit:
    """Lets each event pass so often in a window; the next window's first one tells how many more
    there were (``suppressed``), and so do the ``summaries``.

    Args:
        events: how many of one event pass in a window.
        window: seconds.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        events: int = 10,
        window: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._events = events
        self._window = window
        self._clock = clock
        self._seen: dict[str, tuple[float, int]] = {}  # event: start of its window, count in it

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """A structlog processor.

        Raises:
            structlog.DropEvent: if the event passed often enough.
        """
        name = f"{method} {event.get('event')}"
        if name not in self._seen and len(self._seen) >= _KNOWN:
            name = ""
        now = self._clock()
        start, count = self._seen.get(name, (now, 0))
        if now - start >= self._window:
            if count > self._events:
                event["suppressed"] = count - self._events
            start, count = now, 0
        self._seen[name] = (start, count + 1)
        if count >= self._events:
            raise structlog.DropEvent
        return event

    def summaries(self) -> dict[str, int]:
        """Events of windows that are over, and how many of each were suppressed; told once."""
        now = self._clock()
        over = [name for name, (start, _) in self._seen.items() if now - start >= self._window]
        counts = {name: self._seen.pop(name)[1] - self._events for name in over}
        return {name: count for name, count in counts.items() if count > 0}


def configure(
    *,
    level: Literal["debug", "info", "warning", "error"] = "info",
    form: Literal["auto", "json", "console"] = "auto",
    stream: TextIO | None = None,
    limit: RateLimit | None = None,
    wall: Callable[[], float] = time.time,
    fields: Mapping[str, Any] | None = None,
) -> RateLimit:
    """Sets up structlog, and the standard library's logging to go the same way.

    Args:
        stream: where to, standard error by default.
        limit: of repeated events.
        wall: seconds since the epoch.
        fields: what every line carries, as a worker's number.

    Returns:
        the limit, whose ``summaries`` the server asks for now and then.
    """
    out = _Unfailing(stream or sys.stderr)
    limit = limit or RateLimit()
    carried = dict(fields or {})
    console = form == "console" or (form == "auto" and out.isatty())

    def stamp(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        at = datetime.fromtimestamp(wall(), UTC)
        moment = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"time": moment, **carried, **event}

    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        limit,
        stamp,
        structlog.processors.format_exc_info,
        _clean,
    ]
    render = _console(out) if console else _json
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(out),  # type: ignore[arg-type]  # writes and flushes only
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_log_level, stamp],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _clean,
                render,
            ],
        )
    )
    handler.addFilter(_StandardLimit(limit))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    return limit


class _Unfailing:
    """A stream whose faults are nobody else's: a line that cannot be written is lost, and whoever
    told of it goes on. (On a full disk, the audit log's writer is one of them.)
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # ValueError: closed
            return self._out.write(text)
        return 0

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._out.flush()

    def isatty(self) -> bool:
        return self._out.isatty()


class _StandardLimit(logging.Filter):
    """The same limit for the standard library's records, by their unformatted message."""

    def __init__(self, limit: RateLimit) -> None:
        super().__init__()
        self._limit = limit

    def filter(self, record: logging.LogRecord) -> bool:
        event: EventDict = {"event": f"{record.name}: {record.msg}"}
        try:
            suppressed = self._limit(None, record.levelname.lower(), event).get("suppressed")
        except structlog.DropEvent:
            return False
        if suppressed:
            record.msg = f"{record.msg} (suppressed {suppressed})"
        return True


def _clean(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    clean = {name: _field(name, value, 0) for name, value in event.items()}
    if "exception" in event:
        clean["exception"] = _lines(str(event["exception"]))
    return clean


def _field(name: str, value: Any, depth: int) -> Any:
    if name.lower() in _SECRET:
        return "[redacted]"
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth < _DEPTH and isinstance(value, Mapping):
        fields = ((_text(str(inner)), entry) for inner, entry in value.items())
        return {inner: _field(inner, entry, depth + 1) for inner, entry in fields}
    if depth < _DEPTH and isinstance(value, list | tuple):
        return [_field("", entry, depth + 1) for entry in value[:_ENTRIES]]
    return _text(value if isinstance(value, str) else repr(value))


def _text(value: str) -> str:
    """The value with whatever a terminal could obey, or a reader could mistake, escaped."""
    if len(value) > _CHARACTERS:
        value = f"{value[:_CHARACTERS]}... ({len(value)} characters)"
    if value.isprintable():
        return value
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)


def _lines(value: str) -> str:
    """A traceback keeps its lines, indented, so that none can pass for a log line of its own."""
    return "\n".join(f"  {_text(line)}" for line in value.splitlines())


def _console(out: _Unfailing) -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=out.isatty(),
        timestamp_key="time",
        exception_formatter=structlog.dev.plain_traceback,
    )


def _json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return json.dumps(event, ensure_ascii=True, default=repr)
