"""What enforcing would make of a recorded exchange, under the rules as they are switched now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from proxy import rules
from proxy.identity import Identifier
from proxy.policy import is_fault, is_switchable, is_unconditional
from proxy.rules import RULES, Rule
from proxy.settings.endpoint import Endpoint
from proxy.settings.models import Settings

_LIMITS: Final = frozenset(
    {
        rules.CLIENT_RATE,
        rules.CLIENT_DAY,
        rules.SUBNET_RATE,
        rules.SUBNET_DAY,
        rules.ENDPOINT_RATE,
        rules.ENDPOINT_DAY,
    }
)
_DETECTORS: Final = frozenset({rules.OUTLIER, rules.DISAGREEMENT})
_NOBODYS: Final = frozenset({rules.PROBING_ENDPOINT, rules.EXTRACTION_ENDPOINT})
"""Patterns of all clients together: they are recorded, and refuse nobody."""

BUDGETED: Final = frozenset(rules.PATTERNS) - _NOBODYS - {rules.COVERAGE_CLIENT}
"""Alarms that the budget of client-days is about."""


class Kind(Enum):
    """What a rule is about."""

    ROWS = "rows"
    PATTERN = "pattern"
    LIMIT = "limit"
    CONTRACT = "contract"
    FAULT = "fault"
    BAN = "ban"


@dataclass(frozen=True, slots=True)
class Matched:
    """A rule that matched an exchange.

    Attributes:
        refuses: whether enforcing would have refused for it; else it would have made the answer
            coarse, or have only recorded it.
        alarms: whether it counts as an alarm about the client.
    """

    rule: str
    kind: Kind
    refuses: bool
    alarms: bool = False


class Switches:
    """An endpoint's rules as they are switched now, once its mode is ``enforce``.

    Attributes:
        unknown: clients of exclusions whose pseudonyms cannot be told, as no secret is configured.
    """

    def __init__(self, settings: Settings, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.unknown: list[str] = []
        known = settings.client.secret is not None
        pseudonym = Identifier(settings.client).pseudonym if known else str
        self._quiet = {
            rule for rule, switch in endpoint.rules.items() if switch.mode in ("off", "monitor")
        }
        self._excluded: dict[str, dict[str, float]] = {}
        for rule, switch in endpoint.rules.items():
            for entry in switch.exclude:
                if not known:
                    self.unknown.append(entry.client)
                    continue
                until = self._excluded.setdefault(rule, {})
                until[pseudonym(entry.client)] = entry.until.timestamp()

    def matched(self, record: Mapping[str, Any], now: float) -> Iterator[Matched]:
        """The rules that would speak against a recorded exchange if it came now.

        Args:
            now: seconds since the epoch: an exclusion that has run out counts no more.
        """
        action = record.get("action")
        for reason in record.get("reasons", ()):
            name = str(reason.get("rule"))
            rule = RULES.get(name)
            if rule is not None and (is_unconditional(rule) and not is_fault(rule)):
                continue  # monitoring refuses it too
            if rule is not None and self._is_quiet(rule, str(record.get("client")), now):
                continue
            yield self._judged(name, rule, str(action))

    def judges_rows(self, client: str, now: float) -> bool:
        """Whether any rule about rows is enforced for a client."""
        return not all(self._is_quiet(rule, client, now) for rule in _DETECTORS)

    def _is_quiet(self, rule: Rule, client: str, now: float) -> bool:
        if not is_switchable(rule):
            return False
        return rule.id in self._quiet or now < self._excluded.get(rule.id, {}).get(client, 0.0)

    def _judged(self, name: str, rule: Rule | None, action: str) -> Matched:
        endpoint = self._endpoint
        if rule is None:  # of another version: taken for the worst
            return Matched(name, Kind.CONTRACT, refuses=True)
        if is_fault(rule):
            # Unless stated otherwise, an enforcing endpoint denies.
            stated = "failure_mode" in endpoint.model_fields_set
            tolerated = stated and endpoint.failure_mode.value == "allow"
            return Matched(name, Kind.FAULT, refuses=not tolerated)
        if rule in _DETECTORS:
            done = endpoint.on_outlier if rule is rules.OUTLIER else endpoint.on_disagreement
            return Matched(name, Kind.ROWS, refuses=done == "block")
        if rule in rules.PATTERNS:
            # Of each rule's own step nothing is recorded: the exchange's is taken.
            refuses = rule not in _NOBODYS and action in ("throttle", "block")
            return Matched(name, Kind.PATTERN, refuses, alarms=rule in BUDGETED)
        if rule in _LIMITS:
            return Matched(name, Kind.LIMIT, refuses=True)
        if rule is rules.BANNED:
            return Matched(name, Kind.BAN, refuses=True)
        return Matched(name, Kind.CONTRACT, refuses=True)
