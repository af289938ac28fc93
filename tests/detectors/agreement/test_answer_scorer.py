"""The joint score over all steps: its budget, its order, its fast path."""

import agreement_worlds as made
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.agreement.base import Answers
from detectors.agreement.packing import pack, unpack
from detectors.agreement.scorer import AnswerScorer, _Curve
from detectors.calibration import BudgetError, Calibration, Tail
from detectors.scorer import ScoreFault
from detectors.training.agreement import fit_agreement, fit_answer_scorer, fit_opinions
from detectors.training.tails import fit_tail

ALPHA, DELTA = 0.05, 0.05


@pytest.fixture(scope="module")
def part():
    """A model that is right but for a few rows, and the input's merged scores."""
    rows, labels, classes = made.world("table")
    rng = np.random.default_rng(2)

    def of(start, stop):
        wrong = rng.random(stop - start) < 0.02
        answers = made.told((labels[start:stop] + wrong) % classes, classes)
        return rows[start:stop], answers, rng.exponential(size=stop - start)

    return of


def ask(rows):
    """The model once more: the nearest centre of the world's classes."""
    known, labels, classes = made.world("table")
    centres = np.stack([known[labels == c].mean(axis=0) for c in range(classes)])
    gaps = np.square(rows[:, None] - centres).sum(axis=2)
    return made.told(gaps.argmin(axis=1), classes)


@pytest.fixture(scope="module")
def scorer(part):
    rows, labels, classes = made.world("table")
    detectors = fit_agreement(rows[:150], labels[:150], classes=classes)
    return fit_answer_scorer(
        detectors, a=part(150, 250), b=part(250, 420), alpha=ALPHA, delta=DELTA, classes="abc"
    )


@pytest.fixture(scope="module")
def asking(part):
    rows, labels, classes = made.world("table")
    detectors = fit_agreement(rows[:150], labels[:150], classes=classes)
    opinions = fit_opinions(rows[:150], ["feature_squeezing", "noise_consistency"], seed=1)
    return fit_answer_scorer(
        detectors,
        a=part(150, 250),
        b=part(250, 420),
        alpha=ALPHA,
        delta=DELTA,
        opinions=opinions,
        ask=ask,
    )


def test_defaults_follow_the_rows():
    names = {}
    for world, shape in made.SHAPES.items():
        rows, labels, classes = made.world(world)
        fitted = fit_agreement(rows, labels, classes=classes, row_shape=shape)
        names[world] = tuple(one.name for one in fitted)
    images = ("gradient_agreement", "noisy_gradient_agreement")
    assert names == {
        "table": ("knn_agreement", "kernel_agreement", "class_density"),
        "wide": ("knn_agreement", "kernel_agreement"),
        "image": images,
        "colour": images,
        "pixels": images,
    }


def test_small_images_count_their_density_too():
    rng = np.random.default_rng(0)
    rows = rng.random((60, 36)).astype(np.float32)
    fitted = fit_agreement(rows, np.arange(60) % 2, classes=2, row_shape=(6, 6))
    names = [one.name for one in fitted]
    assert names == ["knn_agreement", "noisy_gradient_agreement", "class_density"]


def test_right_answers_pass_and_wrong_ones_do_not(scorer, part):
    rows, _, merged = part(0, 150)
    _, labels, classes = made.world("table")
    right = scorer.score(rows, made.told(labels[:150], classes), merged)
    wrong = scorer.score(rows, made.told((labels[:150] + 1) % classes, classes), merged)
    assert right.flagged.mean() <= ALPHA
    assert wrong.flagged.mean() > 0.95
    assert right.names == scorer.names and right.scores.shape == (150, 3)
    assert bool((right.p_values > 0).all()) and bool((wrong.detector_p_values > 0).all())


def test_no_calibration_row_beyond_the_rank_is_flagged(part):
    rows, labels, classes = made.world("table")
    detectors = fit_agreement(rows[:150], labels[:150], classes=classes)
    b = part(250, 420)
    fitted = fit_answer_scorer(detectors, a=part(150, 250), b=b, alpha=ALPHA, delta=DELTA)
    assert fitted.score(*b).flagged.sum() == fitted.calibration.rank - 1
    one_by_one = [
        bool(fitted.score(b[0][k : k + 1], b[1][k : k + 1], b[2][k : k + 1]).flagged[0])
        for k in range(len(b[0]))
    ]
    assert sum(one_by_one) == fitted.calibration.rank - 1


