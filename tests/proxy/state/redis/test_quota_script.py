"""quota.lua against the promise itself: whatever is leased, spent and given back by whom and when,
no window and no day holds more rows than the quota, and nothing is lost for good.
"""

from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis_servers import ANY, RedisServer

from proxy.state.base import DAY_SECONDS, NANOSECONDS, Quota
from proxy.state.redis.lease import Lease
from proxy.state.redis.quota_calls import Ask, Charge, Grant, Rest, quota_call

NOON = 20_000 * DAY_SECONDS + DAY_SECONDS // 2
MICROSECONDS = 1_000_000
NONE = Ask()
REST = Rest()


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    if ANY is None:
        pytest.skip("no redis-server is installed")
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    with server.client() as client:
        yield client
    server.stop()


class World:
    """One quota, its leases at several holders, and one time, in microseconds."""

    def __init__(self, redis, quota, holders=3):
        redis.flushdb()
        self._redis = redis
        self.quota = quota
        self.leases = [Lease() for _ in range(holders)]
        self.time = NOON * MICROSECONDS
        self.spent = []

    @property
    def now(self):
        """The holders' clock, which starts elsewhere."""
        return (self.time - NOON * MICROSECONDS + 7) * 1000

    def call(self, ask=NONE, rest=REST, charge=None):
        call = quota_call("{k}", self.quota, lambda: self.time, ask=ask, rest=rest, charge=charge)
        script = call.command(whole=True)
        return Grant.of(self._redis.execute_command(*script))

    def fetch(self, holder, need, wanted):
        """Gives back what a holder has, and asks for more."""
        lease = self.leases[holder]
        rest, lease.left = lease.rest(self.quota.interval, 1, self.now), 0
        ask = Ask(need, need, wanted, 1)
        grant = self.call(ask, rest)
        assert grant.rows == 0 or need <= grant.rows <= wanted
        lease.renew(grant, ask, self.quota, sent=self.now, received=self.now, pause=0, replicas=1)
        return grant

    def give_back(self, holder):
        lease = self.leases[holder]
        rest, lease.left = lease.rest(self.quota.interval, 1, self.now), 0
        self.call(rest=rest)

    def spend(self, holder, rows):
        lease = self.leases[holder]
        if lease.covers(rows, self.quota.interval, self.now):
            lease.spend(rows, self.quota.interval, self.now)
            self.spent.append((self.time, rows))

    def check(self):
        """No window and no day holds more than the quota."""
        for first in range(len(self.spent)):
            total = 0
            for then, rows in self.spent[first:]:
                total += rows
                if self.quota.interval:
                    window = Fraction(then - self.spent[first][0], MICROSECONDS)
                    assert total <= self.quota.burst + window * NANOSECONDS / self.quota.interval
        if self.quota.per_day:
            days = {}
            for then, rows in self.spent:
                day = then // (DAY_SECONDS * MICROSECONDS)
                days[day] = days.get(day, 0) + rows
            assert max(days.values(), default=0) <= self.quota.per_day


QUOTAS = st.builds(
    Quota.of,
    st.sampled_from([1.0, 1.0, 10.0, 3.0, 0.01, None]),
    st.integers(1, 40),
    st.one_of(st.none(), st.integers(1, 100)),
).filter(lambda quota: not quota.is_unlimited)
# Time in halves of an interval or so, so that debts are often half paid.
DEEDS = st.lists(
    st.one_of(
        st.tuples(st.just("fetch"), st.integers(0, 2), st.integers(1, 10), st.integers(1, 40)),
        st.tuples(st.just("spend"), st.integers(0, 2), st.integers(1, 10)),
        st.tuples(st.just("spend all"), st.integers(0, 2)),
        st.tuples(st.just("give back"), st.integers(0, 2)),
        st.tuples(st.just("wait"), st.sampled_from([1, 500, 10_000])),
        st.tuples(st.just("wait"), st.integers(1, 60_000)),
    ),
    max_size=60,
)


