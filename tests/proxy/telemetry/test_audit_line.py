"""Records as lines: what they hold, and that nothing in them can break or fake a line."""

import math

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import rules
from proxy.decision import Action, Decision, Reason
from proxy.telemetry.audit_chain import MAX_LINE
from proxy.telemetry.audit_line import Lines
from proxy.telemetry.record import Record


def exchange(**changes):
    values = {
        "received": 1.0,
        "read": 1.1,
        "decided": 1.2,
        "answered": 1.7,
        "finished": 1.8,
        "endpoint": "digits",
        "client": "ip:abc",
        "method": "POST",
        "target": "/v2/models/digits/infer",
        "status": 200,
        "rows": 2,
        "bundle": "ab" * 32,
        "configuration": "cd" * 32,
    }
    return Record("an-id", **{**values, **changes})


def read(body):
    assert b"\n" not in body
    return orjson.loads(b"{" + body)


def test_a_record_holds_the_exchange():
    decision = Decision(Action.BLOCK, Action.ALLOW, (Reason(rules.OUTLIER, "2 of 2 rows"),))
    record = exchange(
        decision=decision,
        p_value=0.001,
        score=7.5,
        worst_row=1,
        flagged_rows=2,
        signals={"pca": 0.01},
        fault="BZ-390",
        notes={"values": [[1.0]]},
    )
    assert read(Lines(1_700_000_000.0).exchange(record)) == {
        "type": "exchange",
        "time": "2023-11-14T22:13:21.000000Z",
        "id": "an-id",
        "endpoint": "digits",
        "client": "ip:abc",
        "method": "POST",
        "target": "/v2/models/digits/infer",
        "status": 200,
        "action": "block",
        "enforced": "allow",
        "would_block": True,
        "reasons": [
            {"rule": "BZ-300", "atlas": list(rules.OUTLIER.atlas), "detail": "2 of 2 rows"}
        ],
        "rows": 2,
        "bundle": "ab" * 8,
        "configuration": "cd" * 8,
        "request_bytes": 0,
        "response_bytes": 0,
        "total_us": 800000,
        "overhead_us": pytest.approx(200000, abs=1),
        "upstream_us": 500000,
        "score": 7.5,
        "p_value": 0.001,
        "worst_row": 1,
        "flagged_rows": 2,
        "signals": {"pca": 0.01},
        "fault": "BZ-390",
        "notes": {"values": [[1.0]]},
    }


def test_what_was_not_scored_has_no_score():
    line = read(Lines().exchange(exchange()))
    assert not {"score", "p_value", "signals", "fault", "notes"} & set(line)


def test_bundles_of_one_endpoint_are_told_apart():
    lines = Lines()
    first = read(lines.exchange(exchange(bundle="11" * 32)))
    second = read(lines.exchange(exchange(bundle="22" * 32)))
    assert (first["bundle"], second["bundle"]) == ("11" * 8, "22" * 8)


def test_memory_of_what_was_served_is_bounded():
    lines = Lines()
    for number in range(5000):
        assert read(lines.exchange(exchange(endpoint=f"e{number}")))["endpoint"] == f"e{number}"
    assert len(lines._served) <= 1024


@given(
    st.text(st.characters(codec=None)),
    st.dictionaries(
        st.text(st.characters(codec=None), max_size=5),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**70), 2**70)
            | st.floats()
            | st.text(st.characters(codec=None))
            | st.binary(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
            ),
            max_leaves=5,
        ),
        max_size=3,
    ),
)
def test_whatever_a_client_sends_a_line_is_printable_ascii(text, notes):
    decision = Decision(Action.BLOCK, Action.BLOCK, (Reason(rules.SYNTAX, text),))
    record = exchange(target=text, method=text, decision=decision, notes=notes)
    line = Lines().exchange(record)
    assert line.isascii()
    assert line.decode().isprintable()
    told = read(line)
    assert told["type"] == "exchange"
    assert told["reasons"][0]["rule"] == "BZ-120"
    if text.isascii():
        assert told["reasons"][0]["detail"] == text


def test_numpy_values_are_numbers():
    line = read(
        Lines().exchange(
            exchange(p_value=np.float64(0.25), score=np.float32(2), signals={"a": np.float64(0.5)})
        )
    )
    assert (line["p_value"], line["score"], line["signals"]) == (0.25, 2.0, {"a": 0.5})


def test_a_score_that_is_no_number_is_null():
    line = read(Lines().exchange(exchange(p_value=math.nan, score=math.inf)))
    assert line["p_value"] is None
    assert line["score"] is None


@pytest.mark.parametrize(
    "changes",
    [{"notes": {"values": "x" * MAX_LINE}}, {"client": "é" * MAX_LINE}, {"target": "y" * MAX_LINE}],
)
def test_no_line_is_longer_than_a_reader_takes(changes):
    line = Lines().exchange(exchange(**changes))
    assert len(line) < MAX_LINE // 2
    assert read(line)["id"] == "an-id"


def test_where_the_values_are_too_many_their_digest_stays():
    notes = {"sha256": "ab" * 32, "values": np.zeros((1000, 1000), np.float32)}
    line = read(Lines().exchange(exchange(notes=notes)))
    assert line["notes"] == {"sha256": "ab" * 32}
    assert "bytes long" in line["cut"]


def test_an_array_is_recorded_as_it_is_seen():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for values in (array, np.asfortranarray(array), array[:, ::2], array.astype(">f4")):
        line = read(Lines().exchange(exchange(notes={"values": values})))
        assert line["notes"]["values"] == values.tolist()


@pytest.mark.parametrize("changes", [{"received": math.nan}, {"bundle": None}, {"decision": None}])
def test_a_record_that_cannot_be_rendered_is_told_by_its_id(changes):
    line = read(Lines().exchange(exchange(**changes)))
    assert line["type"] == "unreadable"
    assert line["id"] == "an-id"


def test_a_cycle_is_no_way_out():
    notes = {}
    notes["self"] = notes
    assert read(Lines().exchange(exchange(notes=notes)))["id"] == "an-id"


@given(st.floats(0, 4e9))
def test_times_are_utc_to_the_microsecond(at):
    from datetime import UTC, datetime

    told = datetime.fromisoformat(Lines().time(at))
    assert told.tzinfo == UTC
    assert abs(told.timestamp() - at) < 2e-6
