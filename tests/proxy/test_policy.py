"""Deciding is pure: findings in, a decision out."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.patterns.base import Alarm, Family, Scope
from proxy import rules
from proxy.decision import (
    ALLOWED,
    Action,
    Decision,
    FailureMode,
    Mode,
    Permit,
    Reason,
    UpstreamRequest,
)
from proxy.policy import Exclusion, Policy, RuleSetting, is_fault, is_unconditional

CLIENT, OTHER = "c" * 32, "d" * 32
NOW = 1_000_000.0

OUTLIER = Reason(rules.OUTLIER)
LIMIT = Reason(rules.CLIENT_RATE, retry_after=3)
CONTRACT = Reason(rules.SHAPE, "is [1, 3]")
HTTP = Reason(rules.NO_ROUTE)


def decide(policy: Policy, *findings: Reason, client: str = CLIENT, now: float = NOW) -> Decision:
    return policy.decide(findings, client, now)


def test_nothing_found_is_allowed():
    assert decide(Policy()) is ALLOWED


@pytest.mark.parametrize(
    ("reason", "action"),
    [(OUTLIER, Action.BLOCK), (LIMIT, Action.THROTTLE), (CONTRACT, Action.BLOCK)],
)
def test_enforce_does_what_it_decides_and_monitor_only_says_it(reason: Reason, action: Action):
    enforced = decide(Policy(), reason)
    assert (enforced.action, enforced.enforced, enforced.would_block) == (action, action, False)
    watched = decide(Policy(mode=Mode.MONITOR), reason)
    assert (watched.action, watched.enforced, watched.would_block) == (action, Action.ALLOW, True)
    assert watched.reasons == (reason,)


def test_the_hardest_enforced_reason_leads():
    decision = decide(Policy(), LIMIT, OUTLIER)
    assert decision.enforced is Action.BLOCK
    assert decision.reasons == (OUTLIER, LIMIT)
    watched = Policy(settings={rules.OUTLIER.id: RuleSetting(mode=Mode.MONITOR)})
    decision = decide(watched, OUTLIER, LIMIT)
    assert (decision.action, decision.enforced) == (Action.BLOCK, Action.THROTTLE)
    assert decision.reasons == (LIMIT, OUTLIER), "the refusal speaks for what was enforced"


def test_a_rule_switched_off_is_not_found():
    off = Policy(settings={rules.OUTLIER.id: RuleSetting(off=True)})
    assert decide(off, OUTLIER) is ALLOWED
    assert decide(off, OUTLIER, LIMIT).reasons == (LIMIT,)


def test_a_rule_enforced_in_a_monitoring_endpoint():
    policy = Policy(
        mode=Mode.MONITOR, settings={rules.CLIENT_RATE.id: RuleSetting(mode=Mode.ENFORCE)}
    )
    assert decide(policy, LIMIT).enforced is Action.THROTTLE
    assert decide(policy, OUTLIER).enforced is Action.ALLOW


def test_an_exclusion_is_for_one_client_and_expires():
    exclusion = Exclusion(CLIENT, until=NOW)
    policy = Policy(settings={rules.OUTLIER.id: RuleSetting(exclusions=(exclusion,))})
    assert decide(policy, OUTLIER, now=NOW - 1).enforced is Action.ALLOW
    assert decide(policy, OUTLIER, now=NOW - 1).would_block, "an exclusion is recorded"
    assert decide(policy, OUTLIER, now=NOW).enforced is Action.BLOCK
    assert decide(policy, OUTLIER, client=OTHER, now=NOW - 1).enforced is Action.BLOCK


def test_no_switch_lets_through_what_cannot_be_forwarded():
    settings = {rule: RuleSetting(off=True) for rule in rules.RULES}
    for mode in Mode:
        assert decide(Policy(mode=mode, settings=settings), HTTP).enforced is Action.BLOCK


def test_which_rules_are_unconditional():
    unconditional = [rule.id for rule in rules.RULES.values() if is_unconditional(rule)]
    assert [int(rule[3:]) for rule in unconditional] == [*range(100, 115), *range(130, 135)]


@pytest.mark.parametrize(("mode", "failure"), list(product(Mode, FailureMode)))
def test_a_fault_follows_the_failure_mode(mode: Mode, failure: FailureMode):
    reason = Reason(rules.DETECTOR_FAULT, "score is not finite")
    policy = Policy(mode=mode, failure_mode=failure)
    denied = mode is Mode.ENFORCE and failure is FailureMode.DENY
    decision = decide(policy, reason)
    assert decision.action is Action.BLOCK
    assert decision.enforced is (Action.BLOCK if denied else Action.ALLOW)
    assert decision.reasons == (reason,)
    limited = decide(policy, LIMIT, reason)
    assert limited.action is Action.BLOCK
    if mode is Mode.ENFORCE:
        assert limited.enforced is (Action.BLOCK if denied else Action.THROTTLE), (
            "a tolerated fault excuses nothing else"
        )


def test_no_switch_lets_through_what_was_not_understood():
    settings = {rule: RuleSetting(off=True) for rule in rules.RULES}
    switched = [
        rule.id
        for rule in rules.RULES.values()
        if decide(Policy(settings=settings), Reason(rule)) is ALLOWED
    ]
    patterns = sorted(rule.id for rule in rules.PATTERNS)
    assert switched == [
        "BZ-300",
        "BZ-400",
        *patterns,
        *(f"BZ-{number}" for number in range(601, 607)),
    ]


def test_no_switch_hides_a_fault():
    settings = {rule: RuleSetting(off=True) for rule in rules.RULES}
    for rule in filter(is_fault, rules.RULES.values()):
        assert decide(Policy(settings=settings), Reason(rule)).enforced is Action.BLOCK


@pytest.mark.parametrize(
    ("flagged", "n", "fraction", "found"),
    [
        (0, 1, 0.0, False),
        (1, 1, 0.0, True),
        (1, 256, 0.0, True),
        (0, 0, 0.0, False),
        (5, 10, 0.5, False),
        (6, 10, 0.5, True),
        (10, 10, 0.99, True),
    ],
)
def test_a_request_is_an_outlier_beyond_the_fraction(
    flagged: int, n: int, fraction: float, found: bool
):
    assert (Policy(block_fraction=fraction).outlier(flagged, n) is not None) is found


@pytest.mark.parametrize(
    ("action", "done"),
    [
        (Action.BLOCK, Action.BLOCK),
        (Action.SHAPE, Action.BLOCK),
        (Action.THROTTLE, Action.BLOCK),
        (Action.ALLOW, Action.ALLOW),
    ],
)
def test_outliers_without_an_answer_that_can_be_judged(action: Action, done: Action):
    policy = Policy(on_disagreement=action, block_fraction=0.9, failure_mode=FailureMode.ALLOW)
    assert policy.unanswered(0, 5) is None
    found = policy.unanswered(1, 5)
    assert found is not None and "1 of 5" in found.detail
    assert decide(policy, found).enforced is done, "what cannot be read cannot be shaped"


def test_an_outlier_can_be_allowed_and_is_still_told():
    decision = decide(Policy(on_outlier=Action.ALLOW), OUTLIER)
    assert (decision.action, decision.enforced) == (Action.ALLOW, Action.ALLOW)
    assert decision.reasons == (OUTLIER,)


@given(
    st.lists(st.sampled_from([OUTLIER, LIMIT, CONTRACT]), max_size=4),
    st.sampled_from(Mode),
    st.sampled_from([None, RuleSetting(off=True), RuleSetting(mode=Mode.MONITOR)]),
)
def test_enforcement_never_goes_beyond_the_decision(
    findings: list[Reason], mode: Mode, setting: RuleSetting | None
):
    policy = Policy(mode=mode, settings={rules.OUTLIER.id: setting} if setting else {})
    decision = decide(policy, *findings)
    order = [Action.ALLOW, Action.THROTTLE, Action.BLOCK]
    assert order.index(decision.enforced) <= order.index(decision.action)


def test_only_a_decision_to_allow_yields_a_permit():
    request = UpstreamRequest(b"POST", b"/v2/models/m/infer", b"", b"{}")
    for action, enforced in product(Action, Action):
        decision = Decision(action, enforced)
        if enforced in (Action.ALLOW, Action.SHAPE):
            assert Permit(decision, request).request is request
        else:
            with pytest.raises(PermissionError, match="yields no permit"):
                Permit(decision, request)


def alarm(evidence: float, scope: Scope = Scope.CLIENT, family: Family = Family.PROBING) -> Alarm:
    return Alarm(family, scope, evidence, 14.0, "e" * 32, {"near": 0.0004, "queries": 9})


LADDERS = [
    ((), [Action.ALLOW] * 5),
    ((Action.BLOCK,), [Action.ALLOW] + [Action.BLOCK] * 4),
    (
        (Action.SHAPE, Action.THROTTLE, Action.BLOCK),
        [Action.ALLOW, Action.SHAPE, Action.THROTTLE, Action.BLOCK, Action.BLOCK],
    ),
]


@pytest.mark.parametrize(("ladder", "steps"), LADDERS)
def test_the_answer_to_a_pattern_climbs_with_its_evidence(ladder, steps):
    policy = Policy(ladder=ladder)
    evidence = [13.9, 14.0, 21.0, 28.0, 500.0]
    assert [policy.step(nats, 14.0) for nats in evidence] == steps
    for nats, step in zip(evidence[1:], steps[1:], strict=True):
        decision = decide(policy, policy.pattern(alarm(nats)))
        assert decision.action is decision.enforced is step
        assert decision.reasons[0].rule is rules.PROBING_CLIENT


def test_a_pattern_tells_the_operator_its_evidence():
    detail = Policy().pattern(alarm(17.25)).detail
    assert detail == "client: evidence 17.2 of 14.0 nats, near 0.0004, queries 9"
    assert "e" * 32 in Policy().pattern(alarm(17.0, Scope.LINEAGE)).detail


def test_every_alarm_that_can_be_raised_has_a_rule():
    pairs = [(f, s) for f in (Family.PROBING, Family.EXTRACTION) for s in Scope]
    pairs.remove((Family.EXTRACTION, Scope.LINEAGE))
    pairs.append((Family.COVERAGE, Scope.CLIENT))
    named = {Policy().pattern(alarm(20.0, scope, family)).rule for family, scope in pairs}
    assert named == set(rules.PATTERNS)
    assert len(named) == 8


def test_what_all_clients_do_together_is_recorded_and_refuses_nobody():
    decision = decide(Policy(), Policy().pattern(alarm(500.0, Scope.ENDPOINT)))
    assert decision.enforced is decision.action is Action.ALLOW
    assert decision.reasons[0].rule is rules.PROBING_ENDPOINT


def test_a_client_without_evidence_of_its_own_is_not_refused_for_what_others_did():
    shared = replace(alarm(500.0, Scope.LINEAGE), shared=True)
    assert decide(Policy(), Policy().pattern(shared)).enforced is Action.SHAPE
    hard = Policy(ladder=(Action.BLOCK,))
    assert decide(hard, hard.pattern(shared)).enforced is Action.ALLOW
    assert decide(hard, hard.pattern(replace(shared, shared=False))).enforced is Action.BLOCK
    climbing = Policy(lineages_climb=True)
    assert decide(climbing, climbing.pattern(shared)).enforced is Action.BLOCK


def test_a_throttled_client_is_shaped_while_it_may_send_and_waits_otherwise():
    policy = Policy()
    reason = policy.pattern(alarm(21.0))
    assert reason.action is Action.THROTTLE
    assert policy.paced(reason, 0).action is Action.SHAPE
    assert (policy.paced(reason, 9).action, policy.paced(reason, 9).retry_after) == (
        Action.THROTTLE,
        9,
    )
    assert Policy(ladder=(Action.THROTTLE,)).paced(reason, 0).action is Action.ALLOW
    mild = policy.pattern(alarm(14.0))
    assert policy.paced(mild, 9) is mild


def test_patterns_can_be_monitored_and_excluded():
    reason = Policy().pattern(alarm(99.0))
    watched = Policy(settings={"BZ-500": RuleSetting(mode=Mode.MONITOR)})
    assert decide(watched, reason).enforced is Action.ALLOW
    assert decide(watched, reason).would_block
    off = Policy(settings={"BZ-500": RuleSetting(off=True)})
    assert decide(off, reason) is ALLOWED
    excluded = Policy(settings={"BZ-500": RuleSetting(exclusions=(Exclusion(CLIENT, NOW + 1),))})
    assert decide(excluded, reason).enforced is Action.ALLOW
    assert decide(excluded, reason, client=OTHER).enforced is Action.BLOCK


def test_a_ban_cannot_be_switched_but_follows_the_mode():
    switched = Policy(settings={"BZ-550": RuleSetting(off=True)})
    assert decide(switched, Reason(rules.BANNED)).enforced is Action.BLOCK
    assert decide(Policy(mode=Mode.MONITOR), Reason(rules.BANNED)).enforced is Action.ALLOW


@pytest.mark.parametrize("rule", [rules.PATTERN_FAULT, rules.ANSWER_UNREADABLE])
def test_faults_of_patterns_and_of_answers_follow_the_failure_mode(rule):
    assert decide(Policy(), Reason(rule)).enforced is Action.BLOCK
    tolerant = Policy(failure_mode=FailureMode.ALLOW)
    assert decide(tolerant, Reason(rule)).enforced is Action.ALLOW
    assert is_fault(rule) and not is_unconditional(rule)
