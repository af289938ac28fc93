"""The discrepancy between a client's queries and honest ones, as a bet on the next query.

The sum of a client's whitened features points from the honest mean to the client's: it is the
witness function of their maximum mean discrepancy. Before each query it is fixed, so what it says
of the query is evidence that accumulates (Shekhar and Ramdas 2023, "Nonparametric two-sample
testing by betting"), and sums of several clients or replicas add.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from detectors.arrays import Floats

PRIOR: Final = 10.0
"""Queries' worth of noise that a direction is doubted by."""


def witness(sums: Floats, features: Floats) -> Floats:
    """How far features (…, 128) lie in the direction of sums (…, 128) of the queries before:
    (…) float64."""
    length = np.sqrt((sums * sums).sum(axis=-1) + PRIOR * sums.shape[-1])
    value: Floats = (sums * features).sum(axis=-1) / length
    return value
