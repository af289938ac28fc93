"""From findings to a decision. Pure: no clock, no I/O, no state; everything it needs is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from detectors.patterns.base import Alarm, Family, Scope
from proxy import rules
from proxy.decision import ALLOWED, Action, Decision, FailureMode, Mode, Reason
from proxy.rules import Rule

HARDNESS: Final = {Action.ALLOW: 0, Action.SHAPE: 1, Action.THROTTLE: 2, Action.BLOCK: 3}

_LIMITS: Final = frozenset(
    {
        rules.CLIENT_RATE.id,
        rules.CLIENT_DAY.id,
        rules.SUBNET_RATE.id,
        rules.SUBNET_DAY.id,
        rules.ENDPOINT_RATE.id,
        rules.ENDPOINT_DAY.id,
    }
)

_PATTERNS: Final = {
    (Family.PROBING, Scope.CLIENT): rules.PROBING_CLIENT,
    (Family.PROBING, Scope.SUBNET): rules.PROBING_SUBNET,
    (Family.PROBING, Scope.LINEAGE): rules.PROBING_LINEAGE,
    (Family.PROBING, Scope.ENDPOINT): rules.PROBING_ENDPOINT,
    (Family.EXTRACTION, Scope.CLIENT): rules.EXTRACTION_CLIENT,
    (Family.EXTRACTION, Scope.SUBNET): rules.EXTRACTION_SUBNET,
    (Family.EXTRACTION, Scope.ENDPOINT): rules.EXTRACTION_ENDPOINT,
    (Family.COVERAGE, Scope.CLIENT): rules.COVERAGE_CLIENT,
}
_SWITCHABLE: Final = (
    _LIMITS | {rules.OUTLIER.id, rules.DISAGREEMENT.id} | {rule.id for rule in rules.PATTERNS}
)

CLIMB: Final = 7.0
"""Nats of evidence from one step of the ladder to the next: a factor of about a thousand."""

_FAULTS: Final = frozenset(rule.id for rule in rules.FAULTS)


def is_fault(rule: Rule) -> bool:
    """Whether a rule is a fault of ours, which the endpoint's failure mode decides."""
    return rule.id in _FAULTS


def is_switchable(rule: Rule) -> bool:
    """Whether a switch or an exclusion may let a request pass that this rule found fault with.

    Only where the request was understood and was, or will be, inspected all the same.
    """
    return rule.id in _SWITCHABLE


