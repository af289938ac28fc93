"""The accounts of an attacker, and how a client behaves that is refused, limited or ignored."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from loadtest.drivers.base import Asked
from loadtest.targets.base import REFUSALS, Reply, Rows, Said, Scores

PATIENCE: Final = 5
"""Refused so often in a row, an account is left for the next."""


class Turns:
    """Whose turn it is: accounts one after the other, without those that are refused ``PATIENCE``
    times in a row; with them again once no other is left."""

    def __init__(self, accounts: int) -> None:
        self._refusals = [0] * accounts
        self._turn = 0

    def next(self) -> int:
        """The number of the account that asks now, from 0."""
        everyone = range(len(self._refusals))
        usable = [number for number in everyone if self._refusals[number] < PATIENCE] or everyone
        number = usable[self._turn % len(usable)]
        self._turn += 1
        return number

    def note(self, number: int, *, refused: bool) -> None:
        """What became of its query."""
        self._refusals[number] = self._refusals[number] + 1 if refused else 0


@dataclass(slots=True)
class Client:
    """Asks an oracle of classes, as accounts in turn.

    Attributes:
        oracle: what is asked.
        accounts: names, at least one.
        wait: the longest pause, in seconds, after a reply that says when to try again; 0: goes on
            at once, whatever it says.
        sleep: how it pauses.
        own: queries of the attack's own, so far.
        answered: queries that were, so far.
        whole: of these, how many came with more than a label.
        unanswered: those that were not.
        waited: seconds, in all.
    """

    oracle: Asked
    accounts: Sequence[str]
    wait: float = 0.0
    sleep: Callable[[float], None] = time.sleep
    own: int = 0
    answered: int = 0
    whole: int = 0
    unanswered: int = 0
    waited: float = 0.0
    _turns: Turns = field(init=False)

    def __post_init__(self) -> None:
        if not self.accounts:
            raise ValueError("an attack needs at least one account")
        self._turns = Turns(len(self.accounts))

    def take(self, count: int) -> None:
        """Uses the first so many accounts, and no other."""
        self._turns = Turns(count)

    def ask(self, row: Rows, *, own: bool = True) -> Reply:
        """Asks as the account whose turn it is.

        Raises:
            Spent: if the budget is used up.
            ValueError: if the endpoint answers values, not classes.
        """
        number = self._turns.next()
        reply = self.ask_as(number, row, own=own)
        self._turns.note(number, refused=reply.said in REFUSALS)
        return reply

    def ask_as(self, number: int, row: Rows, *, own: bool = True) -> Reply:
        """As :meth:`ask`, as one account."""
        reply = self.oracle.ask(row, self.accounts[number], own=own)
        self.own += own
        if reply.said is not Said.ANSWERED or reply.scores is None:
            self.unanswered += 1
            if self.wait and reply.retry_after:
                pause = min(self.wait, max(0.0, reply.retry_after))
                self.waited += pause
                self.sleep(pause)
            return reply
        if reply.label < 0:
            raise ValueError("the endpoint answers values: this attack needs a classifier")
        self.answered += 1
        self.whole += not is_label(reply.scores)
        return reply

    def scores(self, row: Rows) -> Scores | None:
        """(classes,) as :meth:`ask` of the attack's own, or None if there was no answer."""
        reply = self.ask(row)
        return reply.scores if reply.said is Said.ANSWERED else None


def is_label(scores: Scores) -> bool:
    """Whether scores say nothing but which class is best."""
    return int((scores != 0).sum()) == 1 and float(scores.max()) == 1.0
