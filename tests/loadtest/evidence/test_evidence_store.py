import contextlib
from dataclasses import replace

import numpy as np
import orjson
import pytest
from evidence_samples import attack, empty, full, load
from hypothesis import given
from hypothesis import strategies as st

from loadtest.evidence import store
from loadtest.evidence.results import Estimate, Share
from loadtest.evidence.store import StoreError


def changed(*path, value, results=None):
    """The file with one place of it set to something else; None of a key removes it."""
    raw = orjson.loads(store.dump(results or full()))
    place = raw
    for step in path[:-1]:
        place = place[step]
    if value is REMOVED:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return orjson.dumps(raw)


REMOVED = object()


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "results.json"
    store.write(full(), path)
    read = store.read(path)
    assert store.dump(read) == path.read_bytes()
    assert read.attacks[0].success == Share(20, 20)
    assert read.loads[0].begun == 0.0
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("version",), 2, "version 2 of results: this is 1"),
        (("version",), REMOVED, "they have a version"),
        (("seed",), REMOVED, "seed: Field required"),
        (("attacks", 0, "success", "total"), REMOVED, r"attacks\[0\].success.total"),
        (("attacks", 0, "success", "total"), "5", "valid integer"),
        (("attacks", 0, "success", "count"), 21, "21 of 20"),
        (("attacks", 0, "success", "count"), -1, "-1 of 20"),
        (("attacks", 0, "side"), "sideways", r"attacks\[0\].side"),
        (("loads", 0, "latency"), "no histogram", r"loads\[0\].latency: not an HdrHistogram"),
        (("loads", 0, "sent"), 10**6, "more sent and dropped than offered"),
        (("loads", 0, "dropped"), 1, "more sent and dropped than offered"),
        (("loads", 0, "good"), 10**6, "more late or good than sent"),
        (("loads", 0, "statuses"), {"200": -1}, "a count is negative"),
        (("loads", 0, "said"), {"answered": 10**6}, "more replies"),
        (("loads", 0, "surprise"), 1, r"unknown fields: loads\[0\].surprise"),
        (("attacks", 1, "recognised", "why"), 1, "recognised.why"),
    ],
)
def test_what_is_no_result_is_refused(path, value, words):
    with pytest.raises(StoreError, match=words):
        store.load(changed(*path, value=value))


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 5000),
        *(b'{"version": NaN}', b'{"version": 1}', b'{"version": true}'),
    ],
)
def test_what_is_no_json_is_refused(data):
    with pytest.raises(StoreError):
        store.load(data)


def test_nan_is_never_written_nor_read(tmp_path):
    path = tmp_path / "results.json"
    store.write(full(), path)
    before = path.read_bytes()
    broken = replace(full(), attacks=(attack(value=Estimate(float("nan"), 0, 1)),))
    with pytest.raises(StoreError, match=r"attacks\[0\].value.value: nan is not finite"):
        store.write(broken, path)
    assert path.read_bytes() == before
    with pytest.raises(StoreError, match="not JSON"):
        store.load(before.replace(b'"seconds": 301.5', b'"seconds": NaN'))


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 10**30])
def test_very_large_numbers_are_no_results(number):
    data = store.dump(full()).replace(b'"queries": 10000', b'"queries": %d' % number, 1)
    assert str(number).encode() in data
    with pytest.raises(StoreError):
        store.load(data)
    with pytest.raises(StoreError, match="64 bits"):
        store.dump(replace(full(), attacks=(attack(details={"n": number}),)))


def test_an_older_file_lacks_what_is_newer():
    assert store.load(changed("loads", 0, "begun", value=REMOVED)).loads[0].begun is None


def test_details_are_plain_values():
    numbers = {"array": np.arange(3), "scalar": np.float64(2.5), 7: "key", "cut": "\ud800"}
    read = store.load(store.dump(replace(full(), attacks=(attack(details=numbers),))))
    details = read.attacks[0].details
    assert details == {"array": [0, 1, 2], "scalar": 2.5, "7": "key", "cut": "?"}
    deep = []
    for _ in range(100):
        deep = [deep]
    for bad, words in (({"x": object()}, "no plain value"), ({"x": deep}, "too deeply")):
        with pytest.raises(StoreError, match=words):
            store.dump(replace(full(), attacks=(attack(details=bad),)))


def test_a_file_that_cannot_be_had(tmp_path):
    with pytest.raises(StoreError, match="No such file"):
        store.read(tmp_path / "none.json")
    with pytest.raises(StoreError, match="No such file"):
        store.write(full(), tmp_path / "none" / "results.json")
    with pytest.raises(StoreError, match="Is a directory"):
        store.write(full(), tmp_path)
    assert list(tmp_path.iterdir()) == []


SMALL = store.dump(empty(loads=(load(n=100),), attacks=(attack(),)))


@given(st.integers(0, len(SMALL) - 1), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(place, value):
    data = bytearray(SMALL)
    data[place] = value
    with contextlib.suppress(StoreError):
        store.dump(store.load(bytes(data)))
