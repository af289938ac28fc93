"""An oracle as a driver gets it: counted, held to a budget, journalled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from loadtest.drivers.base import Spent
from loadtest.drivers.journal import Journal, digest
from loadtest.targets.base import Oracle, Reply, Rows, Said, Scores

PATIENCE: Final = 20
"""Questions in a row without an answer that can be read, after which nobody is thought to be
there."""
_DECIMALS: Final = 3
"""Scores of no more decimals than this are coarse, where others had more."""


class Silent(Exception):  # noqa: N818 - how an attack ends
    """The endpoint has not answered for ``PATIENCE`` questions: the message says what came."""


@dataclass(slots=True)
class TryLog:
    """What one try asked.

    Attributes:
        queries: sent, all of them.
        own: distinct rows of the attack's own, so far.
        exchanges: the request id of each own query that has one, and ``own`` by then.
    """

    queries: int = 0
    own: int = 0
    exchanges: list[tuple[str, int]] = field(default_factory=list)
    seen: set[str] = field(default_factory=set, repr=False)


class Counted:
    """The oracle of one attack; see ``Asked``. Of one thread.

    Args:
        oracle: that is asked.
        budget: queries of each try.
        accounts: of each try, the client that stands for each name that the driver knows; none: the
            names are the clients'.
        journal: where the answers are kept, and taken from; none: nowhere.
        watch: is told of every query after it: how many there were, and what was said so far.

    Attributes:
        name, features, classes, raw: the oracle's.
        queries: of this try.
        total: of all tries; ``said``: what became of them, by ``Said.value``.
        coarse: answers with visibly coarse scores, where others of this attack had fine ones.
        tries: what each asked.
    """

    def __init__(
        self,
        oracle: Oracle,
        *,
        budget: int,
        accounts: Sequence[Mapping[str, str]] = (),
        journal: Journal | None = None,
        watch: Callable[[int, Mapping[str, int]], None] | None = None,
    ) -> None:
        self._oracle = oracle
        self._budget = budget
        self._accounts = accounts
        self._journal = journal
        self._watch = watch
        self.name = oracle.name
        self.features = oracle.features
        self.classes = oracle.classes
        self.raw: Any = getattr(oracle, "raw", None)
        self.queries = 0
        self.total = 0
        self.coarse = 0
        self.said: Counter[str] = Counter()
        self.tries = [TryLog()]
        self._distinct: set[str] = set()
        self._fine = False
        self._silent = 0

    @property
    def distinct(self) -> int:
        """Rows asked so far, each counted once."""
        return len(self._distinct)

    def ask(self, row: Rows, client: str, *, own: bool = True) -> Reply:
        """Asks about one row; see ``Asked.ask``.

        Raises:
            Spent: if the try's budget is used up.
            Silent: if nobody has answered for long.
            JournalError: if an earlier run asked another question here.
        """
        if self.queries >= self._budget:
            raise Spent
        row = np.ascontiguousarray(row, np.float32)
        asker = self._client(client)
        question = digest(row, asker)
        reply = self._journal.known(question) if self._journal is not None else None
        if reply is None:
            reply = self._oracle.ask(row, asker)
            if self._journal is not None:
                self._journal.add(question, reply)
        self._note(row, reply, own=own)
        return reply

    def count(self, said: Said) -> None:
        """Counts a query that a driver sent byte by byte, through ``raw``. It is not journalled.

        Raises:
            Spent: if the try's budget is used up; it was one too many.
        """
        if self.queries >= self._budget:
            raise Spent
        self._counted(said)

    def next_try(self) -> None:
        """Begins the next try, with a budget of its own, as other clients."""
        self.queries = 0
        self.tries.append(TryLog())

    def _client(self, name: str) -> str:
        if not self._accounts:
            return name
        return self._accounts[(len(self.tries) - 1) % len(self._accounts)].get(name, name)

    def _note(self, row: Rows, reply: Reply, *, own: bool) -> None:
        one = digest(row, "")
        self._distinct.add(one)
        log = self.tries[-1]
        if own:
            if one not in log.seen:
                log.seen.add(one)
                log.own += 1
            if reply.request_id:
                log.exchanges.append((reply.request_id, log.own))
        if reply.scores is not None and reply.label >= 0:
            self.classes = self.classes or reply.scores.size
            coarse = is_coarse(reply.scores)
            self.coarse += coarse and self._fine
            self._fine = self._fine or not coarse
        self._counted(reply.said)
        self._silent = self._silent + 1 if reply.said is Said.FAILED else 0
        if self._silent >= PATIENCE:
            what = reply.body or f"status {reply.status}"
            raise Silent(f"no answer to {PATIENCE} queries in a row: {what}")

    def _counted(self, said: Said) -> None:
        self.queries += 1
        self.total += 1
        self.tries[-1].queries += 1
        self.said[said.value] += 1
        if self._watch is not None:
            self._watch(self.total, self.said)


def is_coarse(scores: Scores) -> bool:
    """Whether scores are rounded, or 1 at one place and 0 elsewhere.

    Relative to each score, so that the tail of a sure model's probabilities, 1e-20, is not taken
    for a 0.
    """
    return bool(np.isclose(scores, np.round(scores, _DECIMALS), rtol=1e-7, atol=0.0).all())
