"""One attack on one side of an endpoint, from its means to its result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, Final, Protocol

import numpy as np

from loadtest.drivers.asked import Counted, Silent
from loadtest.drivers.base import Driver, Means, Outcome, Spent
from loadtest.drivers.journal import Journal, JournalError
from loadtest.drivers.judging import Judge, Unjudged
from loadtest.drivers.recognition import AuditReader, recognised
from loadtest.evidence.attack_metrics import ABUSE
from loadtest.evidence.results import AttackResult, Share, Side
from loadtest.evidence.store import StoreError, plain
from loadtest.targets.base import REFUSALS, Oracle, Said
from loadtest.targets.open import OpenOracle

Progress = Callable[[int, Mapping[str, int]], None]
"""Is told about once a second how many queries there were, and what became of them."""

_EVERY: Final = 1.0
_DECIDED: Final = REFUSALS | {Said.ANSWERED}


class Attacked(Protocol):
    """What is attacked: an ``Endpoint``, or a rehearsal of one."""

    @property
    def sides(self) -> Sequence[Side]:
        """Those that there are."""

    def oracle(self, side: Side) -> OpenOracle:
        """One side, to be asked."""


class _Stopped(BaseException):
    """What the caller's own function raised, on its way past a driver that might swallow it."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(cause)
        self.cause = cause


def check(driver: Driver, means: Means) -> None:
    """Whether a driver can work with these means.

    Raises:
        ValueError: if not; says what is missing.
    """
    for need in sorted(driver.needs - {"classes"}):
        if getattr(means, need) is None:
            raise ValueError(f"{driver.name} needs {need}")
    if not len(means.own):
        raise ValueError(f"{driver.name} needs rows of its own")
    if means.budget < 1 or means.tries < 1:
        raise ValueError("budget and tries are at least 1")


def attack(
    driver: Driver,
    endpoint: Attacked,
    side: Side,
    means: Means,
    *,
    journal: Path | None = None,
    resume: bool = False,
    audit: Path | None = None,
    seed: int | None = None,
    about: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    clock: Callable[[], float] = monotonic,
) -> AttackResult:
    """Attacks, and says how it went. What goes wrong within the attack is told in ``fault``.

    Each try asks as clients of its own, as far as there are enough: ``means.accounts`` are dealt
    out evenly, and the driver knows those of every try by the names of the first's.

    Args:
        side: that is attacked. Success is judged by the direct side, where there is one.
        journal: the file that keeps the answers; None: a broken run cannot be gone on with.
        resume: whether ``journal`` may hold an earlier run.
        audit: the firewall's audit log, by which it is told when it recognised the attack.
        seed: in the place of the means'.
        about: what was attacked, for the journal.
        progress: what it raises ends the attack, and is raised here.

    Raises:
        ValueError: if the means do not do; JournalError if the journal does not.
        OSError: if the journal cannot be read or written.
        KeyError: if there is no such side.
    """
    if seed is not None:
        means = replace(means, seed=seed)
    check(driver, means)
    mine, accounts = shared_out(means)
    with ExitStack() as stack:
        oracle: Oracle = stack.enter_context(endpoint.oracle(side))
        judge: Judge | None = None
        if "direct" in endpoint.sides:
            judge = Judge(stack.enter_context(endpoint.oracle("direct")))
        kept = None
        if journal is not None:
            head = _head(driver, side, means, about or {})
            kept = Journal.open(journal, head, resume=resume)
            stack.callback(kept.close)
        asked = Counted(
            oracle,
            budget=means.budget,
            accounts=accounts,
            journal=kept,
            watch=None if progress is None else _watch(progress, clock),
        )
        log = None
        if audit is not None and side == "firewall":
            log = AuditReader(audit, whole=resume)
        begun = clock()
        outcome, fault = _run(driver, asked, judge, mine)
        seconds = clock() - begun
    if not fault and (fault := _in_vain(driver, asked, judge)):
        outcome = Outcome((), details=outcome.details)
    until: list[int] = []
    spoke: Mapping[str, int] = {}
    singly = 0
    known = log is not None and any(one.exchanges for one in asked.tries)
    if log is not None and known:
        until, spoke, singly = recognised(log, asked.tries)
    reached = [one for one in outcome.tries if one.reached]
    details = dict(outcome.details)
    if spoke:
        details["rules"] = spoke
    if singly:
        details["recognised_by_single_inputs_alone"] = singly
    if len(accounts) == 1 and means.tries > 1:
        details["accounts"] = "the tries share their accounts"
    result = AttackResult(
        driver=driver.name,
        family=driver.family,
        side=side,
        atlas=driver.atlas,
        goal=driver.goal,
        success=Share(len(reached), len(outcome.tries)),
        queries=asked.total,
        distinct=asked.distinct,
        seed=means.seed,
        measure=outcome.measure,
        value=outcome.value,
        baseline=outcome.baseline,
        to_success=[one.queries for one in reached],
        said=dict(asked.said),
        recognised=Share(len(until), len(asked.tries)) if known else None,
        to_recognition=until,
        coarse=asked.coarse,
        seconds=seconds,
        resumed=kept.resumed if kept is not None else 0,
        details=details,
        fault=fault,
    )
    try:
        plain(result)
    except StoreError as error:  # no report can hold it, and it is no measurement
        told = f"what it found cannot be told: {error}"
        void = replace(result, success=Share(0, 0), value=None, baseline=None, details={})
        return replace(void, to_success=(), fault=told)
    return result


