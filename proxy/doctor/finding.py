"""What a check found: a value, told in one line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, and will hurt one day, or under load."""
    WRONG = "wrong"
    """It does not do what it is there for."""
    UNTRIED = "could-not-be-tried"
    """Nobody knows, from here."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes:
        check: what was tried, as ``redis.eviction``; the part before the dot is its subject.
        words: what was found. It holds no secret.
        advice: what to do about it; "" if there is nothing to do.
        unreachable: whether it is wrong because nobody answers.
    """

    check: str
    level: Level
    words: str
    advice: str = ""
    unreachable: bool = False

    def __str__(self) -> str:
        advice = f" -> {self.advice}" if self.advice else ""
        return f"{self.level.value}: {self.check}: {self.words}{advice}"


def ok(check: str, words: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, words)


def warning(check: str, words: str, advice: str) -> Finding:
    """It will hurt one day."""
    return Finding(check, Level.WARNING, words, advice)


def wrong(check: str, words: str, advice: str, *, unreachable: bool = False) -> Finding:
    """It does not work."""
    return Finding(check, Level.WRONG, words, advice, unreachable)


def untried(check: str, words: str, advice: str = "") -> Finding:
    """It could not be tried."""
    return Finding(check, Level.UNTRIED, words, advice)
