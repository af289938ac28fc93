"""Rows scored, and watched as their client's: on the way in, or, where the rows are in the answer,
on the way back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detectors.arrays import Floats
from detectors.base import Rows
from detectors.bundle import Bundle
from detectors.scorer import ScoreFault
from proxy import rules
from proxy.decision import Action, Reason
from proxy.visit import Scored, Visit


def found_in(visit: Visit, rows: Rows, bundle: Bundle, now: float) -> list[Reason]:
    """What is found of rows: outliers, and what the client's queries amount to with these.

    Notes in the record the worst of them, and how many are flagged.

    Args:
        rows: (n, d) float32, as on the wire.
        now: monotonic seconds.

    Raises:
        ScoreFault: if a detector fails.
    """
    p_values = _score(bundle, rows, visit)
    outlier = visit.endpoint.policy.outlier(visit.record.flagged_rows, len(rows))
    found = [] if outlier is None else [outlier]
    found += _patterns(visit, rows, p_values, now)
    return found


def _score(bundle: Bundle, rows: Rows, visit: Visit) -> Floats:
    """Scores (n, d) rows, notes the worst of them and how many are flagged, and returns the (n,)
    p-values."""
    scorer, record = bundle.scorer, visit.record
    if bundle.embedding is not None:
        rows = bundle.embedding.embed(rows)
    if len(rows) == 1 and visit.light:
        record.score, record.p_value, flagged = scorer.score_row(rows)
        record.signals = scorer.row_p_values()
        record.flagged_rows = int(flagged)
        if bundle.agreement is not None:
            visit.scored = Scored(rows, np.array((record.score,)), np.array((flagged,)))
        return np.array((record.p_value,))
    verdicts = scorer.score(rows)
    record.worst_row = worst = int(verdicts.merged.argmax())
    record.score = float(verdicts.merged[worst])
    record.p_value = float(verdicts.p_values[worst])
    record.signals = dict(
        zip(verdicts.names, verdicts.detector_p_values[worst].tolist(), strict=True)
    )
    record.flagged_rows = int(verdicts.flagged.sum())
    if bundle.agreement is not None:
        visit.scored = Scored(rows, verdicts.merged, verdicts.flagged)
    return verdicts.p_values


def _patterns(visit: Visit, rows: Rows, p_values: Floats, now: float) -> Sequence[Reason]:
    """What the client's queries amount to with these among them; mostly nothing."""
    if visit.heard is None or visit.light:
        return _watched(visit, rows, p_values, now)
    clients = visit.endpoint.clients
    with clients.turn:  # in a thread: others came in between
        visit.watched = clients.clock()
        return _watched(visit, rows, p_values, now)


def _watched(visit: Visit, rows: Rows, p_values: Floats, now: float) -> Sequence[Reason]:
    endpoint = visit.endpoint
    try:
        alarms = endpoint.clients.observe(visit.identity, rows, p_values, now)
    except ScoreFault as fault:
        return (Reason(rules.PATTERN_FAULT, str(fault)),)
    if not alarms:
        return ()
    policy = endpoint.policy
    reasons = [policy.pattern(alarm) for alarm in alarms]
    if any(reason.action is Action.THROTTLE for reason in reasons):
        wait = endpoint.clients.pace(visit.identity.client, len(rows), now)
        reasons = [policy.paced(reason, wait) for reason in reasons]
    return reasons
