"""What was shed, counted: nothing is refused in silence, and of many none costs a line each."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from proxy.rules import Rule
from proxy.telemetry.audit import Audit
from proxy.telemetry.exchanges import EndpointMetrics

_SECONDS: Final = 1.0


class Sheds:
    """Counts shed requests in the metrics, and tells the audit log once a second: an event ``shed``
    for each endpoint and rule.

    Args:
        audit: takes the events.
    """

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._untold: Counter[tuple[str, str]] = Counter()

    def count(self, endpoint: str, rule: Rule, metrics: EndpointMetrics) -> None:
        """One request of this endpoint ("" for none) was shed by this rule."""
        metrics.sheds[rule.id] = metrics.sheds.get(rule.id, 0) + 1
        if not self._untold:
            asyncio.get_running_loop().call_later(_SECONDS, self.tell)
        self._untold[endpoint, rule.id] += 1

    def tell(self) -> None:
        """Tells what was not told yet."""
        untold, self._untold = self._untold, Counter()
        for (endpoint, rule), count in untold.items():
            self._audit.event("shed", endpoint=endpoint, rule=rule, requests=count)