def is_unconditional(rule: Rule) -> bool:
    """Whether a rule holds in every mode: those about HTTP itself, routes and the upstream.

    A request that is not one well-formed HTTP request for a known route cannot be forwarded as
    anything that was understood, so no mode, switch or exclusion lets it through.
    """
    return rule.id < "BZ-120" or ("BZ-130" <= rule.id < "BZ-200" and not is_fault(rule))


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A rule does not count for one client until a moment.

    Attributes:
        client: the client's pseudonym.
        until: seconds since the epoch.
    """

    client: str
    until: float


@dataclass(frozen=True, slots=True)
class RuleSetting:
    """How one rule departs from its endpoint's mode. ``mode`` None: as the endpoint's."""

    off: bool = False
    mode: Mode | None = None
    exclusions: tuple[Exclusion, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """One endpoint's policy.

    Attributes:
        mode: whether decisions change what the client sees.
        failure_mode: what a fault of ours does to an exchange.
        on_outlier: the action for a request of outliers.
        on_disagreement: the action for rows whose answers do not go with them.
        ladder: what is done about a pattern, a step further with each ``CLIMB`` of evidence; empty:
            it is recorded.
        lineages_climb: whether all steps are for a client, too, that has no evidence of its own but
            whose query descends from others' attack.
        block_fraction: a request is an outlier, or disagrees with its answer, if more than this
            fraction of its rows is flagged; 0.0 means any row.
        settings: rules that depart from the mode, by rule id.
    """

    mode: Mode = Mode.ENFORCE
    failure_mode: FailureMode = FailureMode.DENY
    on_outlier: Action = Action.BLOCK
    on_disagreement: Action = Action.BLOCK
    ladder: tuple[Action, ...] = (Action.SHAPE, Action.THROTTLE, Action.BLOCK)
    lineages_climb: bool = False
    block_fraction: float = 0.0
    settings: Mapping[str, RuleSetting] = field(default_factory=dict)

    def outlier(self, flagged: int, n: int) -> Reason | None:
        """The finding that ``flagged`` of ``n`` rows passed the calibrated threshold, or None."""
        if flagged <= self.block_fraction * n:
            return None
        return Reason(rules.OUTLIER, f"{flagged} of {n} rows passed the calibrated threshold")

    def disagreement(self, flagged: int, n: int) -> Reason | None:
        """The finding that ``flagged`` of ``n`` rows do not go with their answers, or None."""
        if flagged <= self.block_fraction * n:
            return None
        detail = f"{flagged} of {n} rows passed the calibrated threshold with their answers"
        return Reason(rules.DISAGREEMENT, detail)

    def unanswered(self, flagged: int, n: int) -> Reason | None:
        """The finding that ``flagged`` of ``n`` rows are outliers, in an exchange whose answer
        cannot be judged; or None. As there is nothing to shape, it refuses or is only recorded."""
        if not flagged:
            return None
        mild = self.on_disagreement is Action.ALLOW
        detail = f"{flagged} of {n} rows are outliers, and the answer cannot be judged"
        return Reason(rules.DISAGREEMENT, detail, action=Action.ALLOW if mild else Action.BLOCK)

    def step(self, evidence: float, threshold: float) -> Action:
        """The step of the ladder that evidence (nats) above or below its threshold leads to."""
        if evidence < threshold or not self.ladder:
            return Action.ALLOW
        climbed = int((evidence - threshold) / CLIMB)
        return self.ladder[min(climbed, len(self.ladder) - 1)]

    def pattern(self, alarm: Alarm) -> Reason:
        """The finding that an alarm is, with the step of the ladder that its evidence leads to."""
        if alarm.scope is Scope.ENDPOINT:
            action = Action.ALLOW  # what all clients do together is no one's fault
        elif alarm.shared and not self.lineages_climb:
            # Others may have probed around an input for its sender to be refused.
            action = Action.SHAPE if Action.SHAPE in self.ladder else Action.ALLOW
        else:
            action = self.step(alarm.evidence, alarm.threshold)
        seen = "".join(f", {name} {value:.3g}" for name, value in alarm.detail.items())
        whose = f" ({alarm.key})" if alarm.scope is Scope.LINEAGE else ""
        return Reason(
            _PATTERNS[alarm.family, alarm.scope],
            f"{alarm.scope.value}{whose}: evidence {alarm.evidence:.1f} of "
            f"{alarm.threshold:.1f} nats{seen}",
            action=action,
        )

    def paced(self, reason: Reason, wait: int) -> Reason:
        """A throttling finding once it is known for how many seconds the client has to wait: while
        it may send, it is answered as one step below."""
        if reason.action is not Action.THROTTLE:
            return reason
        if wait:
            return replace(reason, retry_after=wait)
        return replace(reason, action=Action.SHAPE if Action.SHAPE in self.ladder else Action.ALLOW)

    def decide(self, findings: Sequence[Reason], client: str, now: float) -> Decision:
        """The decision over everything that was found.

        Args:
            findings: in the order found, faults of ours among them; none means allow.
            client: the client's pseudonym, for exclusions.
            now: seconds since the epoch, for the exclusions' expiry.
        """
        if not findings:
            return ALLOWED
        counted: list[tuple[Reason, Action, bool]] = []
        for reason in findings:
            action = reason.action or self._action(reason.rule)
            setting = self.settings.get(reason.rule.id) if is_switchable(reason.rule) else None
            if is_fault(reason.rule):
                # In monitor mode an exchange passes whatever the failure mode: nothing may change.
                denied = self.failure_mode is FailureMode.DENY and self.mode is Mode.ENFORCE
                counted.append((reason, action, denied))
            elif is_unconditional(reason.rule):
                counted.append((reason, action, True))
            elif setting is None:
                counted.append((reason, action, self.mode is Mode.ENFORCE))
            elif not setting.off:
                enforced = (setting.mode or self.mode) is Mode.ENFORCE and not any(
                    exclusion.client == client and now < exclusion.until
                    for exclusion in setting.exclusions
                )
                counted.append((reason, action, enforced))
        if not counted:
            return ALLOWED
        # The hardest enforced reason leads, as the refusal speaks in its words.
        counted.sort(key=lambda item: (not item[2], -HARDNESS[item[1]]))
        return Decision(
            action=max((action for _, action, _ in counted), key=HARDNESS.__getitem__),
            enforced=max(
                (action for _, action, enforced in counted if enforced),
                key=HARDNESS.__getitem__,
                default=Action.ALLOW,
            ),
            reasons=tuple(reason for reason, _, _ in counted),
        )

    def _action(self, rule: Rule) -> Action:
        if rule is rules.OUTLIER:
            return self.on_outlier
        if rule is rules.DISAGREEMENT:
            return self.on_disagreement
        return Action.THROTTLE if rule.id in _LIMITS else Action.BLOCK
