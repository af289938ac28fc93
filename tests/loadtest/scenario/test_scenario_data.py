"""Honest rows: read, shared out, and turned into plans of loads."""

import json

import numpy as np
import pytest

from detectors.sample import Sample
from detectors.training.readers import DataError
from loadtest.scenario import data as module
from loadtest.scenario.data import read, read_rows, shared
from loadtest.scenario.data_settings import Data
from loadtest.scenario.load_settings import Load
from loadtest.scenario.means import allotted, means_of
from loadtest.scenario.settings import Scenario
from loadtest.scenario.traffic import plan, recorded_times, words
from loadtest.targets.open import Endpoint
from loadtest.targets.settings import Target


@pytest.fixture
def rows():
    return np.random.default_rng(0).random((100, 4), np.float32)


def given(**sections):
    return Data.model_validate(sections)


def keys(rows):
    return {row.tobytes() for row in rows}


def test_no_row_is_in_two_hands(rows):
    found = shared(np.concatenate([rows, rows[:30]]), 1, attackers=0.4)
    parts = [keys(found.honest), keys(found.own), keys(found.test)]
    assert [len(part) for part in parts] == [40, 40, 20]
    assert set.union(*parts) == keys(rows)
    assert sum(map(len, parts)) == 100
    assert keys(shared(rows, 1, attackers=0.4).own) != keys(shared(rows, 2, attackers=0.4).own)


def test_labels_go_with_their_rows(tmp_path, rows):
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "y.npy", np.arange(100) % 10)
    found = read(given(rows=str(tmp_path / "x.npy"), labels=str(tmp_path / "y.npy")), None, 0)
    label = {row.tobytes(): index % 10 for index, row in enumerate(rows)}
    assert [label[row.tobytes()] for row in found.own] == found.labels.tolist()
    (tmp_path / "w.csv").write_text("\n".join(["b", "a"] * 50))
    found = read(given(rows=str(tmp_path / "x.npy"), labels=str(tmp_path / "w.csv")), None, 0)
    assert set(found.labels.tolist()) == {0, 1}
    word = {row.tobytes(): "ba"[index % 2] for index, row in enumerate(rows)}
    assert all(word[r.tobytes()] == "ab"[n] for r, n in zip(found.own, found.labels, strict=True))


def test_the_box_is_what_is_seen_or_what_is_said(rows):
    found = shared(rows, 0, attackers=0.5)
    assert np.array_equal(found.low, rows.min(axis=0))
    assert np.array_equal(found.high, rows.max(axis=0))
    said = shared(rows, 0, attackers=0.5, low=-1.0, high=2.0)
    assert said.low.tolist() == [-1] * 4 and said.high.tolist() == [2] * 4


def test_rows_to_judge_by_may_be_given(tmp_path, rows):
    for name, part in (("x", rows), ("t", rows[:5]), ("m", rows[5:9])):
        np.save(tmp_path / f"{name}.npy", part)
    found = read(
        given(
            rows=str(tmp_path / "x.npy"),
            test=str(tmp_path / "t.npy"),
            members=str(tmp_path / "m.npy"),
            image=(2, 2),
        ),
        None,
        0,
    )
    assert np.array_equal(found.test, rows[:5]) and np.array_equal(found.members, rows[5:9])
    assert found.image == (2, 2) and len(found.honest) == 60


def test_what_does_not_go_together(tmp_path, rows):
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "narrow.npy", rows[:, :3])
    np.save(tmp_path / "few.npy", np.repeat(rows[:3], 20, axis=0))
    np.save(tmp_path / "nan.npy", np.full((20, 2), np.nan))
    np.save(tmp_path / "y.npy", np.arange(99))
    for sections, message in (
        ({"rows": "x", "test": "narrow"}, "3 features"),
        ({"rows": "x", "members": "narrow"}, "3 features"),
        ({"rows": "few"}, "3 different rows are too few"),
        ({"rows": "nan"}, "not finite"),
        ({"rows": "x", "labels": "y"}, "99 labels for 100 rows"),
    ):
        files = {key: str(tmp_path / f"{name}.npy") for key, name in sections.items()}
        with pytest.raises(DataError, match=message):
            read(given(**files), None, 0)
    with pytest.raises(DataError, match="3 by 3"):
        read(given(rows=str(tmp_path / "x.npy"), image=(3, 3)), None, 0)


def test_generated_rows_stay_in_their_box():
    for distribution in ("uniform", "normal"):
        section = {"rows": 200, "distribution": distribution, "low": -2, "high": 3}
        found = read(given(generate=section), 5, 1)
        every = np.concatenate([found.honest, found.own, found.test])
        assert every.shape == (200, 5)
        assert every.min() >= -2 and every.max() <= 3
        assert np.array_equal(found.own, read(given(generate=section), 5, 1).own)
    with pytest.raises(DataError, match="how wide"):
        read(given(generate={}), None, 0)


