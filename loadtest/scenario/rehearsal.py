"""Drivers before the run: whether they can work with what they get, and what they would ask."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Any, NoReturn

import numpy as np

from loadtest.drivers.asked import Counted, Silent
from loadtest.drivers.base import Driver, Means, Spent
from loadtest.drivers.run import Attacked, check, shared_out
from loadtest.evidence.results import Side
from loadtest.targets.base import Oracle, Reply, Rows


class _Asked(BaseException):
    """A driver came as far as its first question. No driver catches it."""


class _Nobody:
    """An oracle that is asked once, and does not answer."""

    name = "nobody"
    queries = 0

    def __init__(self, features: int, classes: int) -> None:
        self.features = features
        self.classes = classes

    @property
    def raw(self) -> NoReturn:
        raise _Asked

    def ask(self, row: Rows, client: str, *, own: bool = True) -> NoReturn:
        raise _Asked

    def count(self, said: object) -> NoReturn:
        raise _Asked

    def next_try(self) -> None:
        """As an oracle does."""


def objection(driver: Driver, means: Means, features: int, classes: int) -> str:
    """Why a driver cannot work with these means and knobs, or "": it is run to its first question.

    Args:
        classes: of the endpoint; 0: not known.
    """
    nobody: Any = _Nobody(features, classes)
    try:
        check(driver, means)
        driver.run(nobody, nobody, shared_out(means)[0])
    except _Asked:
        return ""
    except ImportError as error:
        return f"it needs the extra attacks, pip install '.[attacks]' in a checkout ({error})"
    except Exception as error:  # whatever it is, it would end the attack as well
        return str(error) or type(error).__name__
    return ""


class _Recording:
    """An oracle that keeps what it is asked."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self.name = oracle.name
        self.features = oracle.features
        self.classes = oracle.classes
        self.rows: list[Rows] = []

    def ask(self, row: Rows, client: str) -> Reply:
        self.rows.append(np.array(row, np.float32))
        return self._oracle.ask(row, client)


def queries(driver: Driver, endpoint: Attacked, means: Means) -> Rows:
    """(n, d) what a driver asks of the model server alone, or of the firewall if there is no other
    way.

    Raises:
        ValueError: if it cannot work with these means, or asks nothing.
    """
    side: Side = "direct" if "direct" in endpoint.sides else "firewall"
    check(driver, means)
    mine, accounts = shared_out(means)
    with ExitStack() as stack:
        recording = _Recording(stack.enter_context(endpoint.oracle(side)))
        asked = Counted(recording, budget=means.budget, accounts=accounts)
        with suppress(Spent, Silent):  # what it asked until then is what is wanted
            driver.run(asked, None, mine)
    if not recording.rows:
        raise ValueError(f"{driver.name} sends no rows of its own")
    return np.stack(recording.rows)
