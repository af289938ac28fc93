"""What several end-to-end tests start from."""

import numpy as np
import pytest
from judging_server import FEATURES, probabilities

SEEN, UNSEEN = 700, 1600


@pytest.fixture(scope="session")
def judged(tmp_path_factory):
    """The folder of a linear model and of a bundle that judges it; rows that fitted neither."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    from detectors.agreement.base import Answers
    from detectors.training.fit import fit, write
    from detectors.training.readers import Table

    folder = tmp_path_factory.mktemp("judged")
    digits = load_digits()
    rows, labels = digits.data.astype(np.float32), digits.target
    model = LogisticRegression(max_iter=300).fit(rows[:SEEN], labels[:SEEN])
    weights, bias = model.coef_.T, model.intercept_
    np.savez(folder / "model.npz", weights=weights, bias=bias)

    def answers(given):
        return Answers.of_probabilities(probabilities(weights, bias, given))

    fitted = fit(
        rows[:UNSEEN],
        alpha=0.02,
        labels=labels[:UNSEEN].astype(str),
        answers=answers(rows[:UNSEEN]),
        seen=np.arange(UNSEEN) < SEEN,
        opinions=("noise_consistency",),
        ask=answers,
    )
    table = Table(rows[:UNSEEN], None, (FEATURES,))
    write(fitted, folder / "digits.bundle", table, created="2026-01-01T00:00:00+00:00")
    scorer = fitted.agreement.scorer
    rest = rows[UNSEEN:]
    said = answers(rest)
    merged = fitted.scorer.score(rest).merged
    honest = scorer.score(rest, said, merged)
    lied = Answers.of_probabilities(np.roll(said.probabilities, 1, axis=1))
    lies = scorer.score(rest, lied, merged)
    return {
        "folder": folder,
        "rest": rest,
        "plain": rest[~honest.flagged & ~scorer.suspicious(honest)],
        "foul": rest[lies.flagged & ~honest.flagged & ~scorer.suspicious(honest)],
        "doubtful": rest[scorer.suspicious(lies) & ~honest.flagged],
    }
