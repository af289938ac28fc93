"""What is wrong with a configuration, in the form that compilers use."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Set
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from proxy.settings.section import Place

_WIDTH: Final = 120
_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One fault, at one place.

    Attributes:
        file: the file's path as it was given.
        line, column: counted from 1; 0 if the fault is of the file as a whole.
        message: what is wrong.
        source: the line's text, or "" if it is not to be shown.
    """

    file: str
    line: int
    column: int
    message: str
    source: str = field(default="", compare=False)

    @property
    def summary(self) -> str:
        """The place and the message, in one line."""
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.message}"

    def __str__(self) -> str:
        if not self.line:
            return f"{self.file}: error: {self.message}"
        head = f"{self.file}:{self.line}:{self.column}: error: {self.message}"
        if not self.source.strip():
            return head
        # A long line is shown around its fault; a tab stays a tab, so that the caret stands below.
        start = max(0, self.column - 1 - _WIDTH // 2) if len(self.source) > _WIDTH else 0
        shown = self.source[start : start + _WIDTH]
        before = shown[: self.column - 1 - start]
        return f"{head}\n    {_printable(shown)}\n    {''.join(map(_blank, before))}^"


def _printable(text: str) -> str:
    """No escape sequence of a file reaches the terminal."""
    return "".join(char if char.isprintable() or char == "\t" else "?" for char in text)


def _blank(char: str) -> str:
    return "\t" if char == "\t" else " "


class SettingsError(Exception):
    """A configuration that cannot be used.

    Attributes:
        problems: all that is wrong with it, in the order of the file.
    """

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.problems = sorted(set(problems))

    @property
    def summary(self) -> str:
        """The problems, one in a line, without any line of the file: what may be logged."""
        return "\n".join(problem.summary for problem in self.problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


class Source:
    """A file's text, and problems within it.

    Attributes:
        shown: the lines, from 1, that may be shown beside a problem. None at first: any other may
            hold a secret.
    """

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text
        self.shown: Set[int] = frozenset()
        self._lines = text.splitlines()
        self._starts = [0, *accumulate(len(line) for line in text.splitlines(keepends=True))]

    def problem(self, position: tuple[int, int], message: str) -> Problem:
        """A problem at a line and column, with the line's text if that may be shown."""
        line, column = position
        known = line in self.shown and 0 < line <= len(self._lines)
        return Problem(self.file, line, column, message, self._lines[line - 1] if known else "")

    def before(self, position: tuple[int, int]) -> str:
        """The text of the line up to a position."""
        line, column = position
        return self._lines[line - 1][: column - 1] if 0 < line <= len(self._lines) else ""

    def position(self, offset: int) -> tuple[int, int]:
        """The line and column of an offset into the text."""
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1


def path_text(place: Place) -> str:
    """A place as people write it: ``endpoints[0].limits.burst_rows``.

    A key that is no word is left out: ``{token:VALUE}``, without a space, is a key as a whole.
    """
    return "".join(map(_step_text, place)).removeprefix(".")


def _step_text(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if _KEY.fullmatch(step) else ".?"
