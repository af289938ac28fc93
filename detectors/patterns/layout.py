"""The sizes that every part of the patterns agrees on: of what is kept for a client and exchanged.

They are fixed, not fitted: replicas, states and compiled kernels rest on them.
"""

from __future__ import annotations

from typing import Final

import numpy as np

SKETCH: Final = 32
"""Coordinates of a sketch."""
SKETCH_LIMIT: Final = 32767
"""Sketches are fixed-point numbers that saturate here: distances of what is stored are exact, and
what saturates looks nearer to its like, so that it errs towards an alarm."""
BLOCKS: Final = 32
"""Groups of coordinates that are compared by hash; the last are empty where there are fewer."""
RING: Final = 64
"""Distinct queries of a client that the next is compared with."""
RETRIES: Final = 256
"""Distinct queries of a client of which an exact repetition is free."""
SHARED: Final = 512
"""Entries of the ring over all clients, at most."""
LINEAGES: Final = 512
"""Lineages that are kept apart."""
FEATURES: Final = 128
"""Random features, and what else the discrepancy is measured on."""
SUMS: Final = FEATURES + 1
"""What adds up over replicas: the features, and the number of distinct queries."""
CELLS: Final = 512
"""Cells of the honest input space."""
EVIDENCE: Final = 2
"""Families that have a sequential test: probing, extraction."""
PROBING: Final = 0
EXTRACTION: Final = 1
LINEAGE: Final = 2

STATISTICS: Final = (
    "near",
    "equal",
    "segment",
    "residue",
    "outlier",
    "discrepancy",
    "shared_near",
    "shared_equal",
)
"""Every statistic, in the order of the tables' rows; high = suspicious."""
NEAR, EQUAL, SEGMENT, RESIDUE, OUTLIER, DISCREPANCY, SHARED_NEAR, SHARED_EQUAL = range(8)

ENTRY: Final = np.dtype(
    [
        ("sketch", "<i2", (SKETCH,)),
        ("blocks", "<u2", (BLOCKS,)),
        ("content", "<u8"),
        ("lineage", "<u8"),
    ]
)
"""One query in a ring, as it is exchanged. ``lineage`` is 0 in a client's ring."""
