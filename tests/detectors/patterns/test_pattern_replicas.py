"""Replicas that exchange what they learnt know what one replica would know."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pattern_subjects import honest, probes, send, tracker

from detectors.patterns.evidence import HEADROOM
from detectors.patterns.exchange import Delta, Merged, Stretch
from detectors.patterns.exchanging import ExchangeError
from detectors.patterns.layout import CELLS, ENTRY, SUMS

steps = st.lists(st.floats(-5, 5), max_size=20)


def stretch(increments):
    whole = Stretch()
    for value in increments:
        whole = whole.then(Stretch(value, max(value, 0.0)))
    return whole


def cusum(level, increments):
    for value in increments:
        level = max(level + value, 0.0)
    return level


@given(st.floats(0, 50), steps)
def test_a_stretch_is_the_cusum_it_stands_for(level, increments):
    assert stretch(increments).after(level) == pytest.approx(cusum(level, increments), abs=1e-9)


@given(steps, steps, steps)
def test_stretches_compose_in_any_grouping(one, two, three):
    a, b, c = stretch(one), stretch(two), stretch(three)
    left, right = a.then(b).then(c), a.then(b.then(c))
    assert left == pytest.approx(right, abs=1e-9)
    assert left == pytest.approx(stretch(one + two + three), abs=1e-9)


class Store:
    """A state without faults or time: the least that the exchange asks for."""

    def __init__(self):
        self.records = {}

    def exchange(self, who, deltas):
        return [self.one(who, delta) for delta in deltas]

    def one(self, who, delta):
        record = self.records.setdefault(
            delta.key, {"levels": None, "sums": None, "marks": None, "entries": [], "epoch": 0}
        )
        if delta.epoch == record["epoch"]:
            before = record["levels"] or (0.0,) * len(delta.stretches)
            pairs = zip(delta.stretches, before, strict=True)
            record["levels"] = tuple(part.after(level) for part, level in pairs)
            if delta.sums:
                sums = np.frombuffer(delta.sums)
                record["sums"] = sums if record["sums"] is None else record["sums"] + sums
            if delta.marks:
                marks = np.frombuffer(delta.marks, np.uint8)
                known = record["marks"]
                record["marks"] = marks if known is None else np.maximum(known, marks)
            record["entries"] += [(who, entry) for entry in pieces(delta.entries)]
        after = record["entries"][delta.cursor :]
        new = [entry for sender, entry in after if sender != who or delta.cursor == 0]
        return Merged(
            delta.key,
            record["levels"] or (),
            b"" if record["sums"] is None else record["sums"].tobytes(),
            b"" if record["marks"] is None else record["marks"].tobytes(),
            b"".join(new),
            len(record["entries"]),
            record["epoch"],
        )


def pieces(data):
    return [data[i : i + ENTRY.itemsize] for i in range(0, len(data), ENTRY.itemsize)]


def sync(store, trackers, rounds=2):
    for _ in range(rounds):
        for who, watch in enumerate(trackers):
            watch.merge(store.exchange(who, watch.drain(1000)))


def settle(store, trackers, rows):
    """All tell, and then all ask."""
    for _ in range(2):
        for watch in trackers:
            watch.observe("a", "s", rows[:0], None, 0.0)
        sync(store, trackers, rounds=1)


def everything(watch, client):
    standing = watch.standing(client)
    return [*standing.evidence.values(), standing.queries, standing.coverage]


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=20, max_size=40), st.integers(0, 50))
def test_one_client_over_four_replicas_is_one_client(route, seed):
    store, trackers, alone = Store(), [tracker(), tracker(), tracker(), tracker()], tracker()
    rows = np.concatenate([honest(seed)[0][:20], probes(len(route), seed)])
    for watch in trackers:  # all know the client before it begins
        watch.observe("a", "s", rows[:0], None, 0.0)
    for index, who in enumerate(route):
        for watch in (trackers[who], alone):
            watch.observe("a", "s", rows[index][None], None, 0.0)
        settle(store, trackers, rows)
    for watch in trackers:
        assert everything(watch, "a") == pytest.approx(everything(alone, "a"), rel=1e-9, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=20, max_size=60))
def test_nothing_is_lost_or_counted_twice_whenever_replicas_sync(script):
    store, trackers = Store(), [tracker(), tracker(), tracker()]
    rows = honest(3)[0]
    for index, (who, syncs) in enumerate(script):
        trackers[who].observe("a", "s", rows[index][None], None, 0.0)
        if syncs:
            sync(store, [trackers[who]], rounds=1)
    sync(store, trackers)
    record = store.records["client:a"]
    assert record["sums"][-1] == len(script)
    assert len(record["entries"]) == len({entry for _, entry in record["entries"]}) == len(script)
    for who in {who for who, _ in script}:
        trackers[who].observe("a", "s", rows[:0], None, 0.0)
        sync(store, [trackers[who]], rounds=1)
        assert trackers[who].standing("a").queries == len(script)


def test_what_is_learnt_while_an_exchange_is_under_way_lies_on_top():
    store, watch, alone = Store(), tracker(), tracker()
    rows = np.concatenate([honest(7)[0][:20], probes(12)])
    for one in (watch, alone):
        one.observe("a", "s", rows[:26], None, 0.0)
    answers = store.exchange(0, watch.drain(100))
    for one in (watch, alone):
        one.observe("a", "s", rows[26:], None, 0.0)
    assert everything(alone, "a")[0] > 5.0
    watch.merge(answers)
    assert everything(watch, "a") == pytest.approx(everything(alone, "a"), rel=1e-9, abs=1e-9)
    sync(store, [watch], rounds=1)
    assert everything(watch, "a") == pytest.approx(everything(alone, "a"), rel=1e-9, abs=1e-9)


def test_an_attack_over_four_replicas_is_recognised():
    store, trackers = Store(), [tracker() for _ in range(4)]
    for index, row in enumerate(probes(60)):
        if trackers[index % 4].observe("a", "", row[None], None, index * 0.1):
            break
        sync(store, trackers, rounds=1)
    assert index < 20


def test_a_retry_at_another_replica_is_free():
    store, trackers = Store(), [tracker(), tracker()]
    rows = honest(4)[0][:40]
    for watch in trackers:
        watch.observe("a", "", rows[:0], None, 0.0)
    send(trackers[0], "a", rows, pace=0.0)
    sync(store, trackers)
    send(trackers[1], "a", rows, pace=0.0)
    assert trackers[1].standing("a").queries == 40


def test_a_client_seen_again_is_brought_back():
    store, watch = Store(), tracker(clients=1)
    send(watch, "a", honest(8)[0][:5], pace=0.0)
    before = everything(watch, "a")
    sync(store, [watch])
    watch.observe("b", "", honest(5)[0][:1], None, 1.0)
    sync(store, [watch])
    assert watch.standing("a") is None
    watch.observe("a", "", honest(8)[0][:0], None, 1.0)
    sync(store, [watch])
    assert everything(watch, "a") == pytest.approx(before, abs=0.01)
    watch.observe("a", "", honest(8)[0][:5], None, 1.0)
    assert watch.standing("a").queries == 5  # its retries are known too


def test_a_forgiven_client_is_forgiven_everywhere():
    store, watch = Store(), tracker()
    send(watch, "a", probes(40))
    sync(store, [watch])
    store.records["client:a"] = {
        "levels": (0.0, 0.0),
        "sums": None,
        "marks": None,
        "entries": [],
        "epoch": 1,
    }
    watch.observe("a", "", probes(41)[40:], None, 9.0)
    sync(store, [watch], rounds=1)
    assert everything(watch, "a") == [0.0, 0.0, 0, 0.0]


def test_lineages_join_over_replicas():
    store, trackers = Store(), [tracker(clients=128) for _ in range(2)]
    for index, row in enumerate(probes(60)):
        alarms = trackers[index % 2].observe(f"a{index}", "", row[None], None, index * 0.1)
        if alarms:
            break
        sync(store, trackers, rounds=1)
    assert index < 30


def test_what_waits_longest_is_told_first_and_once():
    watch = tracker()
    for name in "abcdef":
        watch.observe(name, "", honest(6)[0][:1], None, 0.0)
    first = [delta.key for delta in watch.drain(5)]
    second = [delta.key for delta in watch.drain(5)]
    assert first == ["endpoint", "shared", "client:a", "client:b", "client:c"]
    assert second == ["endpoint", "shared", "client:d", "client:e", "client:f"]
    assert [delta.key for delta in watch.drain(5)] == ["endpoint", "shared"]
    assert watch.drain(0) == []
    again = {delta.key: delta for delta in watch.drain(5)}
    assert again["endpoint"].sums == b"" and again["shared"].entries == b""


MALFORMED = {
    "sums too short": Merged("client:a", (0.0, 0.0), sums=bytes(8)),
    "sums not finite": Merged("client:a", (0.0, 0.0), sums=np.full(SUMS, np.nan).tobytes()),
    "marks too long": Merged("client:a", (0.0, 0.0), marks=bytes(CELLS + 1)),
    "half an entry": Merged("client:a", (0.0, 0.0), entries=bytes(ENTRY.itemsize // 2)),
    "one level": Merged("client:a", (0.0,)),
    "a level that is none": Merged("client:a", (0.0, float("nan"))),
    "shared entries": Merged("shared", entries=bytes(7)),
    "lineage levels": Merged("lineage:0000000000000001", (0.0, 1.0)),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_malformed_is_refused_and_changes_nothing(case):
    watch = tracker()
    send(watch, "a", probes(20))
    watch._arena.lineages.ids[0] = 1
    before = everything(watch, "a")
    with pytest.raises(ExchangeError):
        watch.merge([MALFORMED[case]])
    assert everything(watch, "a") == before


def test_what_is_not_tracked_here_is_passed_over():
    tracker().merge([Merged("client:x", (1.0, 1.0)), Merged("subnet:x"), Merged("lineage:ff")])
    assert isinstance(tracker().drain(2)[0], Delta)


@pytest.mark.parametrize("engine", ["numpy", "native"])
def test_a_level_that_others_brought_above_the_cap_is_not_taken_back(engine):
    """Each replica would take back the whole excess, and a blocked attacker would climb down."""
    watch = tracker(engine=engine)
    send(watch, "a", probes(40))
    watch.drain(100)
    cap = watch.standing("a").thresholds["probing"] + HEADROOM
    above = cap + 12.0
    watch.merge([Merged("client:a", (above, 0.0))])
    assert watch.standing("a").evidence["probing"] == pytest.approx(above)
    for row in probes(44)[40:]:
        assert watch.observe("a", "", row[None], None, 4.0)
    assert watch.standing("a").evidence["probing"] == pytest.approx(above, abs=0.1)
