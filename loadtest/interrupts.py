"""Signals that end a program in order: every ``finally`` runs, whoever is in charge of the thread.

An event loop may swallow what a signal handler raises within one of its callbacks. Around such a
stretch the signal is held, and acted upon at its end.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_received = 0
_holding = False


@contextlib.contextmanager
def ended_in_order() -> Iterator[None]:
    """Within it, SIGINT, SIGTERM and SIGHUP raise SystemExit(128 + number)."""
    global _received  # noqa: PLW0603 - signals are the process's, and so is what they set
    _received = 0
    before = {number: signal.signal(number, _on_signal) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Within it, such a signal waits; at its end, it raises."""
    global _holding  # noqa: PLW0603 - as above
    _holding = True
    try:
        yield
    finally:
        _holding = False
    if _received:
        raise SystemExit(128 + _received)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _received  # noqa: PLW0603 - as above
    del frame
    _received = number
    if not _holding:
        raise SystemExit(128 + number)
