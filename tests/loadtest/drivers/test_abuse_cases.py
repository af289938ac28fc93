"""What the generators make is what it claims to be: the strict reader decides."""

import io
from functools import lru_cache
from itertools import takewhile
from random import Random

import numpy as np
import pytest
from abuse_servers import TARGET, WIDTH, Wire, means

from loadtest.drivers.abuse_bodies import body_cases
from loadtest.drivers.abuse_http import http_cases
from loadtest.drivers.abuse_reading import read
from loadtest.drivers.abuse_wire import parts
from loadtest.spellings import SPELLINGS
from loadtest.wire import render_request
from proxy import rules
from proxy.build_codecs import Bounds, codec, spoken
from proxy.protocols.contract import Contract
from proxy.settings.endpoint import Endpoint

WIRE = Wire(("127.0.0.1", 1))
VALID = WIRE.request(means().own[:1], "mallory")


@lru_cache(maxsize=3)
def every(valid, seed=1, mutations=40):
    random = Random(seed)
    return [
        *http_cases(parts(valid), random, mutations),
        *body_cases(parts(valid), random, mutations),
    ]


def test_a_valid_request_is_not_malformed():
    reading = read(VALID, WIRE.codec)
    assert (reading.may_answer, reading.refused_by, reading.complete) == ((True,), None, True)


def test_what_is_cut_is_incomplete():
    assert not read(VALID[:-1], WIRE.codec).complete
    assert not read(VALID[:20], WIRE.codec).complete


def test_each_message_is_read():
    reading = read(VALID + VALID.replace(b'"FP32"', b'"FP99"') + b"\0" + VALID, WIRE.codec)
    assert reading.may_answer == (True, False, False)
    assert reading.refused_by is rules.DATATYPE


def test_another_path_is_not_malformed():
    reading = read(VALID.replace(b"/infer", b"/other", 1), WIRE.codec)
    assert reading.may_answer == (True,)
    assert reading.refused_by is None


def test_the_same_seed_makes_the_same_cases():
    first = every(VALID)
    every.cache_clear()
    assert every(VALID) == first
    assert every(VALID) != every(VALID, seed=2)


def test_names_are_unique():
    names = [(case.group, case.name) for case in every(VALID)]
    assert len(names) == len(set(names))


NOT_CERTAIN = ("mutated heads", "flipped bits")


def test_named_cases_are_malformed():
    named = [case for case in every(VALID) if case.group not in NOT_CERTAIN]
    fine = [case.name for case in named if read(case.data, WIRE.codec).refused_by is None]
    assert len(named) > 250
    assert len(fine) < 12, fine
    groups = {case.group for case in named if read(case.data, WIRE.codec).refused_by}
    assert groups >= {
        "framing", "chunks", "lines", "targets", "huge heads", "cut bodies", "around bodies",
        "media types", "JSON", "JSON members", "codings",
    }  # fmt: skip


@pytest.mark.parametrize(
    "wanted",
    [
        ("framing", "CL and TE, TE ends first", rules.FRAMING),
        ("framing", "two CLs, the last right", rules.FRAMING),
        ("chunks", "a trailer", rules.FRAMING),
        ("lines", "no Host", rules.MALFORMED),
        ("targets", "control path /v2/repository/index", rules.CONTROL_PATH),
        ("huge heads", "10 000 headers", rules.HEAD_TOO_LARGE),
        ("JSON members", "all members twice", rules.DUPLICATE_KEY),
        ("JSON members", "shared memory", rules.SHARED_MEMORY),
        ("JSON members", "2^40 rows", rules.SHAPE),
        ("codings", "a gzip bomb", rules.RATIO),
        ("codings", "a zstd bomb", rules.RATIO),
        ("codings", "gzip without its end", rules.CODED_BODY),
    ],
    ids=lambda wanted: wanted[1],
)
def test_a_case_is_refused_for_what_it_is_named_after(wanted):
    group, name, rule = wanted
    (case,) = [case for case in every(VALID) if (case.group, case.name) == (group, name)]
    assert read(case.data, WIRE.codec).refused_by is rule


def test_binary_tensors():
    wire = Wire(("127.0.0.1", 1), binary=True)
    cases = every(wire.request(means().own[:1], "a"))
    binary = [case for case in cases if case.group == "binary"]
    refused = [read(case.data, wire.codec).refused_by for case in binary]
    assert len(binary) > 25
    assert sum(rule is None for rule in refused) <= 2
    assert rules.BINARY_FRAMING in refused
    assert rules.VALUE in refused


def test_every_protocol_has_cases_of_its_form():
    rows = np.ones((1, WIDTH), np.float32)
    ran = 0
    for spelling in SPELLINGS:
        endpoint = Endpoint.model_validate(
            {"upstream": "http://127.0.0.1:1", **spelling.endpoint("e", WIDTH)}
        )
        headers, body = spelling.write(rows)
        valid = render_request("POST", spelling.target, "h", body, headers.items())
        assert valid.startswith(b"POST")
        declared = getattr(endpoint.contract, "declared", None)
        contract = declared(None, None) if declared else Contract()
        (place,) = spoken(endpoint.protocol, endpoint.match)
        bound = codec(place, contract, Bounds())
        assert read(valid, bound).refused_by is None, spelling.title
        every_body = body_cases(parts(valid), Random(3), 10)
        # Codings come last, are the same for all, and take their time.
        bodies = list(takewhile(lambda case: case.group != "codings", every_body))
        refused = [case for case in bodies if read(case.data, bound).refused_by is not None]
        assert len(refused) > 40, spelling.title
        ran += 1
    assert ran == len(SPELLINGS) > 10


def test_npy():
    into = io.BytesIO()
    np.save(into, np.ones((1, WIDTH), np.float32), allow_pickle=False)
    headers = [("Content-Type", "application/x-npy")]
    valid = render_request("POST", TARGET, "h", into.getvalue(), headers)
    names = [case.name for case in body_cases(parts(valid), Random(1), 0) if case.group == "npy"]
    assert "ten billion rows" in names
    assert "a pickle" in names
