import numpy as np
import pytest
from tiny_endpoint import Model, refusing, tiny_means, tiny_model

from loadtest.attacks.tables import wilson
from loadtest.drivers import judging
from loadtest.targets.base import Reply, Said


@pytest.mark.parametrize(("count", "total"), [(0, 10), (3, 10), (10, 10), (170, 200)])
def test_a_share_has_wilsons_interval(count, total):
    found = judging.share(count, total)
    assert found.value == count / total
    assert (found.low, found.high) == pytest.approx(wilson(count, total), abs=1e-4)


def test_a_share_of_nothing_is_not_known():
    nothing = judging.share(0, 0)
    assert (nothing.low, nothing.high) == (0, 1)


def test_an_area_is_the_chance_that_a_member_scores_higher():
    random = np.random.default_rng(0)
    members, others = random.normal(1, 1, 50).round(1), random.normal(0, 1, 40).round(1)
    pairs = [(m > o) + 0.5 * (m == o) for m in members for o in others]
    assert judging.area(members, others).value == pytest.approx(np.mean(pairs))


def test_a_perfect_area_has_an_interval_and_more_rows_a_narrower_one():
    few = judging.area([1.0] * 5, [0.0] * 5)
    many = judging.area([1.0] * 500, [0.0] * 500)
    assert few.value == many.value == few.high == 1.0
    assert 0.5 < few.low < 0.8 < many.low < 1.0
    assert judging.area([], [0.0]).low == 0.0


def test_the_interval_of_an_area_holds_it_as_often_as_it_says():
    random = np.random.default_rng(1)
    truth = 0.7602  # of normal scores one deviation apart: the normal distribution at 1 / sqrt 2
    held = 0
    for _ in range(400):
        found = judging.area(random.normal(1, 1, 40), random.normal(0, 1, 40))
        held += found.low <= truth <= found.high
    assert 0.92 <= held / 400 <= 0.99


def test_a_mean_has_students_interval():
    found = judging.mean([0.4, 0.5, 0.6], -1, 1)
    assert found.value == pytest.approx(0.5)
    assert found.high - found.value == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)
    alone = judging.mean([0.4], -1, 1)
    assert (alone.low, alone.high) == (-1, 1)


class Answers(Model):
    def __init__(self, reply):
        super().__init__(tiny_model())
        self.reply = reply

    def ask(self, row, client):
        return self.reply


def test_a_judge_that_cannot_judge_is_an_error():
    means = tiny_means(tiny_model())
    with pytest.raises(ValueError, match="none of the rows"):
        judging.labels(Answers(refusing(None, 1, "")), means.test, means)
    with pytest.raises(ValueError, match="classifier"):
        judging.labels(Answers(Reply(Said.ANSWERED, 200, np.ones(1), -1)), means.test, means)