def shared_out(means: Means) -> tuple[Means, list[dict[str, str]]]:
    """The means as a driver sees them, and who stands for its accounts in each try."""
    pool = list(means.accounts) or ["client"]
    each = max(1, len(pool) // means.tries)
    names = pool[:each]
    turns = [pool[at : at + each] for at in range(0, each * min(means.tries, len(pool)), each)]
    dealt = [dict(zip(names, turn, strict=True)) for turn in turns]
    return replace(means, accounts=names), dealt


def _run(driver: Driver, asked: Counted, judge: Oracle | None, means: Means) -> tuple[Outcome, str]:
    """How it ended, and why it does not count, or ""."""
    try:
        return driver.run(asked, judge, means), ""
    except _Stopped as stopped:
        raise stopped.cause from None
    except Spent:
        fault = "the budget was used up before there was a result"
    except (Silent, Unjudged) as silent:
        fault = str(silent)
    except ImportError as error:
        fault = f"it needs the extra attacks, pip install '.[attacks]' in a checkout ({error})"
    except JournalError:
        raise
    except ValueError as error:
        fault = str(error)
    except Exception as error:  # one broken driver must not end the run of all the others
        fault = f"{type(error).__name__}: {error}"
    return Outcome(()), fault


def _in_vain(driver: Driver, asked: Counted, judge: Judge | None) -> str:
    """Why an attack that came to its end met nobody, or "".

    A wrong path, key or contract answers every query alike, and no success would be taken for a
    defence. What abuse sends is meant to be malformed.
    """
    if driver.family == ABUSE:
        return ""
    if not any(asked.said[said.value] for said in _DECIDED):
        told = ", ".join(f"{count} {word}" for word, count in sorted(asked.said.items()))
        return f"no query was answered, nor refused by a verdict or a limit: {told or 'none sent'}"
    failed = asked.said[Said.FAILED.value]
    if 2 * failed > asked.total:
        return f"most queries had no answer that can be read: {failed} of {asked.total}"
    if judge is not None and judge.asked and not judge.answered:
        return "the model that judges success takes every row for malformed"
    return ""


def _watch(progress: Progress, clock: Callable[[], float]) -> Callable[[int, Any], None]:
    told = clock()

    def watch(queries: int, said: Mapping[str, int]) -> None:
        nonlocal told
        now = clock()
        if now - told < _EVERY:
            return
        told = now
        try:
            progress(queries, dict(said))
        except BaseException as error:
            raise _Stopped(error) from error

    return watch


def _head(driver: Driver, side: Side, means: Means, about: Mapping[str, str]) -> dict[str, Any]:
    """What an attack's questions depend on: JSON has it as it is."""
    data = hashlib.blake2b(digest_size=12)
    arrays = (means.own, means.low, means.high, means.test, means.labels, means.members)
    for array in arrays:
        given = np.zeros(0) if array is None else np.ascontiguousarray(array)
        data.update(f"{given.dtype.str}{given.shape}".encode())
        data.update(given.tobytes())
    return {
        "driver": driver.name,
        "side": side,
        "seed": means.seed,
        "budget": means.budget,
        "tries": means.tries,
        "accounts": list(means.accounts),
        "image": None if means.image is None else list(means.image),
        "knobs": {name: means.knobs[name] for name in sorted(means.knobs)},
        "data": data.hexdigest(),
        "target": dict(about),
    }
