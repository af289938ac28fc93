"""What a replica admits by itself, and how it is charged."""

from proxy.state.base import DAY_SECONDS, NANOSECONDS, Quota
from proxy.state.redis.lease import Lease
from proxy.state.redis.overdraft import Overdraft, OverdraftBook, share_of

DAY = 20_000
NOON = DAY * DAY_SECONDS + DAY_SECONDS / 2
SECOND = NANOSECONDS


def admitted(overdraft, share, tries, now=0, wall=NOON, lease=None):
    count = 0
    for _ in range(tries):
        if overdraft.waits(share, 1, now, wall, lease) == (0, 0):
            overdraft.take(share, 1, now)
            if lease is not None:
                whole = Quota(share.interval // 4, share.burst * 4, share.per_day * 4)
                lease.draw(1, whole, 4, now, int(wall) // DAY_SECONDS)
            count += 1
    return count


def test_shares_add_up_to_the_quota_or_to_a_row_each():
    quota = Quota.of(10.0, 10, 100)
    assert share_of(quota, 4) == Quota(4 * quota.interval, 2, 25)
    assert share_of(quota, 200) == Quota(200 * quota.interval, 1, 1)
    assert share_of(Quota(), 4) == Quota()


def test_a_share_lasts_over_all_outages():
    overdraft, share = Overdraft(), share_of(Quota.of(1.0, 40, None), 4)
    assert admitted(overdraft, share, 100) == 10
    overdraft.charge(Quota.of(1.0, 40, None), share, 0, "id")
    overdraft.pending = None
    assert admitted(overdraft, share, 100) == 0
    assert admitted(overdraft, share, 100, now=8 * SECOND) == 2


def test_who_leased_the_share_before_has_none_left():
    quota = Quota.of(1.0, 40, 100)
    lease, share = Lease(), share_of(quota, 4)
    lease.draw(6, quota, 4, 0, DAY)
    assert admitted(Overdraft(), share, 100, lease=lease) == 4
    lease.draw(1000, quota, 4, 0, DAY)
    assert admitted(Overdraft(), share, 100, lease=lease) == 0
    assert admitted(Overdraft(), share, 100, now=400 * SECOND, lease=lease) == 0  # of the day
    tomorrow = NOON + DAY_SECONDS
    assert admitted(Overdraft(), share, 100, now=400 * SECOND, wall=tomorrow, lease=lease) == 10


def test_a_charge_stays_the_same_until_it_is_known_to_be_made():
    quota = Quota.of(1.0, 40, 100)
    overdraft, share = Overdraft(), share_of(quota, 4)
    admitted(overdraft, share, 5)
    first = overdraft.charge(quota, share, 0, "one")
    assert (first.id, first.debt, first.rows, first.day) == ("one", 5 * SECOND, 5, DAY)
    admitted(overdraft, share, 2)
    again = overdraft.charge(quota, share, 3 * SECOND, "two")
    assert (again.id, again.debt, again.rows) == ("one", 2 * SECOND, 5)
    overdraft.pending = None
    assert overdraft.is_owing
    rest = overdraft.charge(quota, share, 0, "three")
    assert (rest.id, rest.debt, rest.rows) == ("three", 2 * SECOND, 2)
    overdraft.pending = None
    assert not overdraft.is_owing


def test_what_time_has_paid_is_not_charged_but_for_the_day():
    quota = Quota.of(1.0, 40, 1000)
    overdraft, share = Overdraft(), share_of(quota, 4)
    admitted(overdraft, share, 8)
    charge = overdraft.charge(quota, share, 16 * SECOND, "one")  # half of it, a row in 4 seconds
    assert (charge.debt, charge.rows) == (4 * SECOND, 8)


def test_rows_of_yesterday_are_not_charged_to_today():
    quota = Quota.of(None, 1, 100)
    overdraft, share = Overdraft(), share_of(quota, 4)
    admitted(overdraft, share, 8)
    assert admitted(overdraft, share, 3, wall=NOON + DAY_SECONDS) == 3
    charge = overdraft.charge(quota, share, 0, "one")
    assert (charge.rows, charge.day) == (3, DAY + 1)


def test_more_than_a_share_waits_for_all_of_it():
    overdraft, share = Overdraft(), share_of(Quota.of(1.0, 40, None), 4)
    assert overdraft.waits(share, 11, 0, NOON) == (40, 0)
    daily = share_of(Quota.of(None, 1, 100), 4)
    assert overdraft.waits(daily, 26, 0, NOON) == (0, DAY_SECONDS // 2 + 1)


def test_newcomers_without_room_share_one():
    book, share = OverdraftBook(5), share_of(Quota.of(1.0, 40, None), 4)
    for number in range(5):
        book.find(f"k{number}", 0, NOON).take(share, 1, 0)
    late = book.find("late", 0, NOON)
    assert book.find("later", 0, NOON) is late
    assert book.find("k0", 0, NOON) is not late


def test_what_was_spent_already_is_owed_whether_the_share_holds_it_or_not():
    quota = Quota.of(1.0, 40, 100)
    overdraft, share = Overdraft(), share_of(quota, 4)
    overdraft.owe(share, 30, 0, NOON)
    assert overdraft.waits(share, 1, 0, NOON) == (85, DAY_SECONDS // 2 + 1)
    charge = overdraft.charge(quota, share, 0, "one")
    assert (charge.debt, charge.rows, charge.day) == (30 * SECOND, 30, DAY)
    overdraft.owe(share, 5, 0, NOON + DAY_SECONDS)
    overdraft.made(charge)
    charge = overdraft.charge(quota, share, 0, "two")
    assert (charge.rows, charge.day) == (5, DAY + 1)


def test_a_charge_that_two_calls_carried_does_not_forgive_the_next():
    quota = Quota.of(1.0, 40, None)
    overdraft, share = Overdraft(), share_of(quota, 4)
    overdraft.owe(share, 3, 0, NOON)
    first = overdraft.charge(quota, share, 0, "one")
    overdraft.made(first)
    overdraft.owe(share, 2, 0, NOON)
    second = overdraft.charge(quota, share, 0, "two")
    overdraft.made(first)
    assert overdraft.is_owing
    overdraft.made(second)
    assert not overdraft.is_owing
