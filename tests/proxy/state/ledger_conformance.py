"""What every backend of the state must do. A backend's test file subclasses these classes, gives
``make`` and inherits the cases.
"""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.state.base import DAY_SECONDS, NANOSECONDS, Denial, LeaseNeeded, Quota

NOON = 20_000 * DAY_SECONDS + DAY_SECONDS / 2


class Clock:
    """Both clocks, which only the test moves. Whole 1/1024 s, so that floats are exact."""

    def __init__(self, now=1000.0, wall=NOON):
        self.now = now
        self.time = wall

    def wall(self):
        return self.time

    def advance(self, seconds):
        self.now += seconds
        self.time += seconds


class Model:
    """The same quotas as token buckets over fractions: slow, and plainly right."""

    def __init__(self, quotas):
        self.quotas = quotas
        self.tokens = {}
        self.used = {}

    def take(self, keys, rows, clock):
        """Whether the rows are admitted."""
        now, day = Fraction(clock.now), int(clock.time // DAY_SECONDS)
        after = {}
        admitted = True
        for scope, (quota, key) in enumerate(zip(self.quotas, keys, strict=True)):
            if not key:
                continue
            if quota.interval:
                tokens, then = self.tokens.get((scope, key), (Fraction(quota.burst), now))
                tokens += (now - then) * NANOSECONDS / quota.interval
                after[scope, key] = min(tokens, Fraction(quota.burst)) - rows
                admitted &= after[scope, key] >= 0
            if quota.per_day:
                admitted &= self.used.get((scope, key, day), 0) + rows <= quota.per_day
        if admitted:
            self._spend(keys, rows, after, now, day)
        return admitted

    def charge(self, keys, rows, clock):
        """Takes the rows, there or not."""
        now, day = Fraction(clock.now), int(clock.time // DAY_SECONDS)
        after = {}
        for scope, (quota, key) in enumerate(zip(self.quotas, keys, strict=True)):
            if key and quota.interval:
                tokens, then = self.tokens.get((scope, key), (Fraction(quota.burst), now))
                tokens += (now - then) * NANOSECONDS / quota.interval
                after[scope, key] = min(tokens, Fraction(quota.burst)) - rows
        self._spend(keys, rows, after, now, day)

    def _spend(self, keys, rows, after, now, day):
        for place, tokens in after.items():
            self.tokens[place] = tokens, now
        for scope, key in enumerate(keys):
            self.used[scope, key, day] = self.used.get((scope, key, day), 0) + rows


QUOTAS = st.builds(
    Quota.of,
    st.sampled_from([None, 0.5, 1.0, 3.0, 7.5, 100.0, 1e6]),
    st.integers(1, 20),
    st.one_of(st.none(), st.integers(1, 60)),
)
KEYS = st.tuples(st.sampled_from("abc"), st.sampled_from(["s", "t", ""]), st.just("*"))
STEPS = st.lists(
    st.tuples(
        KEYS,
        st.integers(1, 22),
        st.one_of(
            st.sampled_from([0.0, 0.0, 1 / 1024, 1.0, 40_000.0]),
            st.integers(0, 4096).map(lambda ticks: ticks / 1024),
        ),
    ),
    max_size=60,
)


class Decided:
    """A ledger whose leases are fetched where a take lacks them."""

    def __init__(self, ledger, wait, run=None):
        self._ledger = ledger
        self._wait = wait
        self.run = run
        self.known = ledger.known
        self.charge = ledger.charge

    def charge_and_tell(self, keys, rows, now):
        """As the ledger's ``charge``; a shared backend's others know of it afterwards."""
        self._ledger.charge(keys, rows, now)
        if self.run is not None:
            self._wait(self._ledger.settle(self.run))

    def take(self, keys, rows, now):
        """As the ledger's; one refill must do."""
        try:
            return self._ledger.take(keys, rows, now)
        except LeaseNeeded as needed:
            assert (tuple(needed.keys), needed.rows) == (tuple(keys), rows)
            self._wait(self._ledger.refill(needed))
        return self._ledger.take(keys, rows, now)


class LedgerConformance:
    """The cases. ``make(clock, most=…)`` gives a fresh ``State``, and ``wait`` runs a coroutine.

    ``Clock`` is the clock that the backend can follow, and ``TICK`` its smallest step.
    """

    Clock = Clock
    TICK = 1 / 1024

    def decided(self, state, quotas, name="endpoint"):
        return Decided(state.ledger(name, quotas), self.wait)

    def ledger(self, clock, *quotas, most=1000):
        return self.decided(self.make(clock, most=most), quotas)

    def test_exactly_the_burst_is_admitted(self):
        clock = self.Clock()
        ledger = self.ledger(clock, Quota.of(100.0, 500, None))
        admitted = sum(ledger.take(["a"], 1, clock.now) is None for _ in range(12_800))
        assert admitted == 500

    def test_the_rate_refills_what_was_taken(self):
        clock = self.Clock()
        ledger = self.ledger(clock, Quota.of(100.0, 500, None))
        assert ledger.take(["a"], 500, clock.now) is None
        assert ledger.take(["a"], 1, clock.now) == Denial(0, False, 1)
        clock.advance(0.25)
        assert ledger.take(["a"], 26, clock.now) == Denial(0, False, 1)
        assert ledger.take(["a"], 25, clock.now) is None
        clock.advance(1000)
        assert ledger.take(["a"], 500, clock.now) is None
        assert ledger.take(["a"], 500, clock.now) == Denial(
            0, False, 6
        )  # 5 s, and the clock's grain

    def test_keys_are_apart_and_an_empty_key_is_not_counted(self):
        clock = self.Clock()
        ledger = self.ledger(clock, Quota.of(1.0, 1, None), Quota.of(1.0, 2, None))
        assert ledger.take(["a", "s"], 1, clock.now) is None
        assert ledger.take(["b", "s"], 1, clock.now) is None
        assert ledger.take(["c", "s"], 1, clock.now) == Denial(1, False, 2)
        assert ledger.take(["c", ""], 1, clock.now) is None

    def test_a_denial_takes_nothing_anywhere(self):
        clock = self.Clock()
        ledger = self.ledger(
            clock, Quota.of(1.0, 10, 20), Quota.of(1.0, 10, 20), Quota.of(1.0, 5, None)
        )
        for _ in range(50):
            assert ledger.take(["a", "s", "*"], 6, clock.now) == Denial(2, False, None)
        assert ledger.take(["a", "s", "*"], 5, clock.now) is None
        for _ in range(50):
            assert ledger.take(["a", "s", "*"], 5, clock.now).scope == 2
        assert ledger.take(["a", "s", ""], 5, clock.now) is None
        assert ledger.take(["a", "s", ""], 1, clock.now).retry_after == 2

    def test_more_than_a_quota_holds_can_never_pass(self):
        clock = self.Clock()
        ledger = self.ledger(clock, Quota.of(1.0, 10, None), Quota.of(None, 1, 5))
        assert ledger.take(["a", "s"], 11, clock.now) == Denial(0, False, None)
        assert ledger.take(["a", "s"], 6, clock.now) == Denial(1, True, None)

    def test_a_day_ends_at_midnight_utc(self):
        clock = self.Clock(wall=NOON + 0.5)
        ledger = self.ledger(clock, Quota.of(None, 1, 100))
        assert ledger.take(["a"], 100, clock.now) is None
        denial = ledger.take(["a"], 1, clock.now)
        assert denial == Denial(0, True, DAY_SECONDS // 2)
        clock.advance(DAY_SECONDS / 2 - 0.5 - self.TICK)
        assert ledger.take(["a"], 1, clock.now) == Denial(0, True, 1)
        clock.advance(self.TICK)
        assert ledger.take(["a"], 100, clock.now) is None
        assert ledger.take(["a"], 1, clock.now).daily

    def test_a_wall_clock_set_back_over_midnight_opens_no_new_day(self):
        clock = self.Clock(wall=20_001 * DAY_SECONDS + 5.0)
        ledger = self.ledger(clock, Quota.of(None, 1, 100))
        assert ledger.take(["a"], 100, clock.now) is None
        clock.time -= 10
        assert ledger.take(["a"], 1, clock.now) == Denial(0, True, DAY_SECONDS + 5 + 1)
        clock.now += 2
        clock.time -= 5 * DAY_SECONDS  # it was wrong before: nobody is locked out for days
        assert ledger.take(["a"], 1, clock.now) is None

    def test_the_longest_wait_is_the_answer(self):
        clock = self.Clock()
        ledger = self.ledger(clock, Quota.of(1.0, 10, None), Quota.of(0.1, 10, None))
        assert ledger.take(["a", "s"], 10, clock.now) is None
        denial = ledger.take(["a", "s"], 1, clock.now)
        assert (denial.scope, denial.retry_after) == (1, 11)

    def test_a_take_is_of_at_least_one_row(self):
        ledger = self.ledger(self.Clock(), Quota.of(1.0, 1, None))
        for rows in (0, -1):
            with pytest.raises(ValueError, match="at least one"):
                ledger.take(["a"], rows, 0.0)

    def test_new_quotas_keep_what_was_used(self):
        clock = self.Clock()
        state = self.make(clock, most=1000)
        ledger = self.decided(state, [Quota.of(1.0, 10, 10)])
        assert ledger.take(["a"], 10, clock.now) is None
        again = self.decided(state, [Quota.of(1.0, 10, 12), Quota()])
        assert again.take(["a", "s"], 1, clock.now) is not None
        clock.advance(5)
        assert again.take(["a", "s"], 3, clock.now).daily
        assert again.take(["a", "s"], 2, clock.now) is None
        other = self.decided(state, [Quota.of(1.0, 10, 10)], "other")
        assert other.take(["a"], 10, clock.now) is None

    def test_the_number_of_known_keys_is_bounded(self):
        clock = self.Clock()
        ledger = self.ledger(clock, Quota.of(10.0, 1, None), most=50)
        for number in range(5000):
            assert ledger.take([f"k{number}"], 1, clock.now) is None
            clock.advance(1 / 8)
        assert ledger.known()[0] <= 50

    @given(st.lists(QUOTAS, min_size=3, max_size=3), STEPS)
    def test_it_admits_what_the_model_admits(self, quotas, steps):
        clock = self.Clock()
        ledger = self.ledger(clock, *quotas)
        model = Model(quotas)
        for keys, rows, seconds in steps:
            clock.advance(seconds)
            denial = ledger.take(keys, rows, clock.now)
            assert (denial is None) == model.take(keys, rows, clock)

    def test_a_charge_is_never_denied_and_a_debt_melts(self):
        clock = self.Clock()
        ledger = self.ledger(clock, Quota.of(10.0, 20, None))
        ledger.charge(["a"], 100, clock.now)
        assert ledger.take(["a"], 1, clock.now) == Denial(0, False, 9)  # 8.1 s
        assert ledger.take(["b"], 20, clock.now) is None
        clock.advance(8)
        assert ledger.take(["a"], 1, clock.now) == Denial(0, False, 1)
        clock.advance(0.125)
        assert ledger.take(["a"], 1, clock.now) is None
        clock.advance(100)
        assert ledger.take(["a"], 20, clock.now) is None

    def test_a_charge_of_what_is_there_is_a_take(self):
        clock = self.Clock()
        ledger = self.ledger(clock, Quota.of(1.0, 10, 10))
        assert ledger.take(["a"], 2, clock.now) is None
        ledger.charge(["a"], 3, clock.now)
        assert ledger.take(["a"], 6, clock.now) is not None
        clock.advance(1)
        assert ledger.take(["a"], 5, clock.now) is None
        assert ledger.take(["a"], 1, clock.now).daily

    def test_a_charge_counts_for_its_day_alone(self):
        clock = self.Clock()
        ledger = self.ledger(clock, Quota.of(None, 1, 100))
        ledger.charge(["a"], 1000, clock.now)
        assert ledger.take(["a"], 1, clock.now) == Denial(0, True, DAY_SECONDS // 2 + 1)
        clock.advance(DAY_SECONDS / 2)
        assert ledger.take(["a"], 100, clock.now) is None
        assert ledger.take(["a"], 1, clock.now).daily

    def test_every_scope_with_a_key_is_charged(self):
        clock = self.Clock()
        ledger = self.ledger(clock, *[Quota.of(1.0, 10, None)] * 3)
        ledger.charge(["a", "", "*"], 10, clock.now)
        assert ledger.take(["b", "", "*"], 1, clock.now).scope == 2
        assert ledger.take(["a", "", ""], 1, clock.now).scope == 0
        assert ledger.take(["b", "s", ""], 10, clock.now) is None

    def test_a_charge_is_of_at_least_one_row(self):
        ledger = self.ledger(self.Clock(), Quota.of(1.0, 1, None))
        for rows in (0, -1):
            with pytest.raises(ValueError, match="at least one"):
                ledger.charge(["a"], rows, 0.0)

    @given(st.lists(QUOTAS, min_size=3, max_size=3), STEPS, st.integers(2, 5))
    def test_after_charges_it_admits_what_the_model_admits(self, quotas, steps, turn):
        clock = self.Clock()
        ledger = self.ledger(clock, *quotas)
        model = Model(quotas)
        for number, (keys, rows, seconds) in enumerate(steps):
            clock.advance(seconds)
            if number % turn == 0:
                ledger.charge_and_tell(keys, rows, clock.now)
                model.charge(keys, rows, clock)
            denial = ledger.take(keys, rows, clock.now)
            assert (denial is None) == model.take(keys, rows, clock)

    @given(QUOTAS, STEPS)
    def test_no_window_holds_more_than_the_quota(self, quota, steps):
        clock = self.Clock()
        ledger = self.ledger(clock, quota)
        taken = []
        for _, rows, seconds in steps:
            clock.advance(seconds)
            if ledger.take(["a"], rows, clock.now) is None:
                taken.append((Fraction(clock.now), int(clock.time // DAY_SECONDS), rows))
        for first in range(len(taken)):
            total = 0
            for then, _, rows in taken[first:]:
                total += rows
                if quota.interval:
                    window = then - taken[first][0]
                    assert total <= quota.burst + window * NANOSECONDS / quota.interval
        if quota.per_day:
            for day in {day for _, day, _ in taken}:
                assert sum(rows for _, that, rows in taken if that == day) <= quota.per_day

    @given(st.lists(QUOTAS, min_size=3, max_size=3), STEPS, st.floats(0, 1e9))
    def test_a_retry_after_the_wait_passes(self, quotas, steps, start):
        clock = self.Clock(now=start, wall=NOON + start)
        ledger = self.ledger(clock, *quotas)
        for keys, rows, seconds in steps:
            clock.advance(seconds)
            denial = ledger.take(keys, rows, clock.now)
            if denial is None:
                continue
            if denial.retry_after is None:
                assert any(
                    rows > quota.most() for quota, key in zip(quotas, keys, strict=True) if key
                )
                continue
            assert denial.retry_after >= 1
            clock.advance(denial.retry_after)
            assert ledger.take(keys, rows, clock.now) is None

    @given(QUOTAS, st.integers(1, 20), st.integers(1, 20))
    def test_the_wait_is_no_longer_than_it_must_be(self, quota, first, second):
        clock = self.Clock()
        ledger = self.ledger(clock, quota)
        ledger.take(["a"], first, clock.now)
        denial = ledger.take(["a"], second, clock.now)
        if denial is None or denial.retry_after is None:
            return
        # A second for rounding up, and one more where the clock's grain tips it over.
        clock.advance(max(0, denial.retry_after - 2))
        assert denial.retry_after <= 2 or ledger.take(["a"], second, clock.now) is not None