def act(world, deed, *arguments):
    """Does one deed; times are in thousandths of the quota's interval, or seconds without one."""
    match deed:
        case "fetch":
            holder, need, wanted = arguments
            world.fetch(holder, need, max(need, wanted))
        case "spend":
            world.spend(*arguments)
        case "spend all":
            (holder,) = arguments
            for rows in (10, 5, 2, 1):
                for _ in range(10):
                    world.spend(holder, rows)
        case "give back":
            world.give_back(*arguments)
        case "wait":
            (thousandths,) = arguments
            interval = world.quota.interval or NANOSECONDS
            world.time += thousandths * interval // 1_000_000


@settings(max_examples=500)
@given(QUOTAS, DEEDS)
# A lease that outlives what later ones lie on.
@example(
    Quota.of(1.0, 20, None),
    [("fetch", 0, 1, 10), ("fetch", 1, 1, 10), ("give back", 0), ("wait", 10_000),
     ("spend all", 1), ("fetch", 2, 1, 40), ("spend all", 2), ("spend all", 1)],
)  # fmt: skip
# A lease that time has paid for.
@example(
    Quota.of(1.0, 20, None),
    [("fetch", 0, 1, 20), ("wait", 20_000), ("fetch", 1, 1, 20), ("spend all", 1),
     ("spend all", 0)],
)  # fmt: skip
# Rests of two, with another's in between, become one.
@example(
    Quota.of(1.0, 30, None),
    [("fetch", 0, 1, 10), ("fetch", 1, 1, 10), ("fetch", 2, 1, 10), ("give back", 0),
     ("give back", 2), ("wait", 10_000), ("fetch", 0, 1, 40), ("wait", 5_000),
     ("fetch", 2, 1, 40), ("spend all", 0), ("spend all", 1), ("spend all", 2)],
)  # fmt: skip
@example(
    Quota.of(1.0, 30, None),
    [("fetch", 0, 1, 10), ("fetch", 1, 1, 10), ("give back", 0), ("fetch", 0, 1, 20),
     ("wait", 10_000), ("fetch", 2, 1, 40), ("spend all", 0), ("spend all", 1), ("spend all", 2)],
)  # fmt: skip
# Rows of yesterday.
@example(
    Quota.of(None, 1, 50),
    [("fetch", 0, 1, 40), ("wait", 43_200_000), ("fetch", 1, 1, 40), ("give back", 0),
     ("spend all", 1), ("fetch", 2, 1, 40), ("spend all", 2)],
)  # fmt: skip
def test_no_window_and_no_day_holds_more_than_the_quota(redis, quota, deeds):
    world = World(redis, quota)
    for deed in deeds:
        act(world, *deed)
        # Greed finds what a random order misses: whatever is leased is spent at the worst time.
    for holder in range(3):
        act(world, "spend all", holder)
    world.check()


