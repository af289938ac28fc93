"""What a replay decided, in numbers: equal or not, and what another configuration would change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any, Final

from proxy.rehearsal.replay import Outcome

_REFUSED: Final = frozenset({"block", "throttle"})
_Z: Final = 1.959963984540054
_CLIENTS: Final = 100_000


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """The Wilson score interval (95 %) of a share (E. B. Wilson, JASA 22, 1927)."""
    if not trials:
        return 0.0, 1.0
    share, square = hits / trials, _Z * _Z
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    spread = (
        _Z
        * sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
        / (1 + square / trials)
    )
    return max(0.0, middle - spread), min(1.0, middle + spread)


@dataclass(slots=True)
class Fidelity:
    """How far a replay decides as was decided.

    Attributes:
        equal: exchanges decided alike, in every number.
        unequal: those that were not.
        unplayed: those that were taken as recorded, by why.
        differences: the first unequal ones.
    """

    most: int = 20
    equal: int = 0
    unequal: int = 0
    unplayed: Counter[str] = field(default_factory=Counter)
    differences: list[dict[str, Any]] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Counts one exchange."""
        if outcome.now is None:
            self.unplayed[outcome.why] += 1
            return
        differs = outcome.differs
        if not differs:
            self.equal += 1
            return
        self.unequal += 1
        if len(self.differences) < self.most:
            was, now = outcome.was, outcome.now
            self.differences.append(
                {
                    "id": was["id"],
                    "time": was["time"],
                    "differs": {
                        name: {"was": was.get(name), "now": now.get(name)} for name in differs
                    },
                }
            )

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "played": self.equal + self.unequal,
            "equal": self.equal,
            "unequal": self.unequal,
            "as_recorded": dict(self.unplayed),
            "differences": self.differences,
        }


@dataclass(slots=True)
class _Client:
    exchanges: int = 0
    was_refused: int = 0
    newly_refused: int = 0
    newly_passed: int = 0


@dataclass(slots=True)
class Change:
    """What another configuration would have decided.

    An exchange counts as refused if it was blocked or throttled, or would have been but for
    monitor mode.

    Attributes:
        exchanges: those that were played.
        unheard: those that would have passed to the model now, of whose answer nothing is known.
        actions: how often what was decided would be decided so.
        rules: by rule, in how many exchanges it was found, is found, newly is, and no longer is.
        clients: by pseudonym; beyond the first 100,000, as "others".
    """

    exchanges: int = 0
    unheard: int = 0
    actions: Counter[tuple[str, str]] = field(default_factory=Counter)
    rules: dict[str, Counter[str]] = field(default_factory=dict)
    clients: dict[str, _Client] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Counts one exchange."""
        was, now = outcome.was, outcome.now
        if now is None:
            return
        self.exchanges += 1
        self.unheard += outcome.unheard
        self.actions[was["action"], now["action"]] += 1
        before, after = _rules(was), _rules(now)
        for rule in before | after:
            counted = self.rules.setdefault(rule, Counter())
            counted["was"] += rule in before
            counted["would"] += rule in after
            counted["newly"] += rule in after - before
            counted["no_longer"] += rule in before - after
        name = was["client"]
        if name not in self.clients and len(self.clients) >= _CLIENTS:
            name = "others"
        client = self.clients.setdefault(name, _Client())
        refused, refuses = was["action"] in _REFUSED, now["action"] in _REFUSED
        client.exchanges += 1
        client.was_refused += refused
        client.newly_refused += refuses and not refused
        client.newly_passed += refused and not refuses

    def told(self, most: int) -> dict[str, Any]:
        """As JSON has it.

        Args:
            most: clients of which more than their number is told, those with most changes first.
        """
        clients = self.clients.values()
        refused = sum(client.was_refused for client in clients)
        newly_refused = sum(client.newly_refused for client in clients)
        newly_passed = sum(client.newly_passed for client in clients)
        changed = {
            name: client
            for name, client in self.clients.items()
            if client.newly_refused or client.newly_passed
        }
        order = sorted(changed, key=lambda one: -_changes(changed[one]))
        return {
            "exchanges": self.exchanges,
            "unheard": self.unheard,
            "newly_refused": _share(newly_refused, self.exchanges - refused),
            "newly_passed": _share(newly_passed, refused),
            "actions": [
                {"was": was, "would": would, "exchanges": n}
                for (was, would), n in sorted(self.actions.items())
            ],
            "rules": {rule: dict(self.rules[rule]) for rule in sorted(self.rules)},
            "clients": {
                "known": len(self.clients),
                "changed": len(changed),
                "most_changed": [_told(name, changed[name]) for name in order[:most]],
            },
        }


def _rules(record: Mapping[str, Any]) -> set[str]:
    return {reason["rule"] for reason in record["reasons"]}


def _changes(client: _Client) -> int:
    return client.newly_refused + client.newly_passed


def _share(hits: int, trials: int) -> dict[str, Any]:
    low, high = wilson(hits, trials)
    return {"exchanges": hits, "of": trials, "low": low, "high": high}


def _told(name: str, client: _Client) -> dict[str, Any]:
    return {
        "client": name,
        "exchanges": client.exchanges,
        "was_refused": client.was_refused,
        "newly_refused": _share(client.newly_refused, client.exchanges - client.was_refused),
        "newly_passed": _share(client.newly_passed, client.was_refused),
    }
