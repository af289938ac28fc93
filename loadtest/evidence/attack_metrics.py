"""What attacks come to: success with and without the firewall, and how soon they are recognised."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from loadtest.evidence import measured
from loadtest.evidence.measured import Measured
from loadtest.evidence.results import AttackResult, Estimate, Results, Share, Side
from loadtest.evidence.statistics import difference, of_share, quantile

ABUSE: Final = "abuse"


def name(attack: AttackResult) -> str:
    """What the scenario calls it, or else its driver."""
    return str(attack.details.get("as") or attack.driver)


def fits(attack: AttackResult, selector: str) -> bool:
    """Whether a selector means it: by its name, its driver or its family."""
    return selector in ("", name(attack), attack.driver, attack.family)


def on(results: Results, side: Side, selector: str = "") -> list[AttackResult]:
    """The attacks on one side that a selector means."""
    return [attack for attack in results.attacks if attack.side == side and fits(attack, selector)]


def paired(attacks: Iterable[AttackResult]) -> list[tuple[str, dict[Side, AttackResult]]]:
    """By name, in their order: what it came to on each side."""
    found: dict[str, dict[Side, AttackResult]] = {}
    for attack in attacks:
        found.setdefault(name(attack), {})[attack.side] = attack
    return list(found.items())


One = Callable[[AttackResult], Measured]


def _each(of: One, families: frozenset[str] | None = None) -> Callable[..., Sequence[Measured]]:
    """One value for each attack through the firewall; abuse only where it is asked for."""

    def measure(results: Results, selector: str) -> Sequence[Measured]:
        return [
            Measured(name(attack), None, attack.fault) if attack.fault else of(attack)
            for attack in on(results, "firewall", selector)
            if (attack.family in families if families else attack.family != ABUSE)
        ]

    return measure


def _success(attack: AttackResult) -> Measured:
    return measured.share(name(attack), attack.success, "tries succeeded")


def _recognised(attack: AttackResult) -> Measured:
    if attack.recognised is None:
        return Measured(name(attack), None, "no audit log tells what was recognised")
    return measured.share(name(attack), attack.recognised, "tries recognised")


def queries_to_recognition(attack: AttackResult, q: float) -> Measured:
    """A quantile over all tries: those that were not recognised count as infinitely many."""
    known = attack.recognised
    if known is None:
        return Measured(name(attack), None, "no audit log tells what was recognised")
    missed = known.total - len(attack.to_recognition)
    found = quantile([*map(float, attack.to_recognition), *[math.inf] * missed], q)
    if found is None:
        return Measured(name(attack), None, "no tries")
    how = f"{known.count} of {known.total} tries recognised, {found.level:.0%} interval"
    return Measured(name(attack), found.estimate, how, level=found.level)


def _gain(attack: AttackResult) -> Measured:
    if attack.value is None or attack.baseline is None:
        return Measured(name(attack), None, "it measured no fidelity, or no baseline")
    base = attack.baseline
    estimate = Estimate(
        attack.value.value - base, attack.value.low - base, attack.value.high - base
    )
    how = f"{attack.measure or 'fidelity'} {attack.value.value:.3g}, baseline {base:.3g}"
    return Measured(name(attack), estimate, how)


def _value(attack: AttackResult) -> Measured:
    how = attack.measure or "its value"
    if attack.value is None:
        return Measured(name(attack), None, "it measured no such value")
    return Measured(name(attack), attack.value, f"{how}, {attack.success.total} tries")


success = _each(_success)
recognised = _each(_recognised)
recognition_median = _each(lambda attack: queries_to_recognition(attack, 0.5))
recognition_p95 = _each(lambda attack: queries_to_recognition(attack, 0.95))
fidelity_gain = _each(_gain, frozenset({"extraction"}))
membership_auc = _each(_value, frozenset({"membership"}))


def reduction(results: Results, selector: str) -> Sequence[Measured]:
    """Success without the firewall less success with it, for each attack that has both.

    What never succeeds without the firewall tells nothing of it: asked for by name it is not
    measured, and otherwise it is not meant.
    """
    found = []
    for attack, sides in paired(a for a in results.attacks if fits(a, selector)):
        if any(one.family == ABUSE for one in sides.values()):
            continue
        fault = next((one.fault for one in sides.values() if one.fault), "")
        if fault:
            found.append(Measured(attack, None, fault))
        elif len(sides) < 2:
            found.append(Measured(attack, None, f"it ran on {next(iter(sides))} only"))
        elif not sides["direct"].success.count:
            if selector:
                found.append(Measured(attack, None, "it never succeeds without the firewall"))
        else:
            found.append(_reduced(attack, sides["direct"].success, sides["firewall"].success))
    return found


def _reduced(attack: str, direct: Share, firewall: Share) -> Measured:
    without, within = of_share(direct), of_share(firewall)
    if without is None or within is None:
        return Measured(attack, None, "no tries")
    how = f"{direct.count} of {direct.total} tries without the firewall, "
    how += f"{firewall.count} of {firewall.total} with it"
    return Measured(attack, difference(without, within), how)


def abuse_findings(results: Results, selector: str) -> Sequence[Measured]:
    """What abuse of the protocol brought to light, counted over its drivers."""
    attacks = [attack for attack in on(results, "firewall", selector) if attack.family == ABUSE]
    if not attacks:
        return []
    faults = [f"{name(attack)}: {attack.fault}" for attack in attacks if attack.fault]
    if faults:
        return [Measured(selector or "all abuse", None, "; ".join(faults))]
    count = float(sum(attack.success.count for attack in attacks))
    tried = sum(attack.success.total for attack in attacks)
    # Each vector is tried, none is sampled: there is no interval.
    estimate = Estimate(count, count, count)
    return [Measured(selector or "all abuse", estimate, f"{tried} vectors tried")]
