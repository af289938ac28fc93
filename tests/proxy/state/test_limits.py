"""What the pipeline is told: a rule of its own for every limit."""

from dataclasses import dataclass

import pytest

from proxy import rules
from proxy.state.base import DAY_SECONDS, Denial, LeaseNeeded, Quota
from proxy.state.limits import Limiter
from proxy.state.memory import MemoryState

NOON = 20_000 * DAY_SECONDS + DAY_SECONDS / 2
LARGE = Quota.of(1e6, 10**6, 10**9)


@dataclass
class Client:
    client: str = "c"
    subnet: str = "s"


def limiter(client=LARGE, subnet=LARGE, total=LARGE, state=None):
    state = state or MemoryState(100, lambda: NOON)
    return Limiter(state, "digits", client=client, subnet=subnet, total=total)


CASES = {
    ("client", False): rules.CLIENT_RATE,
    ("client", True): rules.CLIENT_DAY,
    ("subnet", False): rules.SUBNET_RATE,
    ("subnet", True): rules.SUBNET_DAY,
    ("total", False): rules.ENDPOINT_RATE,
    ("total", True): rules.ENDPOINT_DAY,
}


@pytest.mark.parametrize(("scope", "daily"), CASES)
def test_every_limit_has_its_rule(scope, daily):
    quota = Quota.of(None, 1, 3) if daily else Quota.of(1.0, 3, None)
    limits = limiter(**{scope: quota})
    assert limits.take(Client(), 3, 5.0) is None
    refusal = limits.take(Client(), 1, 5.0)
    assert refusal.rule is CASES[scope, daily]
    assert refusal.rule.status == 429
    assert refusal.retry_after == (DAY_SECONDS // 2 + 1 if daily else 2)


@pytest.mark.parametrize("scope", ["client", "subnet", "total"])
def test_what_can_never_pass_is_too_large_not_too_soon(scope):
    refusal = limiter(**{scope: Quota.of(1.0, 3, None)}).take(Client(), 4, 5.0)
    assert refusal.rule is rules.ROWS_PER_REQUEST
    assert refusal.retry_after is None
    assert "at most 3" in refusal.message


def test_no_rows_count_as_one():
    limits = limiter(client=Quota.of(1.0, 2, None))
    assert limits.take(Client(), 0, 5.0) is None
    assert limits.take(Client(), 0, 5.0) is None
    assert limits.take(Client(), 0, 5.0).rule is rules.CLIENT_RATE


def test_what_was_spent_already_is_charged_to_all_three():
    slow = Quota.of(1.0, 5, None)
    limits = limiter(client=slow, subnet=slow, total=slow)
    limits.charge(Client("a", "s"), 7, 5.0)
    assert limits.take(Client("b", ""), 1, 5.0).rule is rules.ENDPOINT_RATE
    assert limits.take(Client("a", "s"), 1, 5.0).retry_after == 4
    for nothing in (0, -3):
        limits.charge(Client("a", "s"), nothing, 5.0)
    assert limits.take(Client("a", "s"), 1, 5.0).retry_after == 4
    limiter(Quota(), Quota(), Quota()).charge(Client(), 10**9, 5.0)


def test_without_limits_nothing_is_kept():
    limits = limiter(Quota(), Quota(), Quota())
    assert limits.take(Client(), 10**9, 5.0) is None
    assert list(limits.known()) == [0, 0, 0]


def test_a_client_without_a_subnet_is_charged_to_none():
    limits = limiter(subnet=Quota.of(1.0, 1, None))
    for _ in range(5):
        assert limits.take(Client(subnet=""), 1, 5.0) is None


def test_clients_share_their_subnet_and_all_share_the_endpoint():
    limits = limiter(subnet=Quota.of(1.0, 2, None), total=Quota.of(1.0, 3, None))
    assert limits.take(Client("a", "s"), 1, 5.0) is None
    assert limits.take(Client("b", "s"), 1, 5.0) is None
    assert limits.take(Client("c", "s"), 1, 5.0).rule is rules.SUBNET_RATE
    assert limits.take(Client("d", "t"), 1, 5.0) is None
    assert limits.take(Client("e", "u"), 1, 5.0).rule is rules.ENDPOINT_RATE


def test_a_reload_forgives_nobody():
    state = MemoryState(100, lambda: NOON)
    assert limiter(client=Quota.of(1.0, 3, None), state=state).take(Client(), 3, 5.0) is None
    again = limiter(client=Quota.of(1.0, 3, None), state=state)
    assert again.take(Client(), 1, 5.0).rule is rules.CLIENT_RATE


class LeasingLedger:
    """Holds quota that was fetched beforehand, as a shared backend does."""

    def __init__(self):
        self.leased = 0
        self.fetched = []

    def take(self, keys, rows, now):
        if self.leased < rows:
            if len(self.fetched) == 2:
                return Denial(0, False, 7)
            raise LeaseNeeded(keys, rows)
        self.leased -= rows
        return None

    async def refill(self, needed):
        self.fetched.append((tuple(needed.keys), needed.rows))
        self.leased += 2

    def known(self):
        return [0, 0, 0]


class LeasingState:
    def __init__(self):
        self.only = LeasingLedger()

    def ledger(self, name, quotas):
        return self.only

    async def close(self):
        pass


async def test_a_shared_backend_can_lease():
    state = LeasingState()
    limits = limiter(state=state)
    admitted = refused = 0
    for _ in range(6):
        try:
            refusal = limits.take(Client(), 1, 5.0)
        except LeaseNeeded as needed:
            await limits.refill(needed)
            refusal = limits.take(Client(), 1, 5.0)
        admitted += refusal is None
        refused += refusal is not None
    assert (admitted, refused) == (4, 2)
    assert state.only.fetched == [(("c", "s", "*"), 1)] * 2


@pytest.mark.parametrize(
    ("rate", "burst", "day"),
    [
        (0, 1, None), (-1.0, 1, None), (float("nan"), 1, None), (float("inf"), 1, None),
        (1e-9, 1, None), (1e10, 1, None), (1.0, 0, None), (None, 1, 0), (None, 1, -5),
    ],
)  # fmt: skip
def test_what_is_no_quota(rate, burst, day):
    with pytest.raises(ValueError, match=r"rate|allowance"):
        Quota.of(rate, burst, day)


def test_a_rate_is_never_rounded_up():
    for rate in (3.0, 7.0, 0.3, 1e6 + 1, 9_999_999.0):
        quota = Quota.of(rate, 1, None)
        assert 1e9 / quota.interval <= rate
        assert 1e9 / quota.interval > rate * 0.985
