"""An answer scorer whose verdicts are plain: a row disagrees with a label that is not its first
value, by as much.
"""

from dataclasses import dataclass

import numpy as np

from detectors.agreement.scorer import AnswerScorer
from detectors.calibration import Calibration, Tail

CLASSES = ("cat", "dog", "eel")


@dataclass
class Distance:
    """The distance of a row's first value from its label; fails as it is told."""

    features: int = 4
    outputs: int = len(CLASSES)
    name: str = "distance"
    needs: str = "labels"
    fault: Exception | None = None

    def score(self, rows, answers):
        if self.fault is not None:
            raise self.fault
        return np.abs(rows[:, 0] - answers.labels).astype(np.float64)


@dataclass
class Doubled:
    """Asks about twice the row, and about the row plus one; a copy that gets another label than
    its row has adds 50."""

    features: int = 4
    name: str = "doubled"
    needs: str = "labels"
    copies: int = 2

    def views(self, rows):
        return np.stack([rows * 2, rows + 1], axis=1).reshape(-1, rows.shape[1])

    def score(self, answers, again):
        changed = again.labels.reshape(-1, 2) != answers.labels[:, None]
        return changed.sum(axis=1) * 50.0


def plain(scale=1.0):
    """Evidence that is the score, from 0 to 100, and 5 more at most beyond."""
    return Tail(np.array([0.0, 100.0]), np.array([0.0, 100.0 * scale]), 1.0, 1e9)


def scorer(*, opinions=False, handicap=0.0, suspicion=5.0, detector=None):
    """Flags a row whose merged score and distance are above 20 together; above ``suspicion`` a
    second opinion is worth asking for."""
    return AnswerScorer(
        [detector or Distance()],
        [plain()],
        entry=plain(),
        total=plain(),
        calibration=Calibration.of(np.linspace(0, 20, 5000), 0.01, 0.05),
        classes=CLASSES,
        handicap=handicap,
        opinions=[Doubled()] if opinions else (),
        opinion_tails=[plain()] if opinions else (),
        final=plain() if opinions else None,
        suspicion=suspicion if opinions else np.inf,
    )
