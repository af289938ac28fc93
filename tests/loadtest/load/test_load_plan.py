"""Plans, and what each process gets of them."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_http import plan_of, pool

from loadtest.load import share
from loadtest.load.plan import Part, Tls

ADDRESS = ("127.0.0.1", 1)


@pytest.mark.parametrize(
    "bad",
    [
        {"parts": []},
        {"parts": [Part("p", "honest", [])]},
        {"times": np.array([0.0, 2.0, 1.0])},
        {"times": np.array([0.0, 1.0, math.nan])},
        {"times": np.array([-1.0, 0.0, 1.0])},
        {"times": np.array([0.0])},
        {"which": np.array([0, 0, 1])},
        {"which": np.array([0, -1, 0])},
        {"processes": 0},
        {"processes": 2},
        {"queue": -1},
        {"timeout": 0.0},
        {"timeout": math.nan},
        {"wire": "grpc", "sources": ("127.0.0.2",)},
    ],
)
def test_what_is_no_plan(bad):
    with pytest.raises(ValueError):
        replace(plan_of(ADDRESS, [0.0, 1.0, 2.0]), **bad)


def test_rounds_go_on_where_the_last_left_off():
    plan = plan_of(ADDRESS, [0.0] * 5, [0, 1, 0, 0, 0])
    later = plan.in_round(3)
    assert later.round == 3
    assert [part.first for part in later.parts] == [12 % 8, 3]


@given(st.integers(1, 4), st.lists(st.integers(0, 2), min_size=1, max_size=40))
def test_every_request_is_sent_by_one_process_in_its_turn(processes, which):
    plan = plan_of(ADDRESS, np.arange(len(which)), which, processes=processes, connections=7)
    shares = [share.share_of(plan, number) for number in range(processes)]
    assert sorted(time for one in shares for time in one.times) == plan.times.tolist()
    for number in range(len(plan.parts)):
        turns = {
            time: turn
            for one in shares
            for time, turn, part in zip(one.times, one.turns, one.which, strict=True)
            if part == number
        }
        assert [turns[time] for time in sorted(turns)] == [i % 8 for i in range(len(turns))]
        assert sum(one.groups[number].connections for one in shares) == 7
        assert sum(one.groups[number].queue for one in shares) == plan.queue


def test_every_part_is_dealt_out_to_all_processes():
    plan = plan_of(ADDRESS, np.arange(8), [0, 1] * 4, processes=2, connections=2)
    for number in range(2):
        assert share.share_of(plan, number).which.tolist() == [0, 1, 0, 1]


def test_a_share_comes_back_from_its_folder(tmp_path):
    calls = [((("a", "b"),), b"one"), ((), b"")]
    parts = [Part("p", "honest", pool(3), first=2), Part("q", "hostile", calls, sources=())]
    plan = plan_of(
        ADDRESS, [0.0, 1.0, 2.0], [0, 1, 0], parts=parts, processes=2, connections=3,
        tls=Tls(authority=Path("a.pem"), name="x"), cores=(),
    )  # fmt: skip
    share.write(plan, tmp_path)
    for number in range(2):
        was, found = share.share_of(plan, number), share.read(tmp_path, number)
        for name in ("address", "wire", "tls", "timeout", "method"):
            assert getattr(found, name) == getattr(was, name)
        for name in ("times", "which", "turns"):
            assert getattr(found, name).tolist() == getattr(was, name).tolist()
        assert [bytes(message) for message in found.groups[0].messages] == pool(3)
        assert found.groups[1].messages == calls
        assert [g.connections for g in found.groups] == [g.connections for g in was.groups]


def test_processes_share_the_sources():
    sources = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
    plan = plan_of(ADDRESS, [0.0], processes=2, connections=2, sources=sources)
    assert share.share_of(plan, 0).groups[0].sources == ("127.0.0.2", "127.0.0.4")
    assert share.share_of(plan, 1).groups[0].sources == ("127.0.0.3",)
    alone = plan_of(ADDRESS, [0.0], processes=2, connections=2, sources=sources[:1])
    assert share.share_of(alone, 1).groups[0].sources == sources[:1]
