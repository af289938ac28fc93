from types import SimpleNamespace

import numpy as np
import pytest

from detectors.patterns.base import Alarm, Family, Scope
from loadtest.attacks.gateway import IMMEDIATE, SILENT, THROTTLE_SECONDS, Gateway, Told
from loadtest.attacks.guard import PACE

ANSWER = np.array([0.61, 0.39], np.float32)
ROW = np.zeros(3, np.float32)


class Level:
    """A tracker whose every query stands so far above its threshold."""

    def __init__(self, excess, scope=Scope.CLIENT):
        self.excess = excess
        self.scope = scope

    def observe(self, client, subnet, rows, p_values, now):
        if self.excess < 0:
            return []
        return [Alarm(Family.PROBING, self.scope, 14.0 + self.excess, 14.0, client)]


def gateway(tracker, ladder=SILENT):
    victim = SimpleNamespace(
        ask=lambda rows: np.tile(ANSWER, (len(rows), 1)), split=SimpleNamespace(classes=2)
    )
    guard = SimpleNamespace(p_values=lambda rows: np.ones(len(rows)))
    return Gateway(victim, guard, tracker, ladder)


@pytest.mark.parametrize(
    ("excess", "ladder", "told"),
    [
        (-1.0, SILENT, Told.ANSWERED),
        (0.0, SILENT, Told.SHAPED),
        (15.0, SILENT, Told.REFUSED),
        (0.0, IMMEDIATE, Told.REFUSED),
    ],
)
def test_the_ladder(excess, ladder, told):
    asked = gateway(Level(excess), ladder)
    answer, found = asked.ask("client", "subnet", ROW)
    assert found is told
    expected = {Told.ANSWERED: ANSWER, Told.SHAPED: np.array([0.6, 0.4]), Told.REFUSED: [0, 0]}
    assert answer == pytest.approx(expected[told], abs=1e-6)
    assert asked.first_alarm == (0 if excess < 0 else 1)
    assert asked.refused == (told is Told.REFUSED)


def test_a_throttled_client_has_a_coarse_answer_now_and_then():
    asked = gateway(Level(8.0))
    told = [asked.ask("client", "", ROW)[1] for _ in range(round(2.5 * THROTTLE_SECONDS / PACE))]
    assert told.count(Told.SHAPED) == 3
    assert told.count(Told.REFUSED) == len(told) - 3


def test_an_alarm_of_the_whole_endpoint_answers_nobody():
    asked = gateway(Level(30.0, Scope.ENDPOINT))
    assert asked.ask("client", "", ROW)[1] is Told.ANSWERED
    assert asked.first_alarm == 0


def test_with_nothing_in_the_way_all_is_answered():
    asked = gateway(None)
    assert asked.ask("client", "", ROW)[1] is Told.ANSWERED