@settings(max_examples=500)
@given(QUOTAS, DEEDS)
def test_all_that_is_given_back_is_there_again(redis, quota, deeds):
    """Unspent rows count for nothing: after all is given back, a lone holder is admitted what a
    bucket admits that knows the spent rows alone, but for what two merged rests are unsure of."""
    world = World(redis, quota, holders=1)
    for deed, *arguments in deeds:
        if deed != "wait":
            arguments[0] = 0
        act(world, deed, *arguments)
    world.give_back(0)
    clear = 0
    for then, rows in world.spent:
        clear = max(clear, then * 1000) + rows * quota.interval
    debt = max(0, clear - world.time * 1000)
    rest = (quota.burst * quota.interval - debt) // quota.interval if quota.interval else 10**9
    if quota.per_day:
        today = world.time // (DAY_SECONDS * MICROSECONDS)
        used = sum(r for t, r in world.spent if t // (DAY_SECONDS * MICROSECONDS) == today)
        rest = min(rest, quota.per_day - used)
    granted = 0
    while rows := world.call(Ask(1, 1, 10**9, 1)).rows:
        granted += rows
    assert granted == rest


@given(QUOTAS, st.integers(1, 40), st.integers(0, 3), st.integers(0, 40_000))
def test_the_wait_is_exact(redis, quota, first, gives_back, wait):
    world = World(redis, quota, holders=1)
    world.fetch(0, 1, first)
    act(world, "spend", 0, min(first, 1 + gives_back))
    act(world, "wait", wait)
    world.give_back(0)
    if quota.burst < 2 or quota.per_day == 1:
        return
    held = 0
    while rows := world.call(Ask(1, 1, 10**9, 1)).rows:  # all that there is: it is not spent
        held += rows
    grant = world.call(Ask(2, 2, 2, 1))
    assert grant.rows == 0 or not held
    if grant.day_wait == 0 and grant.rate_wait:
        world.time += -(-grant.rate_wait // 1000) - 1
        assert world.call(Ask(2, 2, 2, 1)).rows == 0
        world.time += 1
        assert world.call(Ask(2, 2, 2, 1)).rows == 2


def test_near_the_limit_only_what_is_asked_is_granted(redis):
    world = World(redis, Quota.of(None, 1, 100))
    assert world.call(Ask(1, 1, 1000, 8)).rows == 12
    rows = [world.call(Ask(1, 1, 1000, 8)).rows for _ in range(60)]
    assert rows[0] == 11
    assert rows == sorted(rows, reverse=True)
    assert sum(rows) == 88
    assert 1 in rows
    assert rows[-1] == 0


def test_fewer_than_needed_are_not_granted_and_what_is_asked_may_exceed_the_part(redis):
    world = World(redis, Quota.of(1.0, 10, None))
    assert world.call(Ask(11, 11, 11, 1)).rows == 0
    assert world.call(Ask(1, 7, 7, 8)).rows == 7
    assert world.call(Ask(4, 9, 9, 8)).rows == 0
    assert world.call(Ask(2, 9, 9, 8)).rows == 3


def test_a_charge_is_made_once(redis):
    world = World(redis, Quota.of(1.0, 10, 100))
    day = NOON // DAY_SECONDS
    for _ in range(3):
        world.call(charge=Charge("r-1", 4 * NANOSECONDS, 30, day))
    assert world.call(Ask(1, 1, 100, 1)).rows == 6
    world.call(charge=Charge("r-2", 4 * NANOSECONDS, 30, day - 1))
    world.time += 100 * MICROSECONDS
    assert [world.call(Ask(10, 10, 10, 1)).rows for _ in range(2)] == [10, 0]
    world.time += 100 * MICROSECONDS
    assert sum(world.call(Ask(1, 1, 10, 1)).rows for _ in range(1)) == 10
    world.time += 100 * MICROSECONDS
    assert [world.call(Ask(1, 1, 5, 1)).rows for _ in range(9)] == [5, 5, 0, 0, 0, 0, 0, 0, 0]
    world.time += 10_000 * MICROSECONDS
    total = 0
    while rows := world.call(Ask(1, 1, 10, 1)).rows:
        total += rows
        world.time += 100 * MICROSECONDS
    assert total == 100 - 30 - 6 - 10 - 10 - 10


def test_what_counts_for_nothing_is_not_kept(redis):
    world = World(redis, Quota.of(1.0, 10, None))
    world.call(Ask(1, 1, 5, 1))
    assert redis.dbsize() == 1
    world.time += 5 * MICROSECONDS
    world.call()
    assert redis.dbsize() == 0


def test_what_counts_expires_by_itself_and_not_before(redis):
    redis.flushdb()
    for key, quota, least, most in (
        ("rate", Quota.of(0.1, 10, None), 99_000, 101_100),
        ("day", Quota.of(None, 1, 10), 0, DAY_SECONDS * 1000 + 1100),
        ("century", Quota.of(1e-6, 10**6, None), 10**12, 2**62),
    ):
        call = quota_call(key, quota, None, ask=Ask(1, 1, quota.burst or 10, 1))
        redis.execute_command(*call.command(whole=True))
        assert least <= redis.pttl(key) <= most


def test_a_server_clock_that_is_set_back_forgives_nothing(redis):
    world = World(redis, Quota.of(1.0, 10, None))
    assert world.call(Ask(1, 1, 10, 1)).rows == 10
    world.time -= 3600 * MICROSECONDS
    assert world.call(Ask(1, 1, 10, 1)).rows == 0
    world.time += 5 * MICROSECONDS
    assert world.call(Ask(1, 1, 10, 1)).rows == 5
