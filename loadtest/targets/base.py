"""An endpoint as a client meets it: rows go in, and what comes back is an answer or a refusal.

Drivers of attacks know nothing else of what they attack: no protocol, no firewall.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]


class Said(Enum):
    """What a client can tell of what became of its request."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """By a verdict: 403, PERMISSION_DENIED."""
    LIMITED = "limited"
    """By a quota, or by what reads as one: 429, RESOURCE_EXHAUSTED."""
    SHED = "shed"
    """By a server that has too much to do: 503, UNAVAILABLE."""
    INVALID = "invalid"
    """As malformed, or against the contract: any other 4xx."""
    FAILED = "failed"
    """No answer, or none that can be read."""


REFUSALS: Final = frozenset({Said.REFUSED, Said.LIMITED})


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of one row.

    Attributes:
        said: in one word.
        status: the HTTP status, or that which stands for the gRPC status; 0: none came.
        scores: (classes,) the model's scores of a classifier, or (values,) of a regression; where
            only a label came, 1 at that class and 0 elsewhere. None unless answered.
        label: the index of the best class; -1 unless answered, and for a regression.
        request_id: by which the firewall's audit log knows the exchange, or "".
        retry_after: seconds after which the client is told to try again, or None.
        seconds: from the first byte sent to the last received.
        body: of a reply that is no answer, its first bytes, as text.
    """

    said: Said
    status: int
    scores: Scores | None = None
    label: int = -1
    request_id: str = ""
    retry_after: float | None = None
    seconds: float = 0.0
    body: str = ""


class Oracle(Protocol):
    """Something that answers for a model: an endpoint asked over its wire, or a rehearsal of one.

    Attributes:
        name: ``direct`` or ``firewall``, or what a rehearsal is called.
        features: d, of a row.
        classes: of a classifier; 0: a regression of unknown width, or not known yet.
    """

    name: str
    features: int
    classes: int

    def ask(self, row: Rows, client: str) -> Reply:
        """Asks about one row, (d,), in a request of its own, as this client. Never raises for what
        the endpoint does: that is told in the reply."""
