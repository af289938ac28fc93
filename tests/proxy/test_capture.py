"""The sample of live traffic: bounded, uniform, nobody's alone, and copied."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.sample import Sample, SampleError
from proxy import rules
from proxy.capture import Capture
from proxy.decision import ALLOWED, Action, Decision, Reason
from proxy.identity import Identity
from proxy.protocols.base import InferResponse

HOUR = 3600.0


def capture(rows=100, rows_per_client=100, **options):
    options.setdefault("anonymise", False)
    return Capture(rows=rows, rows_per_client=rows_per_client, dice=Random(1), **options)


def client(name):
    return Identity(f"{name:0>32}", "ip")


def rows_of(start, count=1, width=3):
    return np.arange(start, start + count, dtype=np.float32)[:, None] * np.ones(width, np.float32)


def scores(count, best=0, classes=4):
    given = np.full((count, classes), 0.1, np.float32)
    given[:, best] = 0.7
    return InferResponse({"scores": given}, count)


def offer(watch, rows, response=None, who="a", now=0.0, decision=ALLOWED):
    response = response or scores(len(rows))
    watch.offer(client(who), rows, response, now, decision)


def test_what_was_offered_is_what_is_handed_over():
    watch = capture()
    offer(watch, rows_of(0, 2), now=5 * HOUR)
    offer(watch, rows_of(7), scores(1, best=2), who="b", now=6.5 * HOUR)
    sample = watch.sample("digits", (3, 1))
    order = np.argsort(sample.rows[:, 0])
    assert sample.rows[order, 0].tolist() == [0, 1, 7]
    assert sample.kind == "probabilities" and sample.classes == ("0", "1", "2", "3")
    assert sample.read().labels[order].tolist() == [0, 0, 2]
    clients = sample.clients[order].tolist()
    assert clients[0] == clients[1] != clients[2] and min(clients) >= 0
    assert sample.hours[order].tolist() == [5, 5, 6]
    assert sample.uniform.all() and sample.row_shape == (3, 1) and sample.endpoint == "digits"


def test_nothing_is_no_sample():
    assert capture().sample("digits") is None


def test_anonymous_samples_tell_clients_apart_and_name_neither_them_nor_the_hour():
    numbers = []
    for salt in (b"one", b"two"):
        watch = capture(anonymise=True, salt=salt)
        offer(watch, rows_of(0, 3), now=9 * HOUR)
        offer(watch, rows_of(5, 3), who="b")
        sample = watch.sample("digits")
        assert set(sample.hours) == {-1}
        numbers.append(set(sample.clients.tolist()))
    assert [len(found) for found in numbers] == [2, 2] and not numbers[0] & numbers[1]


def test_workers_number_a_client_alike_unless_anonymous():
    found = []
    for salt in (b"one", b"two"):
        watch = capture(salt=salt)
        offer(watch, rows_of(0))
        found.append(watch.sample("x").clients[0])
    assert found[0] == found[1]


def test_the_rows_are_copies():
    watch, rows = capture(), rows_of(1)
    offer(watch, rows)
    rows[:] = 99
    assert watch.sample("x").rows[0, 0] == 1


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), max_size=20))
def test_no_more_is_held_than_there_is_room_for(batches):
    watch, start = capture(rows=50, rows_per_client=20), 0
    for count, who in batches:
        offer(watch, rows_of(start, count), scores(count, best=who), who=str(who))
        start += count
    status = watch.status()
    assert status["rows"] <= 50 and status["seen"] == start
    sample = watch.sample("x")
    if start:
        _, counts = np.unique(sample.clients[sample.uniform], return_counts=True)
        assert counts.max() <= 20
        assert len(np.unique(sample.digests)) == len(sample) == status["rows"]


def test_the_uniform_part_is_uniform():
    """Early and late rows have the same chance: over many draws the mean place is the middle."""
    places = []
    for seed in range(40):
        watch = Capture(
            rows=50, rows_per_client=50, anonymise=True, dice=Random(seed), kind="values"
        )
        for start in range(0, 1000, 10):
            answer = InferResponse({"y": np.zeros((10, 1), np.float32)}, 10)
            watch.offer(client(str(start)), rows_of(start, 10), answer, 0.0, ALLOWED)
        places += watch.sample("x").rows[:, 0].tolist()
    assert np.mean(places) == pytest.approx(500, abs=4 * 289 / len(places) ** 0.5)


def test_a_client_that_floods_has_its_share_and_no_more():
    watch = capture(rows=1000, rows_per_client=100)
    for start in range(0, 5000, 50):
        offer(watch, rows_of(start, 50), who="flood")
    offer(watch, rows_of(9000, 60), who="b")
    sample = watch.sample("x")
    flood = sample.clients[sample.rows[:, 0] >= 9000][0] != sample.clients
    assert (flood & sample.uniform).sum() == 100 and (~flood).sum() == 60


def test_rare_classes_are_held_beside_the_uniform_part():
    watch = capture(rows=100, rows_per_client=100)
    for start in range(0, 3000, 10):
        offer(watch, rows_of(start, 10), scores(10, best=0), who=str(start % 7))
    for start in range(3000, 3003):
        offer(watch, rows_of(start), scores(1, best=3), who="c")
    sample = watch.sample("x")
    rare = sample.read().labels == 3
    assert rare.sum() == 3 and not sample.uniform[rare].all()


NOT_HONEST = {
    "would be refused": Decision(Action.BLOCK, Action.ALLOW, (Reason(rules.OUTLIER),)),
    "recorded": Decision(Action.ALLOW, Action.ALLOW, (Reason(rules.PROBING_ENDPOINT),)),
}


@pytest.mark.parametrize("case", NOT_HONEST)
def test_what_something_speaks_against_is_left_out_and_counted(case):
    watch = capture()
    offer(watch, rows_of(0, 2), decision=NOT_HONEST[case])
    assert watch.sample("x") is None and watch.status()["left_out"] == {"found against": 2}


def test_equal_rows_count_once():
    watch = capture()
    for _ in range(3):
        offer(watch, rows_of(4))
    assert len(watch.sample("x")) == 1 and watch.status()["left_out"] == {"seen before": 2}


def answer(**tensors):
    return InferResponse(dict(tensors), 1)


def text(*names):
    found = np.empty(len(names), object)
    found[:] = [name.encode() for name in names]
    return found


READ = {
    "logits": (answer(y=np.array([[3.0, -1.0]])), {}, ("logits", ("0", "1"), [3, -1])),
    "labels": (answer(y=np.array([4])), {}, ("labels", ("4",), [0])),
    "labels as floats": (answer(y=np.array([[4.0]])), {"kind": "labels"}, ("labels", ("4",), [0])),
    "named labels": (
        answer(y=np.array([1])),
        {"classes": ("cat", "dog")},
        ("labels", ("cat", "dog"), [1]),
    ),
    "words": (answer(y=text("cat")), {}, ("labels", ("cat",), [0])),
    "values": (answer(y=np.array([[2.5]])), {}, ("values", (), [2.5])),
    "two values": (answer(y=np.array([[2.5, 1]])), {"kind": "values"}, ("values", (), [2.5, 1])),
    "chance": (
        answer(y=np.array([[0.25]])),
        {"kind": "probabilities"},
        ("probabilities", ("0", "1"), [0.75, 0.25]),
    ),
    "scores before labels": (
        answer(label=np.array([1]), y=np.array([[0.5, 0.5]])),
        {},
        ("probabilities", ("0", "1"), [0.5, 0.5]),
    ),
    "the named output": (
        answer(label=np.array([1]), y=np.array([[0.5, 0.5]])),
        {"output": "label"},
        ("labels", ("1",), [0]),
    ),
}


@pytest.mark.parametrize("case", READ)
def test_answers_are_read(case):
    response, options, (kind, classes, values) = READ[case]
    watch = capture(**options)
    offer(watch, rows_of(0), response)
    sample = watch.sample("x")
    assert (sample.kind, sample.classes) == (kind, classes)
    assert sample.answers.tolist() == [pytest.approx(values)]


UNREAD = {
    "nothing": answer(),
    "another count": answer(y=np.zeros((3, 2))),
    "not finite": answer(y=np.array([[np.nan, 1.0]])),
    "too wide": answer(y=np.zeros((1, 5000))),
    "no label": answer(y=np.array([2**60])),
}


@pytest.mark.parametrize("case", UNREAD)
def test_answers_that_are_not_understood_are_left_out_and_counted(case):
    watch = capture()
    offer(watch, rows_of(0), UNREAD[case])
    assert watch.sample("x") is None and watch.status()["left_out"] == {"not understood": 1}


def test_one_odd_request_does_not_settle_what_traffic_is_like():
    watch = capture()
    offer(watch, rows_of(0, width=5))
    for start in range(0, 200, 10):
        offer(watch, rows_of(start, 10))
    sample = watch.sample("x")
    assert sample.rows.shape[1] == 3 and sample.uniform.sum() == 90


def test_a_text_is_no_label():
    watch = capture()
    offer(watch, rows_of(0), answer(y=text("c" * 257)))
    assert watch.status()["left_out"] == {"not understood": 1}
    offer(watch, rows_of(0), answer(y=text("c" * 256)))
    assert len(watch.sample("x")) == 1


def test_of_a_large_request_only_some_rows_are_considered():
    watch = capture(rows=10_000, rows_per_client=10_000)
    offer(watch, rows_of(0, 5000))
    assert len(watch.sample("x")) == 256
    assert watch.status()["left_out"]["of large requests"] == 5000 - 256


def test_the_rare_class_of_a_single_probability_is_held():
    watch = capture(rows=100, rows_per_client=100, kind="probabilities")
    for start in range(3000):
        chance = 0.9 if start % 300 == 299 else 0.1
        offer(watch, rows_of(start), answer(p=np.array([[chance]])), who=str(start % 7))
    assert (watch.sample("x").read().labels == 1).sum() >= 5


def test_one_client_that_repeats_itself_leaves_room_for_those_who_come_later():
    watch = capture(rows=100, rows_per_client=20)
    for start in range(0, 100, 10):
        offer(watch, rows_of(start, 10), who="first")
    for _ in range(300):
        offer(watch, rows_of(0, 100), who="loud")
    for start in range(1000, 4000, 10):
        offer(watch, rows_of(start, 10), who=str(start))
    sample = watch.sample("x")
    assert (sample.rows[sample.uniform, 0] >= 1000).mean() > 0.8


def test_rows_of_another_make_are_left_out_and_counted():
    watch = capture()
    offer(watch, rows_of(0))
    offer(watch, rows_of(1, width=5))
    offer(watch, rows_of(2), scores(1, classes=9))
    assert len(watch.sample("x")) == 1
    assert watch.status()["left_out"] == {"of another make": 2}


def test_what_is_taken_stays_while_capturing_goes_on():
    watch = capture(rows=100, rows_per_client=10)
    offer(watch, rows_of(0, 5))
    make = watch.taken()
    offer(watch, rows_of(100, 50))
    assert sorted(make("x", None).rows[:, 0].tolist()) == [0, 1, 2, 3, 4]


def filled():
    watch = capture()
    for who in "abc":
        offer(watch, rows_of(10 * ord(who), 4), scores(4, best=ord(who) % 4), who=who)
    return watch.sample("digits")


def test_a_sample_comes_back_from_its_bytes():
    sample = filled()
    again = Sample.decode(sample.encode())
    for name in ("rows", "answers", "clients", "hours", "uniform", "digests"):
        assert np.array_equal(getattr(again, name), getattr(sample, name)), name
    assert (again.kind, again.classes, again.row_shape) == (
        sample.kind,
        sample.classes,
        sample.row_shape,
    )


@settings(max_examples=200)
@given(st.data())
def test_damaged_samples_are_refused_and_nothing_else(data):
    whole = filled().encode()
    at = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.booleans())
    damaged = whole[:at] if cut else whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]
    try:
        Sample.decode(damaged)
    except SampleError:
        return
    assert not cut, "a sample that is cut short is no sample"


def test_samples_are_joined_and_equal_rows_count_once():
    one, two = filled(), filled()
    joined = Sample.joined([one.take(np.arange(8)), two])
    assert len(joined) == len(one)
    assert sorted(joined.digests.tolist()) == sorted(one.digests.tolist())


def test_labels_of_two_samples_are_united():
    parts = []
    for label, start in ((7, 0), (3, 50)):
        watch = capture()
        offer(watch, rows_of(start), answer(y=np.array([label])))
        parts.append(watch.sample("x"))
    joined = Sample.joined(parts)
    assert joined.classes == ("3", "7") and joined.answers[:, 0].tolist() == [1, 0]


def test_samples_of_different_make_are_not_joined():
    wide = capture()
    offer(wide, rows_of(0, width=5))
    with pytest.raises(SampleError):
        Sample.joined([filled(), wide.sample("x")])
    with pytest.raises(SampleError):
        Sample.joined([])
