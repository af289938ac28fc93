"""From a statistic to evidence that adds up: p-values, bets, and the thresholds of a CUSUM of bets.

A p-value p becomes the bet ``e = 0.2 p^-0.8``, whose mean is at most 1 where p is valid (Vovk and
Wang 2021, "E-values: calibration, combination and applications", the calibrator k p^(k-1) with
k = 0.2). The mean of bets is one again, whatever their dependence, and so is ``1 - f + f e``. The
CUSUM ``S = max(0, S + log(1 - f + f e))`` is an e-detector (Shin, Ramdas and Rinaldo 2024): over n
honest queries it passes h with probability at most n exp(-h).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from detectors.arrays import Floats
from detectors.patterns.base import Family, Scope
from detectors.patterns.layout import SHARED_EQUAL, SHARED_NEAR

if TYPE_CHECKING:
    from detectors.patterns.model import PatternModel

EXPONENT: Final = 0.2
STAKE: Final = 0.2
"""f: the share that is bet on each query."""
LINEAGE_STAKE: Final = 0.3
CLOSE: Final = 10.0
"""The bet on its descent from which on a query answers for its lineage. An honest one may lie next
to an attack's by chance; an attack's own have bets of hundreds."""
SMALLEST_VOLUME: Final = 256
"""Distinct queries a day that a client is taken to have at least."""
HEADROOM: Final = 21.0
"""Nats above the threshold at which a level stays: what an honest client has to recover from."""

TIE: Final = 1e-9
"""Values this close count as equal: a logarithm's last digit differs between libraries, and values
of discrete rows recur exactly."""
NEGLIGIBLE: Final = 1.0
"""Nats below which evidence may be forgotten to make room."""

SHARES: Final = {
    (Scope.CLIENT, Family.PROBING): 0.4,
    (Scope.CLIENT, Family.EXTRACTION): 0.3,
    (Scope.SUBNET, Family.PROBING): 0.05,
    (Scope.SUBNET, Family.EXTRACTION): 0.05,
    (Scope.ENDPOINT, Family.PROBING): 0.05,
    (Scope.ENDPOINT, Family.EXTRACTION): 0.05,
    (Scope.LINEAGE, Family.PROBING): 0.1,
}
"""How the budget of false alarms is split; the shares add up to 1."""


def betting(p_values: Floats) -> Floats:
    """e-values of p-values."""
    bets: Floats = EXPONENT * p_values ** (EXPONENT - 1.0)
    return bets


def threshold(volume: float, budget: float) -> float:
    """Nats at which a CUSUM has spent its budget of false alarms at a volume of honest queries.

    It grows with the volume seen so far: at each doubling a further 1/(1 + doublings) of the budget
    is spent.
    """
    count = max(volume, SMALLEST_VOLUME)
    return math.log(count * (1.0 + math.log2(count / SMALLEST_VOLUME)) / budget)


def bet(model: PatternModel, statistic: int, value: float, regime: int) -> tuple[float, float]:
    """The e-value and the p-value of one statistic's value in a regime.

    The p-value is that of the highest knot which is not above the value: never too small.
    """
    knots = model.knots[statistic]
    rest = value - model.offsets[statistic, regime] - TIE
    level = int(np.searchsorted(knots, rest, "right")) - 1
    if level < 0:
        return EXPONENT, 1.0
    return float(model.bets[statistic, level]), float(model.tails[statistic, level])


def bets(model: PatternModel, values: Floats, regime: int, p_values: Floats) -> Floats:
    """(8,) e-values of a query's statistics, 1 where there is none (-inf).

    Fills in the (8,) p-values.
    """
    found = np.ones(values.size)
    for statistic, value in enumerate(values):
        if value > -np.inf:
            found[statistic], p_values[statistic] = bet(model, statistic, float(value), regime)
    return found


def descent(mix: Floats, bets: Floats) -> float:
    """The bet that a query descends from the entries nearest to it; 1 where that is not asked.

    Equal blocks count with nearness only (a geometric mean of bets is a bet too): what is equal but
    far away belongs to others, and honest rows that are alike in one way would found a family.
    """
    if not mix.any():
        return 1.0
    near, equal = float(bets[SHARED_NEAR]), float(bets[SHARED_EQUAL])
    return 0.5 * (near + math.sqrt(near * equal))


def increment(mix: Floats, bets: Floats, stake: float) -> float:
    """The CUSUM's increment: log(1 - f + f e), e the mix of the bets; 0 where nothing is on."""
    if not mix.any():
        return 0.0
    return math.log(1.0 - stake + stake * float(mix @ bets))
