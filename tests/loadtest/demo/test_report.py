"""What the demonstration says at its end."""

import io
import json
from collections import Counter

import pytest
from rich.console import Console

from loadtest.demo.expectations import Outcome, Recognised, Refused
from loadtest.demo.play import deciding_rule, label_of, read_audit
from loadtest.demo.report import Check, Latency, Line, Report, checks_table, traffic_table
from proxy import rules


def line(good=True):
    status = 400 if good else 200
    refused = Counter({"BZ-202": 1}) if good else Counter()
    return Line(Outcome("bad <b>", Counter({status: 1}), refused), Refused((rules.SHAPE,)))


def test_a_report_is_good_only_if_every_line_and_check_is():
    good, check = line(), Check("a", True, "")
    assert Report([good], [check]).good
    assert not Report([good, line(good=False)], [check]).good
    assert not Report([good], [check, Check("b", False, "")]).good
    assert not Report([], [check]).good


def test_latency_pairs_direct_and_through():
    latency = Latency.of([1.0, 2.0, 3.0], [1.5, 2.5, 9.0])
    assert (latency.direct_p50, latency.through_p50) == (2.0, 2.5)
    assert latency.added_p50 == 0.5
    assert latency.through_p99 > 8.8
    assert latency.direct_p99 < 3


def test_the_tables_hold_every_line_and_check():
    report = Report([line(), line(good=False)], [Check("the log verifies", True, "12 records")])
    report.latency = Latency.of([1e-4] * 3, [2e-4] * 3)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(traffic_table(report))
    console.print(checks_table(report))
    text = console.export_text()
    for words in ("bad <b>", "1 BZ-202", "FAILED", "ok", "12 records", "+100 µs"):
        assert words in text


def test_json_says_the_same():
    report = Report([line(good=False)], [Check("a", True, "b")])
    document = json.loads(json.dumps(report.as_json()))
    assert document["good"] is False
    assert document["traffic"][0]["verdict"] == "FAILED"
    assert document["traffic"][0]["statuses"] == {"200": 1}
    assert document["checks"] == [{"what": "a", "good": True, "detail": "b"}]
    assert Recognised(0.95).text == "at least 95% refused"


def test_audit_records_are_found_by_id_and_a_torn_line_is_passed_over(tmp_path):
    path = tmp_path / "audit.jsonl"
    path.write_text(
        '{"seq":1,"type":"opened"}\n'
        '{"seq":2,"id":"a","reasons":[]}\n'
        '{"seq":3,"id":"b","reasons":[{"rule":"BZ-300"},{"rule":"BZ-601"}]}\n'
        '{"seq":4,"id":"c","rea'
    )
    records = read_audit(path)
    assert set(records) == {"a", "b"}
    assert [deciding_rule(records[name]) for name in "ab"] == ["", "BZ-300"]


def test_the_label_is_read_from_an_answer():
    outputs = [{"name": "probabilities", "data": [0.1]}, {"name": "label", "data": [7]}]
    assert label_of(json.dumps({"outputs": outputs}).encode()) == 7
    with pytest.raises(ValueError, match="no label"):
        label_of(b'{"outputs":[]}')