def test_a_row_alone_scores_as_in_a_batch(scorer, part):
    rows, answers, merged = part(0, 60)
    batch = scorer.score(rows, answers, merged)
    for k in range(60):
        place = slice(k, k + 1)
        alone = scorer.score(rows[place], answers[place], merged[place])
        for name in ("merged", "p_values", "flagged", "scores", "detector_p_values"):
            np.testing.assert_allclose(
                getattr(alone, name)[0], getattr(batch, name)[k], rtol=1e-9, atol=1e-9
            )


def test_the_input_alone_is_flagged_where_the_whole_would_be(scorer, part):
    rows, answers, _ = part(0, 150)
    limit = scorer.input_threshold
    above = np.full(150, limit + 1e-3 * max(1.0, abs(limit)))
    assert bool(scorer.score(rows, answers, above).flagged.all())
    # Just below, the entry by itself does not reach the threshold.
    entry = scorer.entry(np.array([limit - 1e-3 * max(1.0, abs(limit))]))
    assert float(entry[0]) - scorer.handicap < scorer.threshold


def test_a_larger_budget_has_a_lower_threshold(scorer):
    assert scorer.with_budget(0.2, DELTA).threshold < scorer.threshold
    assert scorer.with_budget(0.2, DELTA).input_threshold < scorer.input_threshold
    with pytest.raises(BudgetError):
        scorer.with_budget(1e-4, DELTA)


def test_faults_are_never_scores(scorer, part):
    rows, answers, merged = part(0, 5)
    for count in (1, 5):
        place = slice(0, count)
        for value in (np.nan, np.inf):
            spoilt = rows[place].copy()
            spoilt[0, 1] = value
            with pytest.raises(ScoreFault):
                scorer.score(spoilt, answers[place], merged[place])
            bad = merged[place].copy()
            bad[0] = value
            with pytest.raises(ScoreFault):
                scorer.score(rows[place], answers[place], bad)
        with pytest.raises(ValueError, match="labels"):
            scorer.score(rows[place], Answers(), merged[place])
        with pytest.raises(ValueError, match="merged"):
            scorer.score(rows[place], answers[place], merged[:0])
    empty = scorer.score(rows[:0], answers[:0], merged[:0])
    assert empty.flagged.shape == (0,)


def test_asked_again_only_adds_suspicion(asking, part):
    rows, answers, merged = part(0, 150)
    again = [ask(opinion.views(rows)) for opinion in asking.opinions]
    before = asking.score(rows, answers, merged)
    after = asking.reconsider(rows, answers, merged, again)
    assert bool((after.merged >= before.merged).all())
    heard = before.merged > asking.suspicion
    assert bool((after.merged[~heard] == before.merged[~heard]).all())
    assert after.scores.shape == (150, 5) and after.names[-1] == "noise_consistency"
    assert bool((asking.suspicious(before) == (heard & ~before.flagged)).all())
    with pytest.raises(ValueError, match="second opinions"):
        asking.reconsider(rows, answers, merged, again[:1])


def test_a_model_that_answers_otherwise_when_asked_again_is_suspicious(asking, part):
    rows, _, merged = part(0, 150)
    _, labels, classes = made.world("table")
    wrong = made.told((labels[:150] + 1) % classes, classes)
    again = [ask(opinion.views(rows)) for opinion in asking.opinions]
    asked = asking.reconsider(rows, wrong, merged, again)
    assert np.median(asked.scores[:, -1]) > 1  # nats against the answer, over the copies
    assert bool((asked.merged >= asking.score(rows, wrong, merged).merged).all())


def test_second_opinions_need_the_model(part):
    rows, labels, classes = made.world("table")
    detectors = fit_agreement(rows[:150], labels[:150], classes=classes)
    opinions = fit_opinions(rows, ["noise_consistency"])
    with pytest.raises(ValueError, match="asking the model"):
        fit_answer_scorer(
            detectors,
            a=part(150, 250),
            b=part(250, 420),
            alpha=ALPHA,
            delta=DELTA,
            opinions=opinions,
        )


