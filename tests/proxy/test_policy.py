"""Deciding is pure: findings in, a decision out."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    assert switched == ["BZ-300", *(f"BZ-{number}" for number in range(601, 607))]


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
