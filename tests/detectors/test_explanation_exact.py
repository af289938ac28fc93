"""Contributions from a score's own form: they sum to it, and find what was planted."""

import itertools

import numpy as np
import pytest
from explained_scorers import scorer_of
from outlier_kinds import every_kind

from detectors.explanation_exact import attribute

EXACT = ("mahalanobis", "pca", "knn", "gmm", "isolation_forest")
FEATURES = 9


def draw(seed, count=900):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(FEATURES, FEATURES)) / 3
    return (rng.normal(size=(count, FEATURES)) @ mix + rng.normal(size=FEATURES)).astype(np.float32)


@pytest.fixture(scope="module")
def rows():
    return draw(1)


@pytest.fixture(scope="module")
def fitted(rows):
    scorer = scorer_of(rows, EXACT)
    return {detector.name: detector for detector in scorer.detectors}


def queries(rows):
    rng = np.random.default_rng(2)
    spread = rng.choice([0.5, 1, 5, 1e4], size=(60, 1))
    honest = rows[rng.integers(0, len(rows), 60)]
    return np.vstack([rows[:20], honest * spread]).astype(np.float32)


@pytest.mark.parametrize("kind", EXACT)
def test_contributions_sum_to_the_score_above_its_baseline(kind, fitted, rows):
    detector, asked = fitted[kind], queries(rows)
    scores = detector.score(asked)
    seen = 0
    for index, score in enumerate(scores.tolist()):
        found = attribute(detector, asked[index : index + 1], score)
        assert found is not None
        assert found.contributions.shape == (FEATURES,)
        whole = found.baseline + found.contributions.sum()
        assert whole == pytest.approx(score, rel=1e-9, abs=1e-9)
        seen += 1
    assert seen == 80


@pytest.mark.parametrize("kind", ["mahalanobis", "pca", "knn"])
def test_a_distance_has_no_baseline(kind, fitted, rows):
    row = rows[:1] * 3
    assert attribute(fitted[kind], row, float(fitted[kind].score(row)[0])).baseline == 0.0


@pytest.fixture(scope="module")
def independent():
    """Detectors of independent features: nothing but a planted one is at fault."""
    rng = np.random.default_rng(3)
    scorer = scorer_of(rng.normal(size=(900, FEATURES)).astype(np.float32), EXACT)
    return {detector.name: detector for detector in scorer.detectors}


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("planted", [0, 4, FEATURES - 1])
def test_a_planted_feature_is_found(kind, planted, independent):
    row = np.zeros((1, FEATURES), np.float32)
    row[0, planted] = 9.0
    found = attribute(independent[kind], row, float(independent[kind].score(row)[0]))
    assert found.contributions.argmax() == planted
    positive = np.maximum(found.contributions, 0)
    assert positive[planted] > 0.6 * positive.sum()


def test_a_quadratic_form_s_contributions_are_shapley_values_against_the_mean(fitted, rows):
    detector = fitted["mahalanobis"]
    row = rows[:1] * 4
    mean = detector.projection.mean.astype(np.float32)
    found = attribute(detector, row, float(detector.score(row)[0]))

    def worth(chosen):
        mixed = np.where(np.isin(np.arange(FEATURES), chosen), row[0], mean)[None]
        return float(detector.score(mixed.astype(np.float32))[0])

    feature, others = 2, [j for j in range(FEATURES) if j != 2]
    marginals = []
    for size in range(FEATURES):
        gains = [
            worth([*some, feature]) - worth(list(some))
            for some in itertools.combinations(others, size)
        ]
        marginals.append(np.mean(gains))
    assert found.contributions[feature] == pytest.approx(np.mean(marginals), rel=1e-4)


def test_equal_features_share_equally():
    rng = np.random.default_rng(4)
    half = rng.normal(size=(900, 3))
    honest = np.hstack([half, half]).astype(np.float32)
    honest += rng.normal(size=honest.shape).astype(np.float32)
    # The rows and the same rows with their halves swapped: the two halves are interchangeable.
    honest = np.vstack([honest, honest[:, [3, 4, 5, 0, 1, 2]]])
    from detectors.training import estimators

    space = estimators.Space(honest, 0)
    row = np.array([[5, -1, 0, 5, -1, 0]], np.float32)
    for make in (estimators.fit_mahalanobis, estimators.fit_pca):
        detector = make(space)
        contributions = attribute(detector, row, float(detector.score(row)[0])).contributions
        np.testing.assert_allclose(contributions[:3], contributions[3:], rtol=1e-4, atol=1e-4)


def test_nothing_is_claimed_of_a_detector_without_a_form_of_its_own(rows):
    scorer = scorer_of(rows, ("one_class_svm",))
    assert attribute(scorer.detectors[0], rows[:1], 1.0) is None


def test_a_form_that_misses_the_score_is_not_used(fitted, rows):
    score = float(fitted["pca"].score(rows[:1])[0])
    assert attribute(fitted["pca"], rows[:1], score + 1.0) is None


def test_a_value_that_is_not_finite_yields_nothing(fitted, rows):
    row = rows[:1].copy()
    row[0, 3] = np.nan
    for detector in fitted.values():
        assert attribute(detector, row, float("nan")) is None


def test_a_sum_over_features_is_taken_as_it_is():
    class Sum:
        def parts(self, rows):
            return rows.astype(np.float64)

    found = attribute(Sum(), np.array([[1, 2, 3]], np.float32), 6.0)
    assert found.contributions.tolist() == [1, 2, 3]
    assert (found.method, found.baseline) == ("exact", 0.0)


SAMPLED = {"one_class_svm", "lof", "component_distance", "cblof", "loda"}


def test_every_kind_is_exact_or_known_not_to_be(rows):
    asked, exact = queries(rows), set()
    detectors = every_kind(rows)
    for detector in detectors:
        scores = detector.score(asked).tolist()
        found = [
            attribute(detector, asked[index : index + 1], score)
            for index, score in enumerate(scores)
        ]
        if detector.name in SAMPLED:
            assert found == [None] * len(asked), detector.name
        else:
            whole = [one.baseline + one.contributions.sum() for one in found]
            np.testing.assert_allclose(whole, scores, rtol=1e-7, err_msg=detector.name)
            exact.add(detector.name)
    assert exact | SAMPLED == {detector.name for detector in detectors}
    assert len(exact) >= 12
