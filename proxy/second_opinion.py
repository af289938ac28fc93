"""Asking the model again, about changed copies of a row, within a budget.

What clients send earns the right to ask: a row of theirs a fraction of a copy. So however many
suspicious rows there are, the model is asked about no more copies than that share of what clients
asked of it, and a small burst. What is not asked, or not answered in time, is decided without: a
step that is left out only lowers the calibrated score.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from detectors.agreement.base import Answers
from detectors.agreement.scorer import AnswerScorer
from detectors.base import Rows
from detectors.scorer import Verdicts

Indices: TypeAlias = npt.NDArray[np.int64]

BURST_ROWS: Final = 16
"""Suspicious rows of which the model may be asked at once, where enough was earned."""


class LateOpinion(Exception):  # noqa: N818 - a deadline, not an error of ours
    """The model did not give its second opinion in time."""


@dataclass(slots=True)
class Budget:
    """Copies of which the model may be asked: a token bucket filled by what clients ask.

    Attributes:
        share: of a copy, for each row of a client's.
        burst: copies, at most; what is earned beyond it is lost.
        left: copies, now. There is nothing at the start.
    """

    share: float
    burst: float
    left: float = 0.0

    def earn(self, rows: int) -> None:
        """Clients asked the model about so many rows."""
        self.left = min(self.left + self.share * rows, self.burst)

    def spend(self, rows: int, each: int) -> int:
        """Takes ``each`` copies for as many of ``rows`` rows as can be paid; how many."""
        paid = min(rows, int(self.left / each))
        self.left -= paid * each
        return paid


class SecondOpinions:
    """One endpoint's asking. For the loop's thread, but for what says otherwise.

    Args:
        scorer: with second opinions.
        share: copies asked of the model for a row that clients asked of it, at most.
        sample: the share of suspicious rows that are asked about.
        seconds: for the answer, at most.
        random: (n,) numbers in [0, 1).

    Attributes:
        copies: of each row.
        drawn: the numbers that chose among the suspicious rows of the last request; None: all are
            asked about.
        budget: what is left to ask.
        seconds: for the answer, at most.

    Raises:
        ValueError: if the scorer has no second opinions.
    """

    def __init__(
        self,
        scorer: AnswerScorer,
        *,
        share: float,
        sample: float = 1.0,
        seconds: float = 1.0,
        random: Callable[[int], npt.NDArray[np.float64]],
    ) -> None:
        if not scorer.opinions:
            raise ValueError("the bundle holds no second opinions")
        self._scorer = scorer
        self._sample = sample
        self._random = random
        self.seconds = seconds
        self.copies: Final = sum(opinion.copies for opinion in scorer.opinions)
        self.budget = Budget(share, BURST_ROWS * self.copies)
        self.drawn: npt.NDArray[np.float64] | None = None

    def choose(self, verdicts: Verdicts, answers: Answers) -> tuple[Indices, int]:
        """The rows to ask about, the most suspicious ones as far as the budget goes, paid for; and
        how many there would have been. None where the answers tell too little to compare."""
        found = self._scorer.suspicious(verdicts)
        if self._sample < 1:
            self.drawn = self._random(len(found))
            found &= self.drawn < self._sample
        rows: Indices = np.flatnonzero(found)
        comparable = all(answers.has(opinion.needs) for opinion in self._scorer.opinions)
        paid = self.budget.spend(len(rows), self.copies) if comparable else 0
        if paid < len(rows):
            order = np.argsort(-verdicts.merged[rows], kind="stable")
            return np.sort(rows[order[:paid]]), len(rows)
        return rows, len(rows)

    def views(self, rows: Rows) -> Rows:
        """(m, d) to (m * copies, d): each opinion's views of the rows, one opinion after the other.
        Any thread."""
        return np.concatenate([opinion.views(rows) for opinion in self._scorer.opinions])

    def origins(self, rows: Indices) -> Indices:
        """For each of the views of these rows, which row it was made from."""
        return np.concatenate(
            [np.repeat(rows, opinion.copies) for opinion in self._scorer.opinions]
        )

    def split(self, again: Answers) -> list[Answers]:
        """The answers to all views, by opinion. Any thread."""
        m = len(again) // self.copies
        parts, at = [], 0
        for opinion in self._scorer.opinions:
            parts.append(again[at : at + m * opinion.copies])
            at += m * opinion.copies
        return parts


def joined(parts: Sequence[Answers]) -> Answers:
    """Answers in their order as one."""
    if len(parts) == 1:
        return parts[0]

    def both(name: str) -> npt.NDArray[Any] | None:
        known = [getattr(part, name) for part in parts]
        return None if any(one is None for one in known) else np.concatenate(known)

    return Answers(both("labels"), both("probabilities"), both("values"))


async def in_time(asking: Awaitable[Answers], seconds: float) -> Answers:
    """What the model answers, in a task of its own: where an exchange waits, none is current.

    Raises:
        LateOpinion: if it takes longer. It is cancelled then, as it is if nobody waits any more.
    """
    task = asyncio.ensure_future(asking)
    late = False

    def give_up() -> None:
        nonlocal late
        late = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, give_up)
    try:
        return await task
    except asyncio.CancelledError:
        if late:
            raise LateOpinion(f"no answer within {seconds:g} s") from None
        raise
    finally:
        timer.cancel()
        task.cancel()