def test_a_capture_s_rare_rows_are_left_out(tmp_path, rows):
    n = 20
    sample = Sample(
        endpoint="e", kind="labels", classes=("a", "b"), row_shape=(4,), rows=rows[:n],
        answers=np.zeros((n, 1)), clients=np.zeros(n, np.int32), hours=np.zeros(n, np.int32),
        uniform=np.arange(n) < 15, digests=np.arange(n, dtype=np.uint64),
    )  # fmt: skip
    path = tmp_path / "s.capture"
    path.write_bytes(sample.encode())
    assert np.array_equal(read_rows(path), rows[:15])
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"s\.capture"):
        read_rows(path)
    with pytest.raises(DataError, match=r"none\.capture"):
        read_rows(tmp_path / "none.capture")


CONTRACT = {"inputs": [{"name": "x", "shape": [-1, 4], "datatype": "FP32"}]}


@pytest.fixture
def endpoint():
    target = Target.model_validate(
        {
            "direct": "http://127.0.0.1:1/v2/models/m",
            "firewall": "http://127.0.0.1:2/v2/models/m",
            "contract": CONTRACT,
            "clients": {"by": "api_key", "count": 6, "secret": "of-invented-keys"},
        }
    )
    return Endpoint.open(target, features=4)


def planned(endpoint, rows, side="direct", turn=0, *, queries=None, **load):
    given = {"name": "l", "rate": 200, "seconds": 2} | load
    parsed = Load.model_validate(given)
    names = iter(endpoint.clients)
    pools = {part.name: [next(names) for _ in range(part.clients)] for part in parsed.mix}
    return plan(
        endpoint,
        parsed,
        side,
        turn,
        material=shared(rows, 0, attackers=0.4),
        pools=pools,
        queries=queries or {},
        seed=3,
    )


def sent_rows(part):
    """The rows in a part's requests, as the bytes that they are known by."""
    bodies = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in part.requests]
    return [np.array(body["inputs"][0]["data"], np.float32).tobytes() for body in bodies]


def test_a_plan_sends_honest_rows_of_all_clients(endpoint, rows):
    made = planned(endpoint, rows, mix=({"name": "h", "clients": 3},))
    honest = keys(shared(rows, 0, attackers=0.4).honest)
    assert 300 < len(made.times) < 500 and made.times.max() < 2
    assert set(sent_rows(made.parts[0])) == honest
    askers = {
        request.lower().partition(b"x-api-key: ")[2].partition(b"\r\n")[0]
        for request in made.parts[0].requests
    }
    assert len(askers) == 3
    assert made.parts[0].kind == "honest" and made.address == ("127.0.0.1", 1)


def test_both_sides_of_a_round_are_sent_the_same_and_rounds_differ(endpoint, rows):
    one = planned(endpoint, rows, "direct")
    other = planned(endpoint, rows, "firewall")
    later = planned(endpoint, rows, "direct", turn=1)
    assert np.array_equal(one.times, other.times)
    assert sent_rows(one.parts[0]) == sent_rows(other.parts[0])
    assert other.address == ("127.0.0.1", 2)
    assert len(one.times) != len(later.times) or not np.array_equal(one.times, later.times)
    assert sent_rows(one.parts[0]) != sent_rows(later.parts[0])


def test_hostile_parts_are_hostile_and_have_their_share(endpoint, rows, tmp_path):
    np.save(tmp_path / "f.npy", rows[:2] + 9)
    mix = (
        {"name": "h", "share": 8},
        {"name": "n", "send": "noise"},
        {"name": "i", "send": "inverted"},
        {"name": "s", "send": "shuffled"},
        {"name": "d", "send": "driver", "driver": "square"},
        {"name": "f", "send": "file", "file": str(tmp_path / "f.npy")},
    )
    queries = {"square": rows[:3] + 5}
    made = planned(endpoint, rows, queries=queries, mix=mix, rate=2000, arrivals="constant")
    kinds = {part.name: part.kind for part in made.parts}
    assert kinds == {"h": "honest"} | dict.fromkeys("nisdf", "hostile")
    shares = np.bincount(made.which) / len(made.which)
    assert shares[0] == pytest.approx(8 / 13, abs=0.05)
    assert shares[1:] == pytest.approx(1 / 13, abs=0.03)
    honest = keys(shared(rows, 0, attackers=0.4).honest)
    by_name = {part.name: set(sent_rows(part)) for part in made.parts}
    assert not any(by_name[name] & honest for name in "nidf")
    assert len(by_name["s"] & honest) < len(by_name["s"]) / 5  # one in 24 is shuffled into itself
    assert by_name["d"] == keys(rows[:3] + 5) and by_name["f"] == keys(rows[:2] + 9)


