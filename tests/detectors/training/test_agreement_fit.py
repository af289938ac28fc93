"""How agreement detectors are fitted: the views, the witnesses, and what they find."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.agreement.base import Answers
from detectors.agreement.gradients import DIRECTIONS, histograms, window_means
from detectors.agreement.packing import pack
from detectors.training.agreement import (
    DEFAULT_AGREEMENT,
    fit_agreement,
    fit_answer_scorer,
    fit_opinions,
    fit_residual,
)
from detectors.training.agreement_lesson import (
    SAMPLE,
    Lesson,
    components,
    fit_gradients,
    fit_space,
    image_shape,
)
from detectors.training.agreement_witnesses import FITTERS, Sums, gaussian, ridge, temperature


def blobs(count=120, features=6, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % classes).astype(np.int64)
    rows = rng.normal(size=(classes, features))[labels] * 3 + rng.normal(size=(count, features))
    return rows.astype(np.float32), labels


@pytest.mark.parametrize(
    ("row_shape", "features", "expected"),
    [
        (None, 64, None),
        ((64,), 64, None),
        ((8, 8), 64, (8, 8, 1, False)),
        ((16, 4), 64, None),
        ((28, 28, 1), 784, (28, 28, 1, False)),
        ((1, 28, 28), 784, (28, 28, 1, True)),
        ((32, 32, 3), 3072, (32, 32, 3, False)),
        ((3, 32, 32), 3072, (32, 32, 3, True)),
        ((7, 7, 7), 343, None),
        ((2, 3, 4, 5), 120, None),
    ],
)
def test_what_counts_as_an_image(row_shape, features, expected):
    assert image_shape(row_shape, features) == expected


def test_a_shape_must_hold_the_features():
    with pytest.raises(ValueError, match="do not have 63 features"):
        image_shape((8, 8), 63)


def test_every_default_is_known():
    assert len(DEFAULT_AGREEMENT) == 4
    assert {kind for kinds in DEFAULT_AGREEMENT.values() for kind in kinds} <= set(FITTERS)


def test_a_fit_is_repeatable_and_follows_its_seed():
    rows, labels = blobs(count=400, features=25)
    kinds = ["knn_agreement", "kernel_agreement", "noisy_gradient_agreement"]

    def arrays(seed):
        fitted = fit_agreement(rows, labels, classes=3, kinds=kinds, row_shape=(5, 5), seed=seed)
        return pack(fitted)[1]

    one, again, other = arrays(1), arrays(1), arrays(2)
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(one["kernel_agreement/centres"], other["kernel_agreement/centres"])


def test_classes_without_examples_are_possible_answers_and_never_believed():
    rows, labels = blobs()
    labels = np.where(labels == 1, 0, labels)  # nothing is of class 1; class 3 and 4 have one row
    labels[:2] = [3, 4]
    for detector in fit_agreement(rows, labels, classes=6, kinds=list(FITTERS)[:2]):
        opinion = detector.opinion(rows)
        assert opinion.shape == (len(rows), 6) and bool(np.isfinite(opinion).all())
        assert not np.isin(opinion.argmax(axis=1), [1, 5]).any()
        named = detector.score(rows, Answers.of_labels(np.full(len(rows), 5)))
        assert float(np.median(named)) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows, labels: (rows[:5], labels[:5]), "to learn from"),
        (lambda rows, labels: (rows, labels[:-1]), "to learn from"),
        (lambda rows, labels: (rows, labels + 1), "not one of the 3 classes"),
        (lambda rows, labels: (rows, labels - 1), "not one of the 3 classes"),
    ],
)
def test_lessons_that_cannot_be_learnt_are_refused(change, message):
    rows, labels = change(*blobs())
    with pytest.raises(ValueError, match=message):
        fit_agreement(rows, labels, classes=3)


def test_unknown_kinds_and_missing_images_are_refused_in_words():
    rows, labels = blobs()
    with pytest.raises(ValueError, match="unknown agreement detector 'oracle'"):
        fit_agreement(rows, labels, classes=3, kinds=["oracle"])
    with pytest.raises(ValueError, match="not of an image's shape"):
        fit_agreement(rows, labels, classes=3, kinds=["gradient_agreement"])
    with pytest.raises(ValueError, match="unknown second opinion 'oracle'"):
        fit_opinions(rows, ["oracle"])
    with pytest.raises(ValueError, match="targets to learn from"):
        fit_residual(rows, np.full(len(rows), np.nan))


def test_images_that_are_all_alike_fall_back_on_the_other_witnesses():
    labels = (np.arange(60) % 2).astype(np.int64)
    rows = np.repeat(labels[:, None], 100, axis=1).astype(np.float32)  # flat: no edges at all
    fitted = fit_agreement(rows, labels, classes=2, row_shape=(10, 10))
    assert [one.name for one in fitted] == ["knn_agreement", "kernel_agreement"]


def test_components_of_wide_rows_are_those_of_their_covariance():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(8, SAMPLE + 50))
    wide = rng.normal(size=(200, 8)) * np.arange(9, 1, -1) @ mix
    wide -= wide.mean(axis=0)
    found = components(wide)
    np.testing.assert_allclose(found @ found.T, np.eye(len(found)), atol=1e-6)
    spans = np.linalg.svd(wide, full_matrices=False)[2][:8]
    np.testing.assert_allclose(np.abs(np.sum(found[:8] * spans, axis=1)), 1.0, atol=1e-6)


def test_a_space_keeps_large_means_apart():
    rng = np.random.default_rng(1)
    rows = (rng.normal(size=(100, 3)) + 1e5).astype(np.float32)
    seen = fit_space(rows, image=False).apply(rows)
    assert np.abs(seen.mean(axis=0)).max() < 1e-3
    assert np.allclose(np.square(seen).sum(axis=1).mean(), 3.0, atol=0.1)


def test_sums_in_chunks_are_a_ridge_regression():
    rng = np.random.default_rng(2)
    rows, targets = rng.normal(size=(90, 4)), rng.normal(size=(90, 2))
    centres = rows[:15]
    sums, parts = Sums(15, 2), []
    sums.add(rows, targets, centres, 0.3)
    for place in (slice(0, 40), slice(40, 90)):
        part = Sums(15, 2)
        part.add(rows[place], targets[place], centres, 0.3)
        parts.append(part)
    direct = ridge(gaussian(rows, centres, 0.3), targets, 0.1)
    for found in (sums.solve(0.1), (parts[0] + parts[1]).solve(0.1)):
        for one, other in zip(found, direct, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)


def test_the_temperature_is_the_most_likely_one():
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(4000, 3)) * 2
    chances = np.exp(logits * 0.5) / np.exp(logits * 0.5).sum(axis=1, keepdims=True)
    labels = (rng.random((4000, 1)) > chances.cumsum(axis=1)).sum(axis=1)
    assert temperature(logits, labels) == pytest.approx(0.5, rel=0.15)


@given(st.floats(0.1, 50), st.floats(-5, 5), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_edges_do_not_depend_on_brightness_or_contrast(gain, shift, seed):
    images = np.random.default_rng(seed).random((2, 9, 11))
    down, across = window_means(9, 3), window_means(11, 4)
    plain = histograms(images, down, across, unit=1.0, floor=0.3)
    other = histograms(images * gain + shift, down, across, unit=gain, floor=0.3)
    assert plain.shape == (2, len(down) * len(across) * DIRECTIONS)
    np.testing.assert_allclose(plain, other, atol=1e-6)
    np.testing.assert_allclose(np.square(plain).sum(axis=1), 1.0, atol=1e-3)


def test_small_perturbations_do_not_show_in_the_edges():
    rng = np.random.default_rng(4)
    image = np.zeros((1, 12, 12))
    image[:, 3:9, 3:9] = 1.0
    down, across = window_means(12, 3), window_means(12, 3)
    plain = histograms(image, down, across, unit=1.0, floor=0.3)
    noisy = image + 0.1 * np.sign(rng.normal(size=image.shape))
    found = histograms(noisy, down, across, unit=1.0, floor=0.3)
    without = histograms(noisy, down, across, unit=1.0, floor=0.0)
    clean = histograms(image, down, across, unit=1.0, floor=0.0)
    assert np.linalg.norm(found - plain) < 0.5 * np.linalg.norm(without - clean)


def test_channels_first_and_last_are_the_same_image():
    rng = np.random.default_rng(5)
    images = rng.random((40, 3, 6, 7)).astype(np.float32)
    first = images.reshape(40, -1)
    last = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).reshape(40, -1)
    views = [
        fit_gradients(rows, image_shape(shape, 126))
        for rows, shape in ((first, (3, 6, 7)), (last, (6, 7, 3)))
    ]
    np.testing.assert_allclose(
        views[0].histograms(first), views[1].histograms(last), rtol=1e-5, atol=1e-7
    )


def test_noisy_copies_stay_within_the_rows_range():
    rows, labels = blobs(count=60, features=25)
    copies = Lesson(rows, labels, 3, (5, 5), 0).noisy()
    assert len(copies) == 2
    for copy in copies:
        assert copy.dtype == np.float32 and copy.shape == rows.shape
        assert bool((copy >= rows.min(axis=0)).all() and (copy <= rows.max(axis=0)).all())
        assert not np.array_equal(copy, rows)


def test_attacks_on_a_model_of_digits_are_found():
    """Gradient signs against a linear model of scikit-learn's digits, and the least change that
    turns its answer, at a budget of 3 %, which the model's own mistakes nearly use up."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    rows, labels = (images[order] / 16).astype(np.float32), labels[order].astype(np.int64)
    model = LogisticRegression(C=1.0, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(rows[:700], labels[:700])

    def ask(given_rows):
        return Answers.of_probabilities(model.predict_proba(given_rows))

    merged = np.random.default_rng(1).exponential(size=len(rows))  # an input stage that knows none
    parts = [slice(700, 1000), slice(1000, 1500)]
    detectors = fit_agreement(rows[:700], labels[:700], classes=10, row_shape=(8, 8))
    a, b = ((rows[part], ask(rows[part]), merged[part]) for part in parts)
    scorer = fit_answer_scorer(detectors, a=a, b=b, alpha=0.03, delta=0.05)
    held, truth = rows[1500:], labels[1500:]
    right = ask(held).labels == truth
    held, truth = held[right], truth[right]
    assert scorer.score(held, ask(held), merged[: len(held)]).flagged.mean() <= 0.03
    weights = model.coef_
    scores = model.decision_function(held)
    scores[np.arange(len(held)), truth] = -np.inf
    gap = weights[scores.argmax(axis=1)] - weights[truth]
    signs = np.clip(held + 0.2 * np.sign(gap), 0, 1).astype(np.float32)
    margin = np.einsum("ij,ij->i", gap, held) + (
        model.intercept_[scores.argmax(axis=1)] - model.intercept_[truth]
    )
    step = -1.1 * margin / np.square(gap).sum(axis=1)
    least = (held + step[:, None] * gap).astype(np.float32)
    for name, attack, found in (("signs", signs, 0.9), ("least", least, 0.35)):
        answers = ask(attack)
        fooled = answers.labels != truth
        assert fooled.sum() > 100, name
        verdicts = scorer.score(attack[fooled], answers[fooled], merged[: int(fooled.sum())])
        assert verdicts.flagged.mean() > found, name
