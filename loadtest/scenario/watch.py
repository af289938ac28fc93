"""How a run goes on, told while it does: lines that change on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from loadtest.evidence.results import AttackResult, LoadResult
from loadtest.load.plan import Progress
from loadtest.scenario.ledger import Entry
from loadtest.scenario.steps import AttackStep, LoadStep, Step

_EVERY: Final = 5.0
_NOT_OK: Final = ("refused", "limited", "shed", "invalid", "failed")


class Told:
    """Tells people on a console. A context: within it, lines may be drawn anew.

    Args:
        clock: seconds, monotonic: plain lines come a few seconds apart.
    """

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._lines: dict[str, str] = {}
        self._last: dict[str, float] = {}
        self._live = (
            Live(console=console, refresh_per_second=4, transient=True, redirect_stdout=False)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def begin(self, step: Step, number: int, of: int) -> None:
        """A step begins."""
        self._lines.clear()
        self._last.clear()
        self._say(f"[{number}/{of}] {step.words}")

    def loading(self, progress: Progress) -> None:
        """How far a load is."""
        self._line(f"load {progress.name}", load_line(progress))

    def asking(self, step: AttackStep, queries: int, said: Mapping[str, int]) -> None:
        """How far an attack is."""
        self._line("attack", attack_line(step, queries, said))

    def end(self, step: Step, entry: Entry, *, kept: bool) -> None:
        """A step ended."""
        self._lines.clear()
        self._draw()
        words = f"{step.words} (from before)" if kept else "    "
        self._say(f"{words} {_outcome(step, entry)}")
        for note in entry.notes:
            self._say(f"    note: {note}")

    def _line(self, key: str, text: str) -> None:
        if self._live is not None:
            self._lines[key] = text
            self._draw()
            return
        now = self._clock()
        if now - self._last.get(key, float("-inf")) >= _EVERY:
            self._last[key] = now
            self._say(f"    {text}")

    def _draw(self) -> None:
        if self._live is not None:
            text = "\n".join(f"    {line}" for line in list(self._lines.values()))
            self._live.update(Text(text, no_wrap=True, overflow="ellipsis"))

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def load_line(progress: Progress) -> str:
    """One line about a load that is under way."""
    rate = progress.sent / progress.at if progress.at > 0 else 0.0
    parts = [
        f"{progress.name} {progress.side}",
        f"{progress.at:.0f}/{progress.seconds:.0f} s",
        f"{rate:.0f}/s",
        f"p50 {_time(progress.p50)}",
        f"p99 {_time(progress.p99)}",
        _not_ok(progress.said),
    ]
    if progress.dropped:
        parts.append(f"dropped {progress.dropped}")
    if progress.errors:
        parts.append(f"errors {progress.errors}")
    if progress.what:
        parts.append(progress.what)
    return "  ".join(part for part in parts if part)


def attack_line(step: AttackStep, queries: int, said: Mapping[str, int]) -> str:
    """One line about an attack that is under way."""
    most = step.attack.budget * step.attack.tries
    parts = [
        f"{step.attack.title} {step.side}",
        f"{queries} of at most {most} queries",
        _not_ok(said),
    ]
    return "  ".join(part for part in parts if part)


def _outcome(step: Step, entry: Entry) -> str:
    if isinstance(step, LoadStep):
        return "; ".join(_load_outcome(load) for load in entry.loads)
    assert entry.attack is not None
    return _attack_outcome(entry.attack)


def _load_outcome(load: LoadResult) -> str:
    p50, p99 = (load.percentiles.get(key) for key in ("50", "99"))
    parts = [
        f"{load.part}: {load.good} of {load.offered} good",
        f"p50 {_time(p50)}",
        f"p99 {_time(p99)}",
        _not_ok(load.said),
    ]
    errors = sum(load.errors.values())
    if errors:
        parts.append(f"errors {errors}")
    return "  ".join(part for part in parts if part)


def _attack_outcome(attack: AttackResult) -> str:
    if attack.fault:
        return f"FAULT: {attack.fault}"
    parts = [f"{attack.goal}: {attack.success.count} of {attack.success.total}"]
    if attack.recognised is not None:
        parts.append(f"recognised {attack.recognised.count} of {attack.recognised.total}")
    parts.append(f"{attack.queries} queries in {attack.seconds:.1f} s")
    parts.append(_not_ok(attack.said))
    return "  ".join(part for part in parts if part)


def _not_ok(said: Mapping[str, int]) -> str:
    counts = Counter({word: said.get(word, 0) for word in _NOT_OK})
    return "  ".join(f"{word} {count}" for word, count in counts.items() if count)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
