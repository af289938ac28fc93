"""One endpoint's exchanges as numbers: what the metrics count, without their names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter
from struct import Struct
from typing import Final

import numpy as np
import numpy.typing as npt

from proxy.decision import ALLOWED, Action
from proxy.rules import PATTERNS
from proxy.telemetry.budget import AlertWindow
from proxy.telemetry.record import Record

STAGES: Final = (
    *("read", "decode", "limits", "score", "decide", "upstream"),
    *("agreement", "second_opinion", "answer"),
)
"""What the time of an exchange is spent on, each stage up to the mark of ``Record`` it ends at."""

SECONDS: Final = (
    1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2,
    2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds of the durations' buckets."""

SCORES: Final = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)
"""Upper bounds of the scores' buckets, in -log10 p: 3.0 is one honest row in a thousand."""

RESULTS: Final = ("heard", "declined", "failed")
"""What becomes of a second opinion that is worth its cost: given; beyond its budget; not given."""

_REFUSED: Final = (Action.BLOCK, Action.THROTTLE)
_PLAIN: Final = (Action.ALLOW, Action.ALLOW)
_BATCH: Final = 256  # exchanges that are folded in at once
_SAMPLE: Final = 8  # one scored exchange in so many tells each detector's score
_MARKS: Final = len(STAGES) + 1
_TOTAL, _OVERHEAD = len(STAGES), len(STAGES) + 1  # beside the stages' own spans
_SPANS: Final = len(STAGES) + 2
_UPSTREAM: Final = STAGES.index("upstream")
_OWN: Final = 2  # scores that are no detector's: merged, and with the answer
_LEAST_P: Final = 1e-300

_fields: Final = attrgetter(
    *("received", "read", "decoded", "admitted", "scored", "decided", "answered"),
    *("judged", "reconsidered", "finished"),
    *("rows", "flagged_rows", "request_bytes", "response_bytes", "status"),
)
_COLUMNS: Final = 2 + _MARKS + 5
_row: Final = Struct(f"{_COLUMNS}d")  # both p-values, NaN without one, and the fields

_SECONDS: Final = np.array(SECONDS)
_SCORES: Final = np.array(SCORES)

Counts = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]


