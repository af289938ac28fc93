"""What can still be explained: the last exchanges that were refused, shaped, or would have been.

In memory only, and of each exchange only the rows that were worst: they may be personal data.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from detectors.agreement.base import Answers
from detectors.base import Rows
from proxy.decision import Action, Decision
from proxy.telemetry.record import Record

MOST_BYTES: Final = 32 * 2**20
"""Bytes of rows and answers that are kept, at most."""
_FIXED_BYTES: Final = 2048  # what an exchange takes beside its row, about
_LEAST_SHARE: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class Worst:
    """One row of an exchange, and what the model said of it.

    Attributes:
        index: its place in the request.
        row: (1, d) float32, as the model saw it.
        answer: of that row; None if it was not known.
    """

    index: int
    row: Rows
    answer: Answers | None = None


class Kept(NamedTuple):
    """One exchange that can be explained.

    Attributes:
        id: the request id.
        endpoint: the endpoint's name, "" if there was none.
        client: the client's pseudonym.
        at: when it was decided, seconds since the epoch.
        decision: what was decided.
        status: what the client was answered; 0 if it left before.
        rows: of the request, 0 if it was not understood.
        flagged_rows: how many of them passed a threshold.
        bundle: the digest of the bundle that scored it, or "".
        score: the input's largest merged score; None if nothing was scored.
        answer_score: the largest score over rows with their answers, second opinions counted in;
            None if no answer was judged.
        answer_p_value: of that score.
        signals: what detectors said of the answer, and those that asked again: p-values.
        worst: the row whose input was worst; None if there is none.
        doubted: the row that went worst with its answer; None if no answer was judged.
    """

    id: str
    endpoint: str
    client: str
    at: float
    decision: Decision
    status: int
    rows: int
    flagged_rows: int
    bundle: str
    score: float | None
    answer_score: float | None
    answer_p_value: float
    signals: dict[str, float]
    worst: Worst | None
    doubted: Worst | None


class Explanations:
    """A ring of :class:`Kept`. One thread.

    Exchanges of which a row is kept, and others, have a ring each, so that a flood of what was
    merely throttled or malformed pushes out none that a detector refused. Nor does one client: of
    each ring it has a fourth at most.

    Args:
        most: exchanges in each ring; 0 keeps nothing.
        wall: seconds since the epoch.
        most_bytes: bytes of rows and answers.
        heard: told of each that was kept with a row.
    """

    def __init__(
        self,
        most: int,
        *,
        wall: Callable[[], float],
        most_bytes: int = MOST_BYTES,
        heard: Callable[[Kept], None] | None = None,
    ) -> None:
        self.heard = heard
        self._most = most
        self._wall = wall
        self._scored = _Ring(most, most_bytes)
        self._others = _Ring(most, most_bytes)

    def keep(self, record: Record, rows: Rows | None, answers: Answers | None) -> None:
        """Keeps an exchange that is over, if anything but to let it pass was decided.

        Args:
            rows: (n, d) float32, as the model saw them; None if nothing was understood.
            answers: the model's, of those n rows; None if they are not known.
        """
        decision = record.decision
        if not self._most or decision.action is Action.ALLOW:
            return
        worst = doubted = None
        if rows is not None and record.score is not None and _is_detected(decision):
            worst = _worst(record.worst_row, rows, answers)
            if record.answer_score is not None:
                row = record.answer_row
                doubted = worst if row == worst.index else _worst(row, rows, answers)
        kept = Kept(
            record.id,
            record.endpoint,
            record.client,
            self._wall(),
            decision,
            record.status,
            record.rows,
            record.flagged_rows,
            record.bundle,
            record.score,
            record.answer_score,
            record.answer_p_value,
            record.answer_signals,
            worst,
            doubted,
        )
        if worst is None:
            self._others.add(kept, _FIXED_BYTES)
        elif self._scored.add(kept, _size(worst, doubted)) and self.heard is not None:
            self.heard(kept)

    def find(self, exchange: str) -> Kept | None:
        """The exchange with this id; None if it is not kept, or not any more."""
        return self._scored.entries.get(exchange) or self._others.entries.get(exchange)

    def __len__(self) -> int:
        return len(self._scored.entries) + len(self._others.entries)


class _Ring:
    """The newest entries, bounded in number, in bytes, and for each client."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self.entries: OrderedDict[str, Kept] = OrderedDict()
        self._most = most
        self._most_bytes = most_bytes
        self._share = max(_LEAST_SHARE, most // 4)
        self._sizes: dict[str, int] = {}
        self._bytes = 0
        self._clients: dict[str, deque[str]] = {}

    def add(self, kept: Kept, size: int) -> bool:
        """Whether there is room for it, were the ring empty: others have made room then."""
        if kept.id in self.entries or size > self._most_bytes:
            return False
        own = self._clients.setdefault(kept.client, deque())
        own.append(kept.id)
        self.entries[kept.id] = kept
        self._sizes[kept.id] = size
        self._bytes += size
        if len(own) > self._share:
            self._drop(own[0])
        while len(self.entries) > self._most or self._bytes > self._most_bytes:
            self._drop(next(iter(self.entries)))
        return True

    def _drop(self, exchange: str) -> None:
        kept = self.entries.pop(exchange)
        self._bytes -= self._sizes.pop(exchange)
        own = self._clients[kept.client]
        own.popleft()  # its oldest: entries leave in the order in which they came
        if not own:
            del self._clients[kept.client]


def _is_detected(decision: Decision) -> bool:
    """Whether a detector has its part in it. What only a limit refused needs no row to explain."""
    return any("BZ-300" <= reason.rule.id < "BZ-600" for reason in decision.reasons)


def _worst(index: int, rows: Rows, answers: Answers | None) -> Worst:
    # Copies: a view would keep the whole request alive.
    return Worst(index, np.array(rows[index : index + 1], np.float32), _copied(answers, index))


def _copied(answers: Answers | None, index: int) -> Answers | None:
    if answers is None:
        return None
    one = answers[index : index + 1]
    return Answers(
        None if one.labels is None else one.labels.copy(),
        None if one.probabilities is None else one.probabilities.copy(),
        None if one.values is None else one.values.copy(),
    )


def _size(worst: Worst, doubted: Worst | None) -> int:
    size = _FIXED_BYTES
    for one in (worst, None if doubted is worst else doubted):
        if one is not None:
            said = one.answer or Answers()
            arrays = (one.row, said.labels, said.probabilities, said.values)
            size += sum(array.nbytes for array in arrays if array is not None)
    return size
