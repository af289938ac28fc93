"""The law of the adaptive limit, against simulated servers: every moment is the test's own."""

from __future__ import annotations

import heapq
from collections import deque
from itertools import count
from math import inf
from random import Random

import pytest

from proxy.http.concurrency import Concurrency


class Server:
    """So many places, a queue of its own without end, and callers that always have more."""

    def __init__(self, places, seconds, *, limit=None, random=None):
        self.limit = limit or Concurrency(128)
        self.places, self.seconds = places, seconds
        self.random = random or Random(1)
        self.now = 0.0
        self.under_way = 0
        self.most = 0
        self._busy = 0
        self._queue = deque()
        self._ends = []
        self._number = count()
        self.latencies = deque(maxlen=200)
        self.answers = 0

    def send(self, size):
        assert self.under_way < self.limit.limit
        self.under_way += 1
        request = self.now, size, self.under_way
        if self._busy < self.places:
            self._begin(request)
        else:
            self._queue.append(request)

    def _begin(self, request):
        self._busy += 1
        end = self.now + self.seconds(request[1], self.random)
        heapq.heappush(self._ends, (end, next(self._number), request))

    def step(self):
        """One answer."""
        self.now, _, (since, size, among) = heapq.heappop(self._ends)
        self._busy -= 1
        self.under_way -= 1
        if self._queue:
            self._begin(self._queue.popleft())
        self.latencies.append(self.now - since)
        self.answers += 1
        self.limit.answered(self.now - since, size, among, self.now)

    def flood(self, seconds, sizes=(1000,)):
        """As many requests as the limit takes, at any time. Returns answers a second."""
        until, before, began = self.now + seconds, self.answers, self.now
        while self.now < until:
            while self.under_way < self.limit.limit:
                self.send(self.random.choice(sizes))
            self.limit.held(self.now)
            self.step()
        return (self.answers - before) / (self.now - began)

    def drain(self):
        while self.under_way:
            self.step()

    def trickle(self, requests, gap, size=1000):
        """One at a time."""
        self.drain()
        for _ in range(requests):
            self.now += gap
            self.send(size)
            self.step()

    @property
    def latency(self):
        return sum(self.latencies) / len(self.latencies)


def fixed(seconds):
    return lambda size, random: seconds


@pytest.mark.parametrize("places", [1, 4, 32])
def test_it_finds_what_a_server_can_do_at_once_and_no_more(places):
    server = Server(places, fixed(0.02))
    server.flood(20)
    rate = server.flood(10)
    assert rate > 0.95 * places / 0.02
    assert places <= server.limit.limit <= 3 * places + 8
    assert server.latency < 0.02 * (3.5 if places > 1 else 6)


def test_a_server_that_answers_at_once_keeps_all_of_it():
    server = Server(64, fixed(0.0005))
    server.flood(5)
    assert server.limit.limit == 128, "its latency is below what counts as queueing"


def test_no_traffic_to_speak_of_changes_nothing():
    server = Server(4, fixed(0.02))
    server.trickle(500, gap=1.0)
    assert server.limit.limit == 128
    assert server.limit.baseline == pytest.approx(0.02)


def test_a_server_that_becomes_slow_is_relearnt_while_it_is_flooded():
    server = Server(8, fixed(0.02))
    server.flood(10)
    server.seconds = fixed(0.1)
    server.flood(300)
    assert server.flood(20) > 0.9 * 8 / 0.1
    assert server.limit.limit >= 8


def test_a_server_that_becomes_slow_is_relearnt_at_once_when_it_is_hardly_asked():
    server = Server(8, fixed(0.02))
    server.flood(10)
    server.trickle(100, gap=0.5)
    server.seconds = fixed(0.1)
    server.trickle(200, gap=0.5)
    assert server.limit.baseline == pytest.approx(0.1, rel=0.1)
    assert server.flood(20) > 0.9 * 8 / 0.1


def test_a_server_that_becomes_fast_is_given_more():
    server = Server(4, fixed(0.1))
    server.flood(20)
    before = server.limit.limit
    server.places = 16
    server.seconds = fixed(0.02)
    server.flood(20)
    assert server.limit.limit > 2 * before
    assert server.flood(10) > 0.9 * 16 / 0.02


@pytest.mark.parametrize("sigma", [0.3, 0.8, 1.2])
def test_jitter_starves_nobody(sigma):
    server = Server(4, lambda size, random: 0.02 * random.lognormvariate(0, sigma))
    server.flood(30)
    mean = 0.02 * 2.718281828 ** (sigma * sigma / 2)
    assert server.flood(30) > 0.85 * 4 / mean
    assert 4 <= server.limit.limit <= 40