def test_what_the_answers_lack_is_left_out(part):
    rows, labels, classes = made.world("table")
    kinds = ["knn_agreement", "confidence"]
    detectors = fit_agreement(rows[:150], labels[:150], classes=classes, kinds=kinds)

    def bare(start, stop):
        rows, answers, merged = part(start, stop)
        return rows, Answers(answers.labels), merged

    parts = {"a": bare(150, 250), "b": bare(250, 420), "alpha": ALPHA, "delta": DELTA}
    assert fit_answer_scorer(detectors, **parts).names == ("knn_agreement",)
    with pytest.raises(ValueError, match="none of the agreement detectors"):
        fit_answer_scorer(detectors[1:], **parts)


def test_an_unpacked_scorer_decides_the_same(asking, part):
    detectors, opinions = unpack(*pack(asking.detectors, asking.opinions))
    copied = AnswerScorer(
        detectors,
        asking.tails,
        entry=asking.entry,
        total=asking.total,
        calibration=asking.calibration,
        classes=asking.classes,
        handicap=asking.handicap,
        opinions=opinions,
        opinion_tails=asking.opinion_tails,
        final=asking.final,
        suspicion=asking.suspicion,
    )
    given_part = part(0, 50)
    np.testing.assert_array_equal(
        copied.score(*given_part).merged, asking.score(*given_part).merged
    )


def test_regression_models_are_doubted_by_their_values():
    rows, values, detector = made.regression()
    rng = np.random.default_rng(4)
    merged = rng.exponential(size=len(rows))
    told = Answers.of_values(values + 0.01 * rng.normal(size=values.shape))
    fitted = fit_answer_scorer(
        [detector],
        a=(rows[320:], told[320:], merged[320:]),
        b=(rows[:320], told[:320], merged[:320]),
        alpha=ALPHA,
        delta=DELTA,
    )
    pushed = Answers.of_values(values[:320] + 1.5)
    assert fitted.score(rows[:320], pushed, merged[:320]).flagged.mean() > 0.9
    assert fitted.needs == {"values"} and fitted.classes is None


tails = st.builds(
    lambda scores, seed: fit_tail(np.random.default_rng(seed).normal(size=scores) * 3),
    st.integers(5, 200),
    st.integers(0, 99),
)


@given(tails, st.floats(-1e9, 1e9))
@settings(max_examples=60, deadline=None)
def test_one_score_s_evidence_is_the_tail_s(tail, score):
    assert _Curve(tail)(score) == pytest.approx(float(tail(np.array([score]))[0]), rel=1e-9)
    for knot in tail.knots:
        assert _Curve(tail)(float(knot)) == pytest.approx(float(tail(knot)), rel=1e-9)


def test_parts_that_do_not_fit_are_refused(scorer, asking):
    tail = Tail(np.array([0.0]), np.array([0.0]), 0.1, 1.0)
    calibration = Calibration.of(np.arange(100.0), ALPHA, DELTA)
    common = {"entry": tail, "total": tail, "calibration": calibration, "classes": None}
    wide = made.fitted("wide")
    with pytest.raises(ValueError, match="tail for each"):
        AnswerScorer(scorer.detectors, [tail], **common)
    with pytest.raises(ValueError, match="twice"):
        AnswerScorer([scorer.detectors[0]] * 2, [tail] * 2, **common)
    with pytest.raises(ValueError, match="number of features"):
        AnswerScorer([scorer.detectors[0], wide[1]], [tail] * 2, **common)
    with pytest.raises(ValueError, match="2 classes for detectors of 3"):
        AnswerScorer(scorer.detectors[:1], [tail], **{**common, "classes": ["a", "b"]})
    with pytest.raises(ValueError, match="second opinions"):
        AnswerScorer(scorer.detectors[:1], [tail], opinions=asking.opinions, **common)
    for handicap in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="handicap"):
            AnswerScorer(scorer.detectors[:1], [tail], handicap=handicap, **common)
    with pytest.raises(ValueError, match="suspicion"):
        AnswerScorer(scorer.detectors[:1], [tail], suspicion=float("nan"), **common)


def test_a_handicap_that_nothing_overcomes_leaves_the_input_to_the_answer(scorer, part):
    rows, answers, _ = part(0, 20)
    patient = AnswerScorer(
        scorer.detectors,
        scorer.tails,
        entry=scorer.entry,
        total=scorer.total,
        calibration=scorer.calibration,
        classes=None,
        handicap=1e6,
    )
    assert patient.input_threshold > 1e300
    far = np.full(20, 1e12)
    assert bool(patient.score(rows, answers, far).flagged.all())