def test_a_file_of_other_rows_is_refused(endpoint, rows, tmp_path):
    np.save(tmp_path / "f.npy", rows[:, :2])
    part = {"name": "f", "send": "file", "file": str(tmp_path / "f.npy")}
    with pytest.raises(DataError, match="2 features"):
        planned(endpoint, rows, mix=(part,))


def test_several_rows_in_a_request(endpoint, rows):
    made = planned(endpoint, rows, rows_per_request=7)
    body = json.loads(made.parts[0].requests[0].partition(b"\r\n\r\n")[2])
    assert body["inputs"][0]["shape"] == [7, 4]


def test_arrivals(endpoint, rows, tmp_path):
    steps = planned(
        endpoint, rows, arrivals="steps", rate=None, seconds=None,
        steps=({"rate": 10, "seconds": 1}, {"rate": 100, "seconds": 1}),
    )  # fmt: skip
    assert (steps.times < 1).sum() == 10 and (steps.times >= 1).sum() == 100
    np.save(tmp_path / "t.npy", [5.0, 5.5, 7.0])
    recorded = planned(
        endpoint, rows, arrivals="recorded", rate=None, seconds=None,
        recorded=str(tmp_path / "t.npy"),
    )  # fmt: skip
    assert recorded.times.tolist() == [0, 0.5, 2]
    ceiling = planned(endpoint, rows, arrivals="ceiling", rate=None)
    assert len(ceiling.times) == 0 and len(ceiling.parts[0].requests) > 1
    assert ceiling.arrivals == "closed loop"
    assert "10/s for 1 s" in steps.arrivals


def test_recorded_times(tmp_path):
    log = tmp_path / "audit.jsonl"
    lines = [
        {"type": "start", "time": "2026-01-01T00:00:00.000000Z"},
        {"type": "exchange", "time": "2026-01-01T00:00:01.000000Z"},
        {"type": "exchange", "time": "2026-01-01T00:00:01.250000Z"},
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert recorded_times(log).tolist() == [0, 0.25]
    for name, content in (
        ("a.jsonl", b"{"),
        ("b.jsonl", b"[]\n"),
        ("c.jsonl", b""),
        ("d.npy", b"no"),
        ("e.jsonl", b'{"type":"exchange"}\n'),
        ("f.jsonl", b"\xff\n"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            recorded_times(tmp_path / name)
    np.save(tmp_path / "g.npy", [[1.0]])
    np.save(tmp_path / "h.npy", [np.nan])
    for name in ("g.npy", "h.npy", "none.npy"):
        with pytest.raises(DataError, match=name):
            recorded_times(tmp_path / name)


def test_words_of_a_load():
    load = Load.model_validate({"name": "a", "rate": 5, "seconds": 2})
    assert words(load) == "poisson, 5/s for 2 s"


def scenario(**sections):
    return Scenario.model_validate(
        {"name": "t", "serve": "demo"}
        | {"load": ({"name": "a", "rate": 1, "seconds": 1, "mix": ({"name": "h", "clients": 2},)},)}
        | {"attacks": ({"driver": "square", "tries": 3, "accounts": 2},)}
        | sections
    )


def test_nobody_is_two_clients():
    pools, accounts = allotted(scenario(), [f"c{n}" for n in range(9)])
    assert pools == {"h": ("c0", "c1")}
    assert accounts == {"square": tuple(f"c{n}" for n in range(2, 8))}
    with pytest.raises(ValueError, match="8 clients are needed, 7 there are"):
        allotted(scenario(), [f"c{n}" for n in range(7)])
    pools, accounts = allotted(scenario(), ["all"])
    assert pools["h"] == accounts["square"] == ["all"]


def test_an_attack_gets_the_same_on_both_sides_and_other_rows_than_the_next(rows):
    whole = scenario(attacks=({"driver": "square"}, {"driver": "square", "name": "two"}))
    material = shared(rows, 0, attackers=0.4)
    one, again = (means_of(whole, whole.attacks[0], material, ["c"]) for _ in range(2))
    other = means_of(whole, whole.attacks[1], material, ["c"])
    assert np.array_equal(one.own, again.own) and one.seed == again.seed
    assert keys(one.own) == keys(other.own) and not np.array_equal(one.own, other.own)
    assert one.seed != other.seed


def test_the_least_that_is_shared_out():
    assert module._LEAST_ROWS == 10
    found = shared(np.eye(10, dtype=np.float32), 0, attackers=0.999)
    assert len(found.honest) >= 1 and len(found.own) >= 1 and len(found.test) >= 1
