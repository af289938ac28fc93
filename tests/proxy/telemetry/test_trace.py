"""Request ids, and the trace context that is passed on."""

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.telemetry.trace import RequestIds, traceparent, tracestate

TRACE = b"0af7651916cd43dd8448eb211c80319c"
PARENT = b"b7ad6b7169203331"


def test_ids_are_unique_and_of_one_form():
    make = RequestIds()
    ids = {make() for _ in range(5000)}
    assert len(ids) == 5000
    assert all(re.fullmatch(r"[0-9a-f]{32}", made) for made in ids)


def test_ids_are_all_of_the_systems_randomness(monkeypatch):
    drawn = []
    urandom = os.urandom

    def note(size):
        drawn.append(urandom(size))
        return drawn[-1]

    monkeypatch.setattr(os, "urandom", note)
    make = RequestIds()
    ids = [make() for _ in range(600)]
    assert len(drawn) == 2
    assert all(made in drawn[0].hex() + drawn[1].hex() for made in ids)


def test_a_forked_process_makes_other_ids():
    make = RequestIds()
    make()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, make().encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    theirs = os.read(reader, 100).decode()
    os.close(reader)
    assert len(theirs) == 32
    assert theirs not in {make() for _ in range(1000)}


PASSED = [
    (b"00-%b-%b-01", b"00-%b-%b-01"),
    (b"00-%b-%b-00", b"00-%b-%b-00"),
    (b"00-%b-%b-03", b"00-%b-%b-03"),
    (b"00-%b-%b-ff", b"00-%b-%b-03"),  # flags that are not defined are not passed on
    (b"cc-%b-%b-01", b"00-%b-%b-01"),  # a later version is read as far as it is known
    (b"cc-%b-%b-01-what the future-brings".replace(b" ", b"-"), b"00-%b-%b-01"),
    (b"01-%b-%b-01-", b"00-%b-%b-01"),
]

DROPPED = [
    b"",
    b"00",
    b"00-%b-%b" % (TRACE, PARENT),
    b"00-%b-%b-" % (TRACE, PARENT),
    b"00-%b-%b-1" % (TRACE, PARENT),
    b"00-%b-%b-01-more" % (TRACE, PARENT),
    b"00-%b-%b-01-" % (TRACE, PARENT),
    b"00-%b-%b-01 " % (TRACE, PARENT),
    b" 00-%b-%b-01" % (TRACE, PARENT),
    b"00-%b-%b-01\n" % (TRACE, PARENT),
    b"00-%b-%b-01, 00-%b-%b-01" % (TRACE, PARENT, TRACE, PARENT),
    b"cc-%b-%b-01x" % (TRACE, PARENT),
    b"cc-%b-%b-01.x" % (TRACE, PARENT),
    b"cc-%b-%b-01-x\ny" % (TRACE, PARENT),
    b"ff-%b-%b-01" % (TRACE, PARENT),
    b"0-%b-%b-01" % (TRACE, PARENT),
    b"0G-%b-%b-01" % (TRACE, PARENT),
    b"00-%b-%b-0x" % (TRACE, PARENT),
    b"00-%b-%b-01" % (TRACE.upper(), PARENT),
    b"00-%b-%b-01" % (TRACE, PARENT.upper()),
    b"00-%b-%b-01" % (TRACE[:-1], PARENT),
    b"00-%b-%b-01" % (TRACE + b"0", PARENT),
    b"00-%b-%b-01" % (b"0" * 32, PARENT),
    b"00-%b-%b-01" % (TRACE, b"0" * 16),
    b"00-%b-%b-01" % (TRACE.replace(b"a", "\u0660".encode()), PARENT),
    b"00_%b_%b_01" % (TRACE, PARENT),
]


@pytest.mark.parametrize(("given", "expected"), PASSED)
def test_a_valid_parent_is_passed_on(given, expected):
    assert traceparent(given % (TRACE, PARENT)) == expected % (TRACE, PARENT)


@pytest.mark.parametrize("value", DROPPED)
def test_an_invalid_parent_is_dropped(value):
    assert traceparent(value) is None


def test_the_tables_are_whole():
    assert (len(PASSED), len(DROPPED)) == (7, 26)
    assert traceparent(None) is None


@given(st.binary(max_size=80))
def test_whatever_comes_what_goes_on_is_strict(value):
    passed = traceparent(value)
    assert passed is None or re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]", passed)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"congo=t61rcWkgMzE", b"congo=t61rcWkgMzE"),
        (b"rojo=00f067aa0ba902b7 , congo=a b", b"rojo=00f067aa0ba902b7,congo=a b"),
        (b"a=1,,b=2", b"a=1,b=2"),
        (b"tenant@vendor=1", b"tenant@vendor=1"),
        (b"", None),
        (b",", None),
        (b"a=1,a=2", None),
        (b"A=1", None),
        (b"a", None),
        (b"a=", None),
        (b"a=b=c", None),
        (b"a=1\x00", None),
        (b"a=1\r\nx: y", None),
        (b",".join(b"k%d=1" % number for number in range(33)), None),
        (b"a=" + b"x" * 512, None),
        (None, None),
    ],
)
def test_state_is_passed_on_if_it_is_well_formed(value, expected):
    assert tracestate(value) == expected
