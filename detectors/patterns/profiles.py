"""Which statistics are on: what an endpoint serves decides what is normal there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from detectors.arrays import Floats
from detectors.patterns.layout import EXTRACTION, LINEAGE, PROBING
from detectors.patterns.model import (
    DISCREPANCY,
    EQUAL,
    NEAR,
    OUTLIER,
    RESIDUE,
    SEGMENT,
    SHARED_EQUAL,
    SHARED_NEAR,
    STATISTICS,
)


@dataclass(frozen=True, slots=True)
class Profile:
    """What is normal at an endpoint.

    Attributes:
        probing, extraction, lineage: the statistics that each family bets on.
        uncovered: what is then not recognised, in the operator's words.
        once_a_scene: a query that resembles an earlier one of the same client says nothing new.
    """

    probing: tuple[int, ...]
    extraction: tuple[int, ...]
    lineage: tuple[int, ...]
    uncovered: str
    once_a_scene: bool = False

    def mix(self, has_outlier: bool) -> Floats:
        """(3, 8) equal weights of what is on; a row sums to 1, or to 0 where nothing is on."""
        mix = np.zeros((3, len(STATISTICS)))
        for family, on in (
            (PROBING, self.probing),
            (EXTRACTION, self.extraction),
            (LINEAGE, self.lineage),
        ):
            used = [statistic for statistic in on if statistic != OUTLIER or has_outlier]
            if used:
                mix[family, used] = 1.0 / len(used)
        return mix


PROFILES: Final[dict[str, Profile]] = {
    "default": Profile(
        (NEAR, EQUAL, SEGMENT, RESIDUE, OUTLIER, DISCREPANCY),
        (RESIDUE, OUTLIER, DISCREPANCY),
        (SHARED_NEAR, SHARED_EQUAL),
        "theft with inputs that are distributed like the honest ones, but for its volume",
    ),
    "frames": Profile(
        (RESIDUE, OUTLIER, DISCREPANCY),
        (RESIDUE, OUTLIER, DISCREPANCY),
        (),
        "honest clients send frames that resemble those before, so a scene counts once: black-box "
        "attacks that probe around a point, theft with small variations of few inputs, and either "
        "spread over accounts are not recognised; only different inputs unlike the honest ones are",
        once_a_scene=True,
    ),
    "exploration": Profile(
        (),
        (),
        (),
        "honest clients change one input at a time, beyond what occurs together, as attacks do: "
        "no black-box attack and no theft is recognised, only coverage is counted, a case once; "
        "limits, and outliers one by one, are what is left",
        once_a_scene=True,
    ),
}
