"""What an answer of OpenAI's API cost in tokens, read off while it streams by.

The server's own count is in ``usage.total_tokens``: of the whole answer, or of an event of its
stream, mostly the last. Where there is none, or an absurd one, or a stream is broken off before it,
what came is estimated: a token for each event with text, and for every 4 characters of it. Memory
is bounded whatever comes.
"""

from __future__ import annotations

import re
from typing import Any, Final, Protocol

import orjson

CHARACTERS: Final = 4
"""Characters of a token, where tokens have to be estimated."""

_TOTAL: Final = re.compile(
    rb'"total_tokens"[ \t\r\n]{0,16}:[ \t\r\n]{0,16}([1-9][0-9]{0,9})[^0-9.eE]'
)
_MOST: Final = 10**9  # tokens: what claims more is not believed, for it is charged
_CARRIED: Final = 64  # bytes: no match of the above is longer than one more than this
_LONGEST: Final = 64 * 1024  # bytes of a line that is understood


class _Reader(Protocol):
    def add(self, piece: bytes) -> None: ...

    def tokens(self, prompt: int) -> int: ...


class TokenMeter:
    """Implements ``base.Meter`` for one request.

    Args:
        before: tokens that were taken before it was sent: it costs no less.
        prompt: an estimate of the prompt's tokens.
        worded: whether the answer is text, whose tokens count too.
    """

    __slots__ = ("_before", "_prompt", "_reader", "_worded")

    def __init__(self, before: int, prompt: int, *, worded: bool) -> None:
        self._before = before
        self._prompt = prompt
        self._worded = worded
        self._reader: _Reader | None = None

    def add(self, piece: bytes) -> None:
        """Some more of the answer's body."""
        if self._reader is None:
            start = piece.lstrip()
            if not start:
                return
            # A stream was asked for, or not: what comes is up to the server.
            self._reader = _Body(self._worded) if start[:1] == b"{" else _Events()
        self._reader.add(piece)

    def units(self) -> int:
        """Tokens, those that were taken before among them."""
        tokens = self._prompt if self._reader is None else self._reader.tokens(self._prompt)
        return max(self._before, tokens)


class _Body:
    """One JSON object."""

    __slots__ = ("_size", "_tail", "_total", "_worded")

    def __init__(self, worded: bool) -> None:
        self._worded = worded
        self._tail = b""
        self._size = 0
        self._total = 0

    def add(self, piece: bytes) -> None:
        self._size += len(piece)
        text = self._tail + piece
        # In valid JSON these bytes are a key, wherever they stand: a quote in a string is escaped.
        for match in _TOTAL.finditer(text):
            if (total := int(match[1])) <= _MOST:
                self._total = max(self._total, total)
        self._tail = text[-_CARRIED:]

    def tokens(self, prompt: int) -> int:
        if self._total:
            return self._total
        return prompt + (-(-self._size // CHARACTERS) if self._worded else 0)


class _Events:
    """Server-sent events, a JSON object each."""

    __slots__ = ("_events", "_line", "_odd", "_size", "_skips", "_text", "_total")

    def __init__(self) -> None:
        self._line = bytearray()  # the begun one
        self._size = 0
        self._events = 0
        self._skips = False
        self._total = 0
        # Since the server's last count: tokens of text, and bytes of what was not understood.
        self._text = self._odd = 0

    def add(self, piece: bytes) -> None:
        self._size += len(piece)
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            self._more(piece[start:end])
            self._end()
            start = end + 1
        self._more(piece[start:])

    def tokens(self, prompt: int) -> int:
        self._end()
        odd = self._odd if self._events else self._size  # it may be in a content coding
        return (self._total or prompt) + self._text + -(-odd // CHARACTERS)

    def _more(self, part: bytes) -> None:
        if self._skips:
            self._odd += len(part)
            return
        self._line += part
        if len(self._line) > _LONGEST:
            self._skips = True
            self._odd += len(self._line)
            self._line.clear()

    def _end(self) -> None:
        line = bytes(self._line)
        self._line.clear()
        self._skips = False
        if line.startswith(b"data:"):
            self._events += 1
            self._read(line[5:].strip())

    def _read(self, data: bytes) -> None:
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            if data != b"[DONE]":
                self._odd += len(data)
            return
        if type(event) is not dict:
            return
        choices = event.get("choices")
        if type(choices) is list:
            self._text += sum(map(_tokens, choices))
        usage = event.get("usage")
        total = usage.get("total_tokens") if type(usage) is dict else None
        if type(total) is int and 0 < total <= _MOST:
            # It counts all that came before it.
            self._total, self._text, self._odd = max(self._total, total), 0, 0


def _tokens(choice: Any) -> int:
    """An estimate of what one event adds to one choice."""
    if type(choice) is not dict:
        return 0
    delta = choice.get("delta")
    said = [delta[key] for key in delta if key != "role"] if type(delta) is dict else []
    return -(-letters([*said, choice.get("text")]) // CHARACTERS)


def letters(value: Any) -> int:
    """The characters of all strings in a JSON value, but for keys."""
    count = 0
    waiting = [value]
    while waiting:
        one = waiting.pop()
        kind = type(one)
        if kind is str:
            count += len(one)
        elif kind is dict:
            waiting.extend(one.values())
        elif kind is list:
            waiting.extend(one)
    return count
