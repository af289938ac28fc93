"""A scenario's steps, carried out: in order, each noted as it ends, whatever ends the run."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from loadtest.evidence.results import AttackResult, LoadResult
from loadtest.load.plan import LoadError, Progress
from loadtest.scenario.ground import Ground, GroundError
from loadtest.scenario.ledger import Entry, Ledger
from loadtest.scenario.load_settings import Load
from loadtest.scenario.settings import Scenario
from loadtest.scenario.steps import AttackStep, LoadStep, Step, steps

_APART: Final = 10_000

INTERRUPTED: Final = "interrupted before it was done: what is here is what was found until then"


class Watch(Protocol):
    """Who is told how the run goes on."""

    def begin(self, step: Step, number: int, of: int) -> None:
        """A step begins, the first with number 1."""

    def loading(self, progress: Progress) -> None:
        """How far a load is."""

    def asking(self, step: AttackStep, queries: int, said: Mapping[str, int]) -> None:
        """How far an attack is."""

    def end(self, step: Step, entry: Entry, *, kept: bool) -> None:
        """A step ended; ``kept``: in an earlier stretch of the run."""


@dataclass(slots=True)
class Found:
    """What a run found.

    Attributes:
        stopped: the exit status that a signal asked for, or None.
        broken: why the run ended before its time, or "".
    """

    loads: list[LoadResult] = field(default_factory=list)
    attacks: list[AttackResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stopped: int | None = None
    broken: str = ""

    @property
    def complete(self) -> bool:
        """Whether every step ended."""
        return self.stopped is None and not self.broken

    def add(self, entry: Entry) -> None:
        """Takes in what a step left."""
        self.loads += entry.loads
        self.notes += entry.notes
        if entry.attack is not None:
            self.attacks.append(entry.attack)


class _Stopped(Exception):  # noqa: N818 - what ends a load that is not needed any more
    pass


class Run:
    """A scenario on a ground.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        scenario: Scenario,
        ground: Ground,
        ledger: Ledger,
        watch: Watch,
        clock: Callable[[], float],
    ) -> None:
        self._scenario = scenario
        self._ground = ground
        self._ledger = ledger
        self._watch = watch
        self._clock = clock
        self._begun = clock()

    def perform(self) -> Found:
        """Carries out what an earlier stretch of the run has not. It ends early, and says why,
        when a server is gone, or on SystemExit, which a signal raises.

        Raises:
            LedgerError, OSError: if what is done cannot be noted.
        """
        found = Found()
        every = steps(self._scenario)
        try:
            for number, step in enumerate(every, start=1):
                entry = self._ledger.done(step.key)
                if entry is None:
                    self._watch.begin(step, number, len(every))
                    self._new(step, found)
                else:
                    found.add(entry)
                    self._watch.end(step, entry, kept=True)
        except (GroundError, LoadError) as error:
            found.broken = f"{step.words}: {error}"
            found.notes.append(f"the run ended early: {found.broken}")
        except (SystemExit, KeyboardInterrupt) as error:
            code = error.code if isinstance(error, SystemExit) else None
            found.stopped = code if isinstance(code, int) else 130
            found.notes.append(INTERRUPTED)
        return found

    @property
    def seconds(self) -> float:
        """Since the run began, without the time between its stretches."""
        return self._ledger.before + self._clock() - self._begun

    def _new(self, step: Step, found: Found) -> None:
        """Carries a step out; what it leaves when a server dies counts as faulty."""
        entry = self._load(step) if isinstance(step, LoadStep) else self._attack(step)
        fault: GroundError | None = None
        try:
            self._ground.check([step.side])
        except GroundError as error:
            fault = error
            if entry.attack is not None:
                entry = replace(entry, attack=replace(entry.attack, fault=str(error)))
        found.add(entry)
        self._watch.end(step, entry, kept=False)
        if fault is not None:
            raise fault
        if entry.attack is None or not entry.attack.fault:  # what failed is tried again
            self._ledger.note(step.key, entry, self.seconds)

    def _load(self, step: LoadStep) -> Entry:
        begun = self.seconds
        loads = self._ground.load(step.load, step.side, step.round, self._watch.loading)
        return Entry(tuple(replace(load, begun=begun) for load in loads))

    def _attack(self, step: AttackStep) -> Entry:
        if step.side == "firewall":
            self._ground.prepare(step.attack)
        begun = self.seconds
        loads: list[LoadResult] = []
        notes: list[str] = []

        def asking(queries: int, said: Mapping[str, int]) -> None:
            self._watch.asking(step, queries, said)

        with self._beside(step, loads, notes):
            attack = self._ground.attack(
                step.attack, step.side, self._ledger.journal(step.key), asking
            )
        details = {"as": step.attack.title} | dict(attack.details)
        return Entry(tuple(loads), replace(attack, begun=begun, details=details), tuple(notes))

    @contextlib.contextmanager
    def _beside(
        self, step: AttackStep, loads: list[LoadResult], notes: list[str]
    ) -> Iterator[None]:
        """Within it, the step's load is under way, round after round; the round that is under way
        at the end is gone on with to its own end."""
        load = step.beside
        if load is None:
            yield
            return
        enough, given_up = threading.Event(), threading.Event()
        attacked = step.attack.title
        # Other honest rows beside each attack: what is sent hangs on the number of the round.
        first = _APART * (1 + self._scenario.attacks.index(step.attack))

        def progress(told: Progress) -> None:
            if given_up.is_set():
                raise _Stopped
            self._watch.loading(told)

        def keep_loading(load: Load) -> None:
            try:
                for turn in itertools.count():
                    begun = self.seconds
                    found = self._ground.load(load, "firewall", first + turn, progress)
                    known: dict[str, Any] = {"round": turn, "begun": begun, "beside": attacked}
                    loads.extend(replace(one, **known) for one in found)
                    if enough.is_set():
                        return
            except _Stopped:
                pass
            except (GroundError, LoadError, OSError, ValueError) as error:
                notes.append(f"{step.words}: the load beside it failed: {error}")

        thread = threading.Thread(target=keep_loading, args=(load,), name="beside", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            given_up.set()
            raise
        finally:
            enough.set()
            thread.join()
