"""What every backend of the sketches must do. A backend's test file subclasses
``SketchesConformance``, gives the fixture ``world`` and inherits the cases.

A world has ``sketches(replica, layout, name)``, those of one replica; ``advance(seconds)``, by
which its clocks go on; ``clear()``, which forgets everything; and ``run(coroutine)``. A backend of
one worker gives the same sketches whichever replica is asked for: then all trackers are of that
worker.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detectors.patterns.exchange import Delta, Layout, Merged, Stretch

DAY = 86_400.0
HOUR = 3600.0
# Levels that do not fall, as a server's clock cannot be stopped.
STILL = Layout(entry_bytes=2, ring=5, shared_ring=9, recovery=0.0)
FALLING = Layout(entry_bytes=2, ring=5, shared_ring=9)
# A server's own clock goes on while a test runs.
MOMENT = 0.01
REPLICAS = 3
SUMS, MARKS = 3, 7
KEYS = ("client:a", "subnet:b", "shared")


def doubles(*numbers):
    """As in ``Delta.sums``."""
    return np.array(numbers, "<f8").tobytes()


def evidence(*nats):
    """The stretches of families that each went up by so much."""
    return tuple(Stretch(each, max(0.0, each)) for each in nats)


@dataclass
class Learnt:
    """What one replica learns of a key between two exchanges."""

    increments: tuple = ((), ())
    sums: np.ndarray = field(default_factory=lambda: np.zeros(SUMS))
    marks: np.ndarray = field(default_factory=lambda: np.zeros(MARKS, "u1"))
    entries: tuple = ()

    def delta(self, key, cursor, epoch):
        """As it is told."""
        stretches = []
        for increments in self.increments:
            whole = Stretch()
            for increment in increments:
                whole = whole.then(Stretch(increment, max(0.0, increment)))
            stretches.append(whole)
        return Delta(
            key, tuple(stretches), doubles(*self.sums), self.marks.tobytes(),
            b"".join(self.entries), cursor, epoch,
        )  # fmt: skip


class Model:
    """One key as it plainly is: every increment and every entry, one after the other."""

    def __init__(self, ring):
        self.ring = ring
        self.levels = [0.0, 0.0]
        self.sums = np.zeros(SUMS)
        self.marks = np.zeros(MARKS, "u1")
        self.entries = []
        self.epoch = 0

    def forgiven(self):
        """The same key, forgiven."""
        model = Model(self.ring)
        model.entries = [b""] * len(self.entries)
        model.epoch = self.epoch + 1
        return model

    def exchange(self, learnt, cursor, epoch):
        """The entries that this delta brings back."""
        new = self.entries[max(cursor, len(self.entries) - self.ring) :]
        if epoch == self.epoch:
            for family, increments in enumerate(learnt.increments):
                for increment in increments:
                    self.levels[family] = max(0.0, self.levels[family] + increment)
            self.sums = self.sums + learnt.sums
            self.marks = np.maximum(self.marks, learnt.marks)
            self.entries = self.entries + list(learnt.entries[-self.ring :])
        return b"".join(new)

    def check(self, merged):
        """That an answer tells what is."""
        levels = [*merged.levels, 0.0, 0.0][:2]  # a family that nobody told of stands at 0
        assert levels == pytest.approx(self.levels, abs=1e-9)
        assert merged.cursor == len(self.entries)
        if self.sums.any() or merged.sums:
            assert np.frombuffer(merged.sums) == pytest.approx(self.sums, abs=1e-9)
        if self.marks.any() or merged.marks:
            assert merged.marks == self.marks.tobytes()


@dataclass
class Tracked:
    """What one replica holds of one key: the part of a tracker that matters here."""

    cursor: int = 0
    epoch: int = 0
    model_epoch: int = 0


INCREMENTS = st.lists(st.floats(-3, 3, width=32), max_size=4)
STEPS = st.lists(
    st.tuples(
        st.integers(0, REPLICAS - 1),
        st.sampled_from(KEYS),
        st.builds(
            Learnt,
            st.tuples(INCREMENTS, INCREMENTS),
            st.lists(st.integers(-999, 999), min_size=SUMS, max_size=SUMS).map(np.array),
            st.lists(st.integers(0, 255), min_size=MARKS, max_size=MARKS).map(
                lambda marks: np.array(marks, "u1")
            ),
            st.integers(0, 12).map(lambda count: (b"",) * count),
        ),
        st.sampled_from(["exchange"] * 6 + ["restart", "forgive"]),
    ),
    max_size=25,
)


def numbered(steps):
    """The steps, each entry in them unlike any other."""
    number = 0
    for replica, key, learnt, action in steps:
        count = len(learnt.entries)
        learnt.entries = tuple((number + index).to_bytes(2, "little") for index in range(count))
        number += count
        yield replica, key, learnt, action


class SketchesConformance:
    """The cases."""

    @given(steps=STEPS)
    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    def test_replicas_in_any_order_and_grouping_equal_one(self, world, steps):
        world.clear()
        replicas = [world.sketches(replica, STILL) for replica in range(REPLICAS)]
        models = {key: Model(STILL.ring_of(key)) for key in KEYS}
        tracked = defaultdict(Tracked)
        for replica, key, learnt, action in numbered(steps):
            if action == "forgive":
                world.run(replicas[replica].forgive("a"))
                models["client:a"] = models["client:a"].forgiven()
            if action == "restart":
                tracked[replica, key] = Tracked(
                    0, tracked[replica, key].epoch, tracked[replica, key].model_epoch
                )
            here, model = tracked[replica, key], models[key]
            delta = learnt.delta(key, here.cursor, here.epoch)
            expected = model.exchange(learnt, here.cursor, here.model_epoch)
            (merged,) = world.run(replicas[replica].exchange([delta]))
            assert merged.key == key
            assert merged.entries == expected
            model.check(merged)
            assert merged.epoch >= here.epoch
            assert (merged.epoch > here.epoch) is (model.epoch > here.model_epoch)
            tracked[replica, key] = Tracked(merged.cursor, merged.epoch, model.epoch)

    def test_one_clients_evidence_over_four_replicas_is_that_of_one(self, world):
        random = np.random.default_rng(3)
        increments = random.normal(0.0, 1.0, 400).tolist()
        together = world.sketches(0, STILL, "together")
        apart = [world.sketches(replica, STILL, "apart") for replica in range(4)]
        at = 0
        while at < len(increments):
            count = int(random.integers(1, 8))
            part = Learnt((tuple(increments[at : at + count]), ()))
            delta = part.delta("client:c", 0, 0)
            world.run(apart[int(random.integers(4))].exchange([delta]))
            at += count
        for increment in increments:
            world.run(together.exchange([Learnt(((increment,), ())).delta("client:c", 0, 0)]))
        level = 0.0
        for increment in increments:
            level = max(0.0, level + increment)
        for sketches in (together, apart[1]):
            assert world.run(sketches.look("client:c")).levels[0] == pytest.approx(level)

    def test_many_keys_at_once_are_all_answered(self, world):
        sketches = world.sketches(0, STILL)
        deltas = [Delta(f"client:{number}", evidence(number / 100)) for number in range(500)]
        answers = world.run(sketches.exchange(deltas))
        assert {merged.key: merged.levels for merged in answers} == {
            f"client:{number}": (number / 100,) for number in range(500)
        }

    def test_an_empty_delta_brings_everything_back(self, world):
        sketches = world.sketches(0, STILL)
        sums, marks = doubles(1, 2, 3), bytes([0, 5, 0])
        world.run(sketches.exchange([Delta("client:a", evidence(2.0), sums, marks, b"aabb")]))
        (merged,) = world.run(sketches.exchange([Delta("client:a")]))
        assert merged == Merged("client:a", (2.0,), sums, marks, b"aabb", 2, 0)
        assert world.run(sketches.look("client:a")) == merged

    def test_nobody_knows_what_nobody_told(self, world):
        sketches = world.sketches(0, STILL)
        assert world.run(sketches.look("client:a")) is None
        assert list(world.run(sketches.exchange([]))) == []
        assert list(world.run(sketches.strongest(5))) == []

    def test_parts_that_come_later_join_those_that_came_first(self, world):
        sketches = world.sketches(0, STILL)
        tell = lambda **parts: world.run(sketches.exchange([Delta("client:a", cursor=9, **parts)]))  # noqa: E731
        tell(entries=b"aabb")
        tell(sums=doubles(1, 2))
        tell(marks=b"\1\0\7")
        tell(stretches=evidence(1.0))
        tell(stretches=evidence(1.0, 2.0, 3.0), entries=b"ccddeeff")
        assert world.run(sketches.look("client:a")) == Merged(
            "client:a", (2.0, 2.0, 3.0), doubles(1, 2), b"\1\0\7", b"bbccddeeff", 15, 0
        )

    def test_many_sums_and_marks_are_exact(self, world):
        random = np.random.default_rng(1)
        sums = random.normal(0, 1e3, (20, 129)) * 10.0 ** random.integers(-6, 6, (20, 129))
        marks = random.integers(0, 256, (20, 512), "u1") * (random.random((20, 512)) < 0.05)
        for number in range(20):
            sketches = world.sketches(number % REPLICAS, STILL)
            delta = Delta("endpoint", (), sums[number].tobytes(), marks[number].tobytes())
            world.run(sketches.exchange([delta]))
        merged = world.run(sketches.look("endpoint"))
        assert np.array_equal(np.frombuffer(merged.sums), np.add.reduce(sums))
        assert merged.marks == marks.max(axis=0).tobytes()

    def test_levels_fall_with_time_and_not_below_zero(self, world):
        sketches = world.sketches(0, FALLING)
        world.run(sketches.exchange([Delta("client:a", evidence(3.0, 1.0))]))
        world.advance(2 * HOUR)
        assert world.run(sketches.look("client:a")).levels == pytest.approx((1, 0), abs=MOMENT)
        (merged,) = world.run(sketches.exchange([Delta("client:a", evidence(1.0, 1.0))]))
        assert merged.levels == pytest.approx((2, 1), abs=MOMENT)

    def test_levels_end_at_the_ceiling(self, world):
        sketches = world.sketches(0, STILL)
        for _ in range(3):
            (merged,) = world.run(sketches.exchange([Delta("client:a", evidence(50.0, 1.0))]))
        assert merged.levels == (STILL.ceiling, 3.0)

    def test_what_is_not_touched_is_forgotten(self, world):
        sketches = world.sketches(0, STILL)
        deltas = [Delta("client:b"), Delta("client:a", evidence(3.0)), Delta("client:c")]
        world.run(sketches.exchange(deltas))
        world.advance(DAY - 60)
        world.run(sketches.exchange([Delta("client:b", evidence(1.0))]))
        world.advance(61)
        assert world.run(sketches.look("client:a")) is None
        assert world.run(sketches.look("client:c")) is None
        assert world.run(sketches.look("client:b")).levels == (1.0,)
        assert list(world.run(sketches.strongest(5))) == [("b", 1.0)]
        (merged,) = world.run(sketches.exchange([Delta("client:a", evidence(1.0))]))
        assert merged == Merged("client:a", (1.0,))

    def test_a_day_counts_from_its_first_query_and_evidence_outlasts_it(self, world):
        sketches = world.sketches(0, STILL)
        whole = Delta("client:a", evidence(3.0), doubles(1), b"\1", b"aa")
        world.run(sketches.exchange([whole]))
        world.advance(DAY - 60)
        (merged,) = world.run(sketches.exchange([Delta("client:a", sums=doubles(1))]))
        assert (merged.sums, merged.marks) == (doubles(2), b"\1")
        world.advance(61)
        seen = world.run(sketches.look("client:a"))
        assert seen == Merged("client:a", (3.0,), b"", b"", b"aa", 1, 0)
        (merged,) = world.run(sketches.exchange([Delta("client:a", sums=doubles(5), cursor=1)]))
        assert merged == Merged("client:a", (3.0,), doubles(5), b"", b"", 1, 0)

    def test_what_was_learnt_before_a_forgiveness_counts_no_more(self, world):
        here, there = world.sketches(0, STILL), world.sketches(1, STILL)
        world.run(here.exchange([Delta("client:a", evidence(9.0), doubles(1), b"\1", b"aa")]))
        world.run(there.forgive("a"))
        (merged,) = world.run(here.exchange([Delta("client:a", evidence(9.0), cursor=1)]))
        assert merged.epoch > 0
        assert merged == Merged("client:a", (0.0,), cursor=1, epoch=merged.epoch)
        late = Delta("client:a", evidence(2.0), entries=b"bb", cursor=1, epoch=merged.epoch)
        (merged,) = world.run(here.exchange([late]))
        assert merged == Merged("client:a", (2.0,), cursor=2, epoch=merged.epoch)
        assert list(world.run(there.strongest(5))) == [("a", 2.0)]

    def test_forgiving_again_is_later_even_if_the_first_time_is_forgotten(self, world):
        sketches = world.sketches(0, STILL)
        world.run(sketches.forgive("a"))
        first = world.run(sketches.look("client:a")).epoch
        world.run(sketches.forgive("a"))
        second = world.run(sketches.look("client:a")).epoch
        world.advance(DAY + 60)
        assert world.run(sketches.look("client:a")) is None
        world.run(sketches.forgive("a"))
        assert first < second < world.run(sketches.look("client:a")).epoch
        old = Delta("client:a", evidence(9.0), epoch=second)
        (merged,) = world.run(sketches.exchange([old]))
        assert not any(merged.levels)

    def test_a_lost_key_begins_from_the_levels_that_replicas_know(self, world):
        sketches = world.sketches(0, STILL)
        lost = Delta("client:a", evidence(1.0, 0.0), b"", b"", b"aa", 40, 7, (8.0, 3.0))
        (merged,) = world.run(sketches.exchange([lost]))
        assert merged == Merged("client:a", (9.0, 3.0), b"", b"", b"", 41, 7)
        (merged,) = world.run(sketches.exchange([lost]))  # now it is known
        assert merged.levels == (10.0, 3.0)
        assert merged.entries == b"aa"
        behind = Delta("client:a", evidence(1.0), epoch=6, levels=(50.0,))
        (merged,) = world.run(sketches.exchange([behind]))
        assert merged.levels == (10.0, 3.0)

    def test_cursors_never_go_back(self, world):
        sketches = world.sketches(0, STILL)
        world.run(sketches.exchange([Delta("client:a", entries=b"aa")]))
        (merged,) = world.run(sketches.exchange([Delta("client:a", entries=b"bb", cursor=9)]))
        assert (merged.entries, merged.cursor) == (b"", 10)

    def test_a_forgiveness_that_the_state_lost_still_holds(self, world):
        sketches = world.sketches(0, STILL)
        world.run(sketches.exchange([Delta("client:a", evidence(9.0), doubles(1), b"", b"aabb")]))
        later = Delta("client:a", evidence(1.0), cursor=2, epoch=5, levels=(0.5,))
        (merged,) = world.run(sketches.exchange([later]))
        assert merged == Merged("client:a", (1.5,), cursor=2, epoch=5)

    @pytest.mark.parametrize("key", ["client:a", "shared"])
    def test_entries_come_back_in_order_however_they_were_added(self, world, key):
        here, there = world.sketches(0, STILL), world.sketches(1, STILL)
        ring = STILL.ring_of(key)
        added, cursor = [], 0
        for number, count in enumerate((1, 1, 2, 1, 3, 1, 4, 2, 20, 1, 5, 0, 6)):
            entries = [bytes([number, index]) for index in range(count)]
            world.run(here.exchange([Delta(key, evidence(0.1), entries=b"".join(entries))]))
            added += entries[-ring:]
            assert world.run(there.look(key)).entries == b"".join(added[-ring:])
            if number % 2:
                (merged,) = world.run(there.exchange([Delta(key, cursor=cursor)]))
                assert merged.entries == b"".join(added[cursor:][-ring:])
                cursor = merged.cursor
                assert cursor == len(added)

    def test_the_strongest_come_first_as_strong_as_they_are_now(self, world):
        sketches = world.sketches(0, FALLING)
        tell = lambda **nats: world.run(  # noqa: E731
            sketches.exchange([Delta(f"client:{key}", evidence(0.0, n)) for key, n in nats.items()])
        )
        tell(a=5.0, b=2.0, c=9.0, d=0.0)
        world.run(sketches.exchange([Delta("subnet:s", evidence(60.0))]))
        world.advance(3 * HOUR)
        tell(b=3.5)
        found = world.run(sketches.strongest(10))
        assert [client for client, _ in found] == ["c", "b", "a"]
        assert [nats for _, nats in found] == pytest.approx([6.0, 3.5, 2.0], abs=MOMENT)
        assert [client for client, _ in world.run(sketches.strongest(1))] == ["c"]
        tell(c=-20.0)
        world.run(sketches.forgive("b"))
        for most, expected in ((10, ["a"]), (1, ["a"]), (0, [])):
            assert [client for client, _ in world.run(sketches.strongest(most))] == expected

    def test_bans_end(self, world):
        here, there = world.sketches(0, STILL), world.sketches(1, STILL)
        assert world.run(here.bans()) == {}
        world.run(here.ban("a", 100.0))
        world.run(here.ban("b", 1000.0))
        for sketches in (here, there, there):
            assert world.run(sketches.bans()) == pytest.approx({"a": 100, "b": 1000}, abs=5)
        world.advance(200.0)
        for sketches in (there, here):
            assert world.run(sketches.bans()) == pytest.approx({"b": 800}, abs=5)
        world.run(there.ban("c", 0.0))
        world.run(there.ban("b", 0.0))
        for sketches in (there, here):
            assert world.run(sketches.bans()) == {}
        world.run(there.ban("a", 50.0))
        assert world.run(here.bans()) == pytest.approx({"a": 50}, abs=5)
        world.run(there.ban("d", 60.0))
        assert world.run(here.bans()) == pytest.approx({"a": 50, "d": 60}, abs=5)
        world.run(there.ban("a", 0.0))
        assert world.run(here.bans()) == pytest.approx({"d": 60}, abs=5)

    def test_endpoints_know_nothing_of_each_other(self, world):
        names = ("e", "e/1", "e:client", "{e}", "", "ü%3A\n")
        for number, name in enumerate(names):
            sketches = world.sketches(0, STILL, name)
            world.run(sketches.exchange([Delta("client:a", evidence(number + 1.0))]))
            world.run(sketches.ban(f"c{number}", 100))
        for number, name in enumerate(names):
            sketches = world.sketches(1, STILL, name)
            assert world.run(sketches.look("client:a")).levels == (number + 1.0,)
            assert list(world.run(sketches.strongest(5))) == [("a", number + 1.0)]
            assert list(world.run(sketches.bans())) == [f"c{number}"]

    def test_hostile_keys_are_only_names(self, world):
        sketches = world.sketches(0, STILL)
        names = ("", "}", "{}", "a}{b", "\0", "\n*2\r\n", "é" * 300, "\ud800", "client:a", "a b")
        for number, name in enumerate(names):
            world.run(sketches.exchange([Delta(f"client:{name}", evidence(number + 1.0))]))
        for number, name in enumerate(names):
            assert world.run(sketches.look(f"client:{name}")).levels == (number + 1.0,)
        assert len(world.run(sketches.strongest(100))) == len(names)

    @pytest.mark.parametrize(
        "delta",
        [
            Delta(""),
            Delta("client:a", (Stretch(math.nan, 0.0),)),
            Delta("client:a", (Stretch(0.0, math.inf),)),
            Delta("client:a", (Stretch(0.0, -1.0),)),
            Delta("client:a", (Stretch(),) * 17),
            Delta("client:a", levels=(math.nan,)),
            Delta("client:a", levels=(-1.0,)),
            Delta("client:a", sums=doubles(1)[:7]),
            Delta("client:a", sums=doubles(1, math.nan)),
            Delta("client:a", sums=doubles(-math.inf)),
            Delta("client:a", sums=doubles(1e300)),
            Delta("client:a", sums=bytes(8 * 5000)),
            Delta("client:a", marks=bytes(70_000)),
            Delta("client:a", entries=b"abc"),
            Delta("client:a", cursor=-1),
            Delta("client:a", epoch=1 << 60),
        ],
        ids=repr,
    )
    def test_a_delta_that_is_none_is_refused_and_no_other_is_taken(self, world, delta):
        sketches = world.sketches(0, STILL)
        with pytest.raises(ValueError, match="the delta of"):
            world.run(sketches.exchange([Delta("client:b", evidence(1.0)), delta]))
        assert world.run(sketches.look("client:b")) is None

    def test_without_a_ring_there_are_no_entries(self, world):
        sketches = world.sketches(0, Layout())
        with pytest.raises(ValueError, match="no ring"):
            world.run(sketches.exchange([Delta("client:a", entries=b"aa")]))
        (merged,) = world.run(sketches.exchange([Delta("client:a", evidence(1.0))]))
        assert merged.levels == pytest.approx((1.0,), abs=MOMENT)

    def test_another_layout_forgets_rings_and_nothing_else(self, world):
        sketches = world.sketches(0, STILL)
        whole = Delta("client:a", evidence(2.0), doubles(1), b"\1", b"aabbcc")
        world.run(sketches.exchange([whole]))
        wider = Layout(entry_bytes=3, ring=2, shared_ring=9, recovery=0.0)
        sketches.configure(wider)
        (merged,) = world.run(sketches.exchange([Delta("client:a", entries=b"dddeee")]))
        assert merged == Merged("client:a", (2.0,), doubles(1), b"\1", b"", 5, 0)
        (merged,) = world.run(sketches.exchange([Delta("client:a", entries=b"fff")]))
        assert merged.entries == b"dddeee"
        assert world.run(sketches.look("client:a")).entries == b"eeefff"
