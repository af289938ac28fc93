"""Exchanges to explain, and a bundle that scored them."""

from types import SimpleNamespace

import numpy as np

from detectors.agreement.base import Answers
from detectors.agreement.scorer import AnswerScorer
from detectors.bundle import Bundle
from detectors.calibration import Calibration
from detectors.examples import Examples
from detectors.outlier import Mahalanobis
from detectors.outlier.projection import Projection
from detectors.scorer import Scorer
from detectors.training.tails import fit_tail
from proxy import rules
from proxy.decision import Action, Decision, Reason
from proxy.telemetry.record import Record

CLIENT = "0123456789" * 3 + "01"
"""A pseudonym of digits alone, as one in many millions is."""
WALL = 1_900_000_000.0
DIGEST = "ab" * 32
SHAPE = (2, 3)
CLASSES = ("cat", "dog")

BLOCKED = Decision(
    Action.BLOCK, Action.BLOCK, (Reason(rules.OUTLIER, "1 of 1 rows passed the threshold"),)
)
DISAGREED = Decision(Action.BLOCK, Action.BLOCK, (Reason(rules.DISAGREEMENT, "1 of 2 rows"),))
LIMITED = Decision(Action.THROTTLE, Action.THROTTLE, (Reason(rules.CLIENT_RATE, "spent"),))


class FirstFeature:
    """A witness: a dog's first feature is positive."""

    name, needs, outputs, features = "first_feature", "labels", 2, 6

    def score(self, rows, answers):
        return np.where(answers.labels == 1, -1.0, 1.0) * rows[:, 0].astype(np.float64)


def bundle(*, shape=SHAPE, names=None, examples=True, agreement=True, digest=DIGEST):
    """A bundle of one detector, and one witness, for rows of six features."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 6)).astype(np.float32)
    projection = Projection(np.zeros(6), np.ones(6), np.eye(6))
    detector = Mahalanobis(projection, np.ones(6), 0.0)
    tail = fit_tail(detector.score(rows))
    merged = tail(detector.score(rows))
    scorer = Scorer([detector], [tail], Calibration.of(merged, 0.05, 0.05), engine="numpy")
    labels = (rows[:, 0] > 0).astype(np.int64)
    layout = None if shape is None else [SimpleNamespace(shape=shape)]
    return Bundle(
        digest,
        SimpleNamespace(layout=layout, feature_names=names, features=6),
        scorer,
        "none",
        agreement=_judge(rows, Answers.of_labels(labels), merged) if agreement else None,
        examples=Examples(rows[:50], labels[:50], CLASSES) if examples else None,
    )


def _judge(rows, answers, merged):
    witness, entry = FirstFeature(), fit_tail(merged)
    scores = witness.score(rows, answers)
    tail = fit_tail(scores)
    total = fit_tail(entry(merged) + tail(scores))

    def made(joint):
        calibration = Calibration.of(joint, 0.05, 0.05)
        return AnswerScorer(
            [witness], [tail], entry=entry, total=total, calibration=calibration, classes=CLASSES
        )

    return made(made(merged).score(rows, answers, merged).merged)


def record(exchange="one", decision=BLOCKED, *, client=CLIENT, rows=1, **more):
    """A record, as the pipeline leaves it."""
    fields = {"score": 9.0, "p_value": 0.001, "flagged_rows": 1, "bundle": DIGEST, "status": 403}
    return Record(
        exchange,
        0.0,
        0.0,
        endpoint="digits",
        client=client,
        decision=decision,
        rows=rows,
        **(fields | more),
    )


def odd_row(feature=4, value=30.0):
    """(1, 6) float32: nothing but this feature is odd."""
    row = np.zeros((1, 6), np.float32)
    row[0, feature] = value
    return row
