"""A scenario from its settings to its results, and to the exit status that they amount to."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console

from loadtest.evidence.metrics import judge
from loadtest.evidence.results import Results, Side
from loadtest.interrupts import ended_in_order
from loadtest.scenario.about import machine, versions
from loadtest.scenario.ground import Ground, GroundError, UnreachableError
from loadtest.scenario.ledger import Ledger
from loadtest.scenario.opening import opened
from loadtest.scenario.read import bounds_of, digest
from loadtest.scenario.run import Found, Run
from loadtest.scenario.settings import Scenario
from loadtest.scenario.watch import Told

PROGRESS: Final = "progress"
SITE: Final = "site"

EXIT_FAILED: Final = 1
EXIT_UNREACHABLE: Final = 4

Open = Callable[[Scenario, Path], AbstractContextManager[Ground]]


def conduct(
    scenario: Scenario,
    folder: Path,
    *,
    resume: bool,
    command: str,
    console: Console,
    open_ground: Open = opened,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Results, int]:
    """Carries a scenario out: its results, and the exit status.

    0: complete, and every threshold holds; 1: a threshold does not, an attack could not be carried
    out, or a server died; 128 and its number: a signal ended it.

    Args:
        folder: of the report, where progress is kept too.
        command: that asked for it.

    Raises:
        ScenarioError, SettingsError: if something does not go together.
        UnreachableError: if a server cannot be reached before anything began.
        GroundError: if the demonstration does not start.
        LedgerError: if there is no broken run of this scenario to go on with.
        OSError: if the folder cannot be written.
        SystemExit: on a signal before anything was begun, with 128 and its number.
    """
    folder = folder.absolute()  # the demonstration's configuration names files in it
    known = digest(scenario)
    progress = folder / PROGRESS
    if resume:
        ledger = Ledger.resume(progress, known)
    else:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder / SITE)
        ledger = Ledger.begin(progress, known, datetime.now(UTC))
    with ended_in_order(), open_ground(scenario, folder / SITE) as ground:
        _reach(scenario, ground)
        with Told(console, clock) as told:
            run = Run(scenario, ground, ledger, told, clock)
            found = run.perform()
        results = Results(
            scenario=scenario.name,
            digest=known,
            started=ledger.started,
            seconds=round(run.seconds, 3),
            seed=scenario.seed,
            command=command,
            machine=machine(),
            versions=versions(),
            target=dict(ground.describe()),
            loads=tuple(found.loads),
            attacks=tuple(found.attacks),
            notes=(*ground.notes(), *found.notes),
            complete=found.complete,
        )
    results = replace(results, checks=judge(results, bounds_of(scenario)))
    return results, status(results, found)


def status(results: Results, found: Found) -> int:
    """The exit status of a run."""
    if found.stopped is not None:
        return found.stopped
    faulty = any(attack.fault for attack in results.attacks)
    return 0 if results.passed and not faulty else EXIT_FAILED


def _reach(scenario: Scenario, ground: Ground) -> None:
    """Asks each side that will be needed.

    Raises:
        UnreachableError: if one does not answer.
    """
    sides: dict[Side, None] = {}
    for load in scenario.load:
        sides |= dict.fromkeys(load.sides)
    for attack in scenario.attacks:
        sides |= dict.fromkeys(attack.sides)
    try:
        ground.check(list(sides))
    except GroundError as error:
        raise UnreachableError(str(error)) from error