class EndpointMetrics:
    """Counts one endpoint's exchanges.

    Taking one in only notes its numbers; they are folded in 256 at a time, where numpy does it for
    a fraction of what a bisection each would cost. Each detector's own score is taken from every
    eighth scored exchange. Not for several threads.

    Attributes:
        decisions: exchanges by action and enforced action.
        refusals: by the rule that decided and whether the client saw it.
        faults, failed_open: by the rule of the fault.
        alarms: exchanges during which a pattern's evidence passed its threshold, by rule.
        sheds: requests that were shed as soon as their head was read, by rule. They are no
            exchanges: nothing else counts them.
        statuses: exchanges by the hundreds of their status; 0: the client left before.
        rows, scored_rows, flagged_rows: rows understood, scored, and past the threshold.
        judged_rows, disagreeing_rows: rows judged with their answers, and past the threshold then.
        opinions: suspicious rows by what became of the second opinion: ``RESULTS``.
        opinion_rows: copies of rows that the model was asked about for that reason.
        shaped: answers made coarse.
        request_bytes, response_bytes: bytes of bodies.
        spans: (11, 20) observations per bucket of each of ``STAGES``, the total and the overhead.
        seconds: (11,) their sums.
        scores: (2 + detectors, 13) observations per bucket: the merged score, the score with the
            answer, then each detector's.
        score_sums: (2 + detectors,) their sums.
    """

    __slots__ = (
        "_allowed",
        "_noted",
        "_sampled",
        "_turn",
        "_window",
        "alarms",
        "decisions",
        "detectors",
        "disagreeing_rows",
        "failed_open",
        "faults",
        "flagged_rows",
        "judged_rows",
        "opinion_rows",
        "opinions",
        "refusals",
        "request_bytes",
        "response_bytes",
        "rows",
        "score_sums",
        "scored_rows",
        "scores",
        "seconds",
        "shaped",
        "sheds",
        "spans",
        "statuses",
    )

    def __init__(self, detectors: Sequence[str] = (), window: AlertWindow | None = None) -> None:
        self._noted = bytearray()
        self._sampled: list[dict[str, float]] = []
        self._turn = 0
        self._allowed = 0
        self.decisions: dict[tuple[Action, Action], int] = {}
        self.refusals: dict[tuple[str, bool], int] = {}
        self.faults: dict[str, int] = {}
        self.failed_open: dict[str, int] = {}
        self.alarms: dict[str, int] = {}
        self.sheds: dict[str, int] = {}
        self.statuses: Counts = np.zeros(6, np.int64)
        self.rows = self.scored_rows = self.flagged_rows = 0
        self.judged_rows = self.disagreeing_rows = self.opinion_rows = self.shaped = 0
        self.opinions = dict.fromkeys(RESULTS, 0)
        self.request_bytes = self.response_bytes = 0
        self.spans: Counts = np.zeros((_SPANS, len(SECONDS) + 1), np.int64)
        self.seconds = np.zeros(_SPANS)
        self.detectors: tuple[str, ...] = ()
        self.scores: Counts = np.zeros((_OWN, len(SCORES) + 1), np.int64)
        self.score_sums = np.zeros(_OWN)
        self._window: AlertWindow | None = None
        self.rebind(detectors, window)

    @property
    def window(self) -> AlertWindow | None:
        """The latest rows against the budget, up to date; None without a bundle."""
        self.fold()
        return self._window

    def rebind(self, detectors: Sequence[str], window: AlertWindow | None) -> None:
        """Serves on under another bundle or budget: counters stay, the window starts anew."""
        self.fold()
        kept = {name: row for row, name in enumerate(self.detectors, _OWN)}
        source = [*range(_OWN)] + [kept.get(name, -1) for name in detectors]
        empty: Counts = np.zeros((1, self.scores.shape[1]), np.int64)
        self.scores = np.vstack([self.scores, empty])[source]
        self.score_sums = np.append(self.score_sums, 0.0)[source]
        self.detectors = tuple(detectors)
        self._window = window

    def observe(self, record: Record) -> None:
        """Takes in an exchange that is over."""
        decision = record.decision
        if decision is ALLOWED:
            self._allowed += 1
        else:
            self._explain(record)
        p = record.p_value
        if p is None:
            p = math.nan
        else:
            self._turn += 1
            if not self._turn % _SAMPLE:
                self._sampled.append(
                    record.signals
                    if record.answer_score is None
                    else record.signals | record.answer_signals
                )
        if record.answer_score is None:
            self._noted += _row.pack(p, math.nan, *_fields(record))
        else:
            self._judged(record)
            self._noted += _row.pack(p, record.answer_p_value, *_fields(record))
        if record.shaped:
            self.shaped += 1
        if len(self._noted) >= _BATCH * _row.size:
            self.fold()

    def fold(self) -> None:
        """Brings every number up to date."""
        if not self._noted:
            return
        self.decisions[_PLAIN] = self.decisions.get(_PLAIN, 0) + self._allowed
        self._allowed = 0
        table = np.frombuffer(self._noted).reshape(-1, _COLUMNS)
        self._noted = bytearray()
        marks, counts = table[:, 2 : 2 + _MARKS], table[:, 2 + _MARKS :]
        self._fold_times(marks)
        self._fold_scores(table[:, 0], table[:, 1], counts[:, 0], counts[:, 1])
        rows, _, request_bytes, response_bytes = counts[:, :4].sum(axis=0)
        self.rows += int(rows)
        self.request_bytes += int(request_bytes)
        self.response_bytes += int(response_bytes)
        hundreds = np.clip(counts[:, 4] // 100, 0, 5).astype(np.int64)
        self.statuses += np.bincount(hundreds, minlength=6)

    def _explain(self, record: Record) -> None:
        decision = record.decision
        taken = decision.action, decision.enforced
        self.decisions[taken] = self.decisions.get(taken, 0) + 1
        if decision.reasons:
            key = decision.reasons[0].rule.id, decision.enforced is not Action.ALLOW
            self.refusals[key] = self.refusals.get(key, 0) + 1
            for reason in decision.reasons:
                if reason.rule in PATTERNS:
                    self.alarms[reason.rule.id] = self.alarms.get(reason.rule.id, 0) + 1
        if record.fault:
            self.faults[record.fault] = self.faults.get(record.fault, 0) + 1
            if decision.enforced not in _REFUSED:
                self.failed_open[record.fault] = self.failed_open.get(record.fault, 0) + 1

    def _judged(self, record: Record) -> None:
        self.judged_rows += record.rows
        self.disagreeing_rows += record.answer_flagged_rows
        if record.suspicious_rows:
            result = "failed" if record.opinion_fault else "heard"
            self.opinions[result] += record.asked_rows
            self.opinions["declined"] += record.suspicious_rows - record.asked_rows
            self.opinion_rows += record.opinion_rows

    def _fold_times(self, marks: _Floats) -> None:
        reached = marks > 0
        # A stage that was not reached takes no time: its mark becomes the one before.
        at = np.maximum.accumulate(marks, axis=1)
        spans = np.empty((len(marks), _SPANS))
        np.subtract(at[:, 1:], at[:, :-1], out=spans[:, :_TOTAL])
        spans[:, _TOTAL] = at[:, -1] - at[:, 0]
        spans[:, _OVERHEAD] = at[:, -1] - at[:, 1] - spans[:, _UPSTREAM]
        counted = np.empty(spans.shape, bool)
        counted[:, :_TOTAL] = reached[:, 1:]
        counted[:, _TOTAL] = reached[:, -1]
        counted[:, _OVERHEAD] = reached[:, -1] & reached[:, 1]
        _tally(self.spans, self.seconds, spans, counted, _SECONDS)

    def _fold_scores(self, p: _Floats, answered: _Floats, rows: _Floats, flagged: _Floats) -> None:
        scored = ~np.isnan(p)
        if not scored.any():
            return
        both = np.stack([p, answered], axis=1)
        _tally(self.scores[:_OWN], self.score_sums[:_OWN], _score(both), ~np.isnan(both), _SCORES)
        n, alerts = int(rows[scored].sum()), int(flagged[scored].sum())
        self.scored_rows += n
        self.flagged_rows += alerts
        if self._window is not None:
            self._window.add(n, alerts, int(np.count_nonzero(flagged[scored])))
        if self._sampled and self.detectors:
            each = np.array(
                [[s.get(name, math.nan) for name in self.detectors] for s in self._sampled]
            )
            _tally(
                self.scores[_OWN:], self.score_sums[_OWN:], _score(each), ~np.isnan(each), _SCORES
            )
        self._sampled.clear()


def _score(p: _Floats) -> _Floats:
    """-log10 p, as (n, k)."""
    scores: _Floats = -np.log10(np.maximum(p, _LEAST_P))
    return scores.reshape(len(p), -1)


def _tally(
    counts: Counts,
    sums: _Floats,
    values: _Floats,
    counted: npt.NDArray[np.bool_],
    bounds: _Floats,
) -> None:
    """Adds (n, k) ``values``, where ``counted``, to k histograms in (k, b + 1) ``counts``."""
    buckets = np.searchsorted(bounds, values) + np.arange(counts.shape[0]) * counts.shape[1]
    counts += np.bincount(buckets[counted], minlength=counts.size).reshape(counts.shape)
    sums += np.where(counted, values, 0.0).sum(axis=0)
