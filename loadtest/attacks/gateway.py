"""A model behind the firewall, as an attacker meets it: answers, coarse answers, refusals."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import numpy as np

from detectors.patterns.base import Tracker
from loadtest.attacks.datasets import Singles
from loadtest.attacks.guard import BLAMED, PACE, Guard
from loadtest.attacks.victims import Victim
from loadtest.mlp import Floats
from proxy.decision import Action
from proxy.policy import HARDNESS, Policy
from proxy.protocols.base import InferResponse
from proxy.shaping import shape

THROTTLE_SECONDS: Final = 10.0
"""From one row to the next of a throttled client."""
SILENT: Final = (Action.SHAPE, Action.THROTTLE, Action.BLOCK)
IMMEDIATE: Final = (Action.BLOCK,)


class Told(Enum):
    """What a client can tell of what became of its query."""

    ANSWERED = "answered"
    SHAPED = "shaped"
    REFUSED = "refused"


@dataclass(slots=True)
class Gateway:
    """One endpoint.

    Attributes:
        victim: the model.
        guard, tracker: the detectors; None: nothing stands in the way.
        ladder: what is done about a pattern.
        lineages_climb: whether a lineage's alarm climbs the ladder too, or is answered with
            ``shape`` at most.
        now: seconds; a query takes ``PACE``.
        sent: queries so far.
        refused: of these, how many had no answer.
        first_refusal: the number of the first, from 1; 0: none yet.
        first_alarm: the number of the query that raised the first alarm, from 1; 0: none yet.
    """

    victim: Victim
    guard: Guard | None = None
    tracker: Tracker | None = None
    ladder: tuple[Action, ...] = SILENT
    lineages_climb: bool = False
    now: float = 0.0
    sent: int = 0
    refused: int = 0
    first_refusal: int = 0
    first_alarm: int = 0
    _passes_at: dict[str, float] = field(default_factory=dict)

    def ask(self, client: str, subnet: str, row: Singles) -> tuple[Floats, Told]:
        """One query: (classes,) probabilities, zeros if refused, and what became of it."""
        self.sent += 1
        self.now += PACE
        action = self._action(client, subnet, row[None])
        if action in (Action.THROTTLE, Action.BLOCK):
            self.refused += 1
            self.first_refusal = self.first_refusal or self.sent
            return np.zeros(self.victim.split.classes, np.float32), Told.REFUSED
        answer = self.victim.ask(row[None])
        if action is Action.SHAPE:
            shaped = shape(InferResponse({"p": answer}, 1)).tensors["p"]
            return np.asarray(shaped, np.float32)[0], Told.SHAPED
        return answer[0], Told.ANSWERED

    def _action(self, client: str, subnet: str, rows: Singles) -> Action:
        if self.tracker is None or self.guard is None:
            return Action.ALLOW
        policy = Policy(ladder=self.ladder, lineages_climb=self.lineages_climb)
        p_values = self.guard.p_values(rows)
        alarms = self.tracker.observe(client, subnet, rows, p_values, self.now)
        if not self.first_alarm and any(alarm.scope in BLAMED for alarm in alarms):
            self.first_alarm = self.sent
        steps = [policy.pattern(alarm).action or Action.ALLOW for alarm in alarms]
        action = max(steps, key=HARDNESS.__getitem__, default=Action.ALLOW)
        if action is not Action.THROTTLE:
            return action
        if self.now < self._passes_at.get(client, 0.0):
            return action
        self._passes_at[client] = self.now + THROTTLE_SECONDS
        return Action.SHAPE