def test_a_change_of_the_mix_of_rows_is_no_change_of_speed():
    server = Server(4, lambda size, random: 0.005 if size < 1000 else 0.1)
    server.trickle(30, gap=0.5, size=100)
    server.trickle(30, gap=0.5, size=100_000)
    server.flood(10, sizes=(100,))
    few = server.limit.limit
    server.flood(30, sizes=(100_000,))
    assert server.limit.limit >= 4
    assert server.flood(20, sizes=(100_000,)) > 0.9 * 4 / 0.1
    assert server.flood(30, sizes=(100, 100_000)) > 0.85 * 4 / 0.0525
    assert few >= 4


def test_a_kind_that_was_never_seen_does_not_pass_for_slow():
    server = Server(4, lambda size, random: 0.005 if size < 1000 else 0.1)
    server.trickle(30, gap=0.5, size=100)
    server.flood(10, sizes=(100,))
    server.flood(15, sizes=(100_000,))
    assert server.limit.limit >= 8


def test_a_server_that_stops_is_given_the_least():
    limit = Concurrency(128)
    for moment in range(10):
        limit.answered(0.02, 1000, 1, moment * 0.1)
    for moment in range(200):
        limit.missed(5.0, 1000, 10.0 + moment)
    assert 4 <= limit.limit <= 8
    server = Server(4, fixed(0.02), limit=limit)
    server.now = 300.0
    assert server.flood(20) > 0.9 * 4 / 0.02, "and recovers"


def test_a_probe_that_nobody_answers_ends():
    server = Server(4, fixed(0.02))
    server.flood(200)
    limit = server.limit
    lows = set()
    for _ in range(100_000):
        limit.held(server.now)
        server.now += 0.01
        limit.answered(5.0, 1000, 100, server.now)
        lows.add(limit.limit)
    assert 1 in lows
    assert max(lows) >= 4
    assert limit.limit >= 1


def test_it_never_leaves_its_bounds():
    random = Random(7)
    limit = Concurrency(50)
    now = 0.0
    for _ in range(20_000):
        now += random.random() * 0.1
        if random.random() < 0.3:
            limit.held(now)
        size, among = random.randrange(1 << 20), random.randrange(1, 50)
        limit.answered(random.expovariate(20), size, among, now)
        assert 1 <= limit.limit <= 50


def test_a_limit_that_is_switched_off_stays():
    server = Server(1, fixed(0.02), limit=Concurrency(64, inf))
    server.flood(60)
    assert server.limit.limit == 64


def test_a_limit_below_the_least_stays():
    server = Server(1, fixed(0.02), limit=Concurrency(2))
    server.flood(10)
    assert 1 <= server.limit.limit <= 2


@pytest.mark.parametrize(("slow", "share"), [(5.0, 0.3), (1.0, 0.4), (20.0, 0.1)])
def test_requests_that_are_slow_by_themselves_take_no_place_from_others(slow, share):
    def seconds(size, random):
        return slow if random.random() < share else 0.01

    server = Server(10_000, seconds, limit=Concurrency(256))
    server.trickle(50, gap=0.1)
    for _ in range(2000):
        while server.under_way < min(120, server.limit.limit):
            server.send(1000)
        if server.under_way >= server.limit.limit:
            server.limit.held(server.now)
        server.step()
        assert server.limit.limit == 256


def test_a_probe_raises_the_baseline_by_a_fourth_at_most():
    limit, now = Concurrency(256), 0.0
    for _ in range(40):
        now += 0.02
        limit.answered(0.01, 1000, 1, now)
    risen = []
    while now < 100:
        now += 0.1
        for _ in range(max(1, limit.limit)):
            limit.held(now)
            limit.answered(0.1, 1000, limit.limit, now)
        if not risen or limit.baseline > risen[-1]:
            risen.append(limit.baseline)
    ends = [0.01 * 1.25**probe for probe in range(4)]  # three probes in a hundred seconds
    assert risen[-1] == pytest.approx(ends[-1])
    assert {round(end, 9) for end in ends} <= {round(base, 9) for base in risen}


def test_what_is_asked_of_other_sizes_moves_no_baseline():
    limit, now = Concurrency(256), 0.0
    for _ in range(60):
        now += 0.2
        limit.answered(0.1, 1000, 1, now)
    for kind in range(12, 22):  # slow at a quiet moment, and fast under load
        now += 3
        limit.answered(3.0, 1 << kind, 1, now)
    for turn in range(40):
        for _ in range(20):
            now += 0.01
            limit.held(now)
            limit.answered(0.1, 1000, 20, now)
        limit.answered(0.1, 1 << (12 + turn % 10), 20, now)
        assert limit.limit == 256


def test_a_probe_ends_in_time_whatever_ends_or_does_not():
    server = Server(4, fixed(0.02))
    limit = server.limit
    while limit.limit > 1:
        server.flood(1)
    limit.check(server.now + 1000)
    assert limit.limit >= 4
