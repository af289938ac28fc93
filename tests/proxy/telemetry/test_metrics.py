"""Metrics: every number as a scrape shows it, read back by the reference parsers."""

import math
import random
import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from proxy import rules
from proxy.decision import Action, Decision, Reason
from proxy.telemetry import families
from proxy.telemetry.audit import AuditState
from proxy.telemetry.exchanges import SCORES, SECONDS, STAGES
from proxy.telemetry.exposition import Family
from proxy.telemetry.metrics import Metrics, UpstreamState, Watched
from proxy.telemetry.record import Record

DETECTORS = ("pca", "knn")
ANSWERED = ("agreement", "second_opinion")
DIGITS = Watched("digits", detectors=DETECTORS, threshold=0.001, budget=0.001, bundle="ab" * 32)


def exchange(**changes):
    values = {
        "received": 10.0,
        "read": 10.1,
        "decoded": 10.2,
        "admitted": 10.3,
        "scored": 10.5,
        "decided": 10.6,
        "answered": 11.6,
        "finished": 11.7,
        "endpoint": "digits",
        "status": 200,
        "rows": 3,
        "p_value": 0.1,
        "score": 2.0,
        "signals": {"pca": 0.01, "knn": 0.5},
        "request_bytes": 100,
        "response_bytes": 40,
    }
    return Record("id", **{**values, **changes})


def make_metrics(*watched):
    metrics = Metrics(wall=lambda: 1234.5, registry=CollectorRegistry())
    metrics.bind(watched or (DIGITS,))
    return metrics


def samples(metrics, openmetrics=False):
    """Every sample by name and labels, without those of the unrouted exchanges."""
    parse = parse_openmetrics if openmetrics else parse_text
    found = {}
    for family in parse(metrics.render(openmetrics).decode()):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k != "endpoint"}
            if sample.labels.get("endpoint") != "":
                key = (sample.name, frozenset(labels.items()))
                assert key not in found
                found[key] = sample.value
    return found


def value(found, name, **labels):
    return found[f"bartizan_{name}", frozenset(labels.items())]


@pytest.mark.parametrize("openmetrics", [False, True])
def test_an_exchange_counts_everywhere(openmetrics):
    metrics = make_metrics()
    metrics.endpoint("digits").observe(exchange())
    found = samples(metrics, openmetrics)
    assert value(found, "requests_total", action="allow", enforced="allow") == 1
    assert value(found, "responses_total", status="2xx") == 1
    assert value(found, "would_block_total") == 0
    assert value(found, "rows_total") == 3
    assert value(found, "rows_scored_total") == 3
    assert value(found, "rows_flagged_total") == 0
    assert value(found, "request_body_bytes_total") == 100
    assert value(found, "response_body_bytes_total") == 40
    assert value(found, "request_seconds_sum") == pytest.approx(1.7)
    assert value(found, "overhead_seconds_sum") == pytest.approx(0.6)
    stages = [stage for stage in STAGES if stage not in ANSWERED]
    expected = dict(zip(stages, (0.1, 0.1, 0.1, 0.2, 0.1, 1.0, 0.1), strict=True))
    for stage in ANSWERED:
        assert value(found, "stage_seconds_count", stage=stage) == 0
    for stage, seconds in expected.items():
        assert value(found, "stage_seconds_sum", stage=stage) == pytest.approx(seconds)
        assert value(found, "stage_seconds_count", stage=stage) == 1
    assert value(found, "score_sum") == pytest.approx(1.0)
    assert value(found, "score_bucket", le="0.75") == 0
    assert value(found, "score_bucket", le="1.5") == 1
    assert value(found, "score_threshold") == pytest.approx(3.0)
    assert value(found, "alert_budget") == 0.001
    assert value(found, "alert_rate") == 0.0
    assert value(found, "alert_window_rows") == 3
    assert value(found, "budget_exceeded") == 0


def test_an_answer_that_was_judged_counts_everywhere():
    metrics = make_metrics(
        replace(DIGITS, detectors=(*DETECTORS, "confidence"), answer_threshold=0.01)
    )
    judged = {
        "answer_score": 3.0,
        "answer_p_value": 0.01,
        "answer_signals": {"confidence": 0.001},
        "judged": 11.62,
        "flagged_rows": 2,
        "answer_flagged_rows": 2,
    }
    endpoint = metrics.endpoint("digits")
    endpoint.observe(exchange(**judged, shaped=True))
    asked = {"suspicious_rows": 3, "asked_rows": 1, "opinion_rows": 4, "reconsidered": 11.65}
    endpoint.observe(exchange(**judged, **asked))
    endpoint.observe(exchange(**judged, **asked, opinion_fault="late"))
    for _ in range(5):
        endpoint.observe(exchange(**judged))
    found = samples(metrics)
    assert value(found, "stage_seconds_sum", stage="agreement") == pytest.approx(8 * 0.02)
    assert value(found, "stage_seconds_sum", stage="second_opinion") == pytest.approx(2 * 0.03)
    assert value(found, "stage_seconds_count", stage="second_opinion") == 2
    assert value(found, "stage_seconds_sum", stage="answer") == pytest.approx(6 * 0.08 + 2 * 0.05)
    assert value(found, "overhead_seconds_sum") == pytest.approx(8 * 0.6)
    assert value(found, "rows_judged_total") == 24
    assert value(found, "rows_disagreeing_total") == 16
    assert value(found, "rows_flagged_total") == 16
    assert value(found, "alert_window_flagged_requests") == 8
    assert value(found, "answer_score_sum") == pytest.approx(8 * 2.0)
    assert value(found, "answer_score_threshold") == pytest.approx(2.0)
    assert value(found, "detector_score_sum", detector="confidence") == pytest.approx(3.0)
    assert value(found, "detector_score_sum", detector="pca") == pytest.approx(2.0)
    opinions = {
        result: value(found, "second_opinions_total", result=result)
        for result in ("heard", "declined", "failed")
    }
    assert opinions == {"heard": 1, "declined": 4, "failed": 1}
    assert value(found, "second_opinion_rows_total") == 8
    assert value(found, "shaped_total") == 1


def test_what_judges_no_answer_tells_of_none():
    metrics = make_metrics()
    metrics.endpoint("digits").observe(exchange())
    names = {name for name, _ in samples(metrics)}
    assert not [name for name in names if "answer_score" in name or "judged" in name]


def test_a_change_of_bundle_keeps_what_its_detectors_counted():
    metrics = make_metrics(replace(DIGITS, answer_threshold=0.01))
    for _ in range(8):
        metrics.endpoint("digits").observe(exchange(answer_score=1.0, answer_p_value=0.1))
    metrics.bind([replace(DIGITS, detectors=("knn", "gmm"), bundle="cd" * 32)])
    found = samples(metrics)
    assert value(found, "detector_score_count", detector="knn") == 1
    assert value(found, "detector_score_count", detector="gmm") == 0
    assert value(found, "score_count") == 8
    metrics.bind([replace(DIGITS, answer_threshold=0.01)])
    assert value(samples(metrics), "answer_score_count") == 8


def test_the_overhead_is_that_of_the_record():
    metrics = make_metrics()
    record = exchange()
    metrics.endpoint("digits").observe(record)
    found = samples(metrics)
    assert value(found, "overhead_seconds_sum") == pytest.approx(record.overhead_seconds)


def test_a_stage_that_was_not_reached_is_not_counted():
    metrics = make_metrics()
    refused = Decision(Action.BLOCK, Action.BLOCK, (Reason(rules.SYNTAX),))
    metrics.endpoint("digits").observe(
        exchange(
            decision=refused,
            status=400,
            rows=0,
            p_value=None,
            signals={},
            decoded=0.0,
            admitted=0.0,
            scored=0.0,
            decided=10.15,
            answered=0.0,
            finished=10.2,
        )
    )
    found = samples(metrics)
    for stage in ("decode", "limits", "score", "upstream"):
        assert value(found, "stage_seconds_count", stage=stage) == 0
    assert value(found, "stage_seconds_sum", stage="decide") == pytest.approx(0.05)
    assert value(found, "stage_seconds_sum", stage="answer") == pytest.approx(0.05)
    assert value(found, "overhead_seconds_sum") == pytest.approx(0.1)
    assert value(found, "score_count") == 0
    assert value(found, "rows_scored_total") == 0
    assert math.isnan(value(found, "alert_rate"))
    assert value(found, "refusals_total", rule="BZ-120", enforced="true") == 1


def test_an_exchange_that_its_client_left_has_no_total():
    metrics = make_metrics()
    metrics.endpoint("digits").observe(exchange(status=0, answered=0.0, finished=0.0))
    found = samples(metrics)
    assert value(found, "responses_total", status="none") == 1
    assert value(found, "request_seconds_count") == 0
    assert value(found, "overhead_seconds_count") == 0


def test_monitor_mode_shows_what_it_would_have_done():
    metrics = make_metrics()
    would = Decision(Action.BLOCK, Action.ALLOW, (Reason(rules.OUTLIER),))
    throttled = Decision(Action.THROTTLE, Action.THROTTLE, (Reason(rules.CLIENT_RATE),))
    endpoint = metrics.endpoint("digits")
    for decision in (would, would, throttled):
        endpoint.observe(exchange(decision=decision, flagged_rows=1))
    found = samples(metrics)
    assert value(found, "requests_total", action="block", enforced="allow") == 2
    assert value(found, "requests_total", action="throttle", enforced="throttle") == 1
    assert value(found, "would_block_total") == 2
    assert value(found, "refusals_total", rule="BZ-300", enforced="false") == 2
    assert value(found, "refusals_total", rule="BZ-601", enforced="true") == 1
    assert value(found, "rows_flagged_total") == 3
    assert value(found, "alert_rate") == pytest.approx(3 / 9)


def test_a_fault_that_was_tolerated_failed_open():
    metrics = make_metrics()
    reason = Reason(rules.DETECTOR_FAULT)
    endpoint = metrics.endpoint("digits")
    for enforced in (Action.ALLOW, Action.BLOCK):
        decision = Decision(Action.BLOCK, enforced, (reason,))
        endpoint.observe(exchange(decision=decision, fault="BZ-390", p_value=None))
    found = samples(metrics)
    assert value(found, "faults_total", rule="BZ-390") == 2
    assert value(found, "failed_open_total", rule="BZ-390") == 1
    assert value(found, "detector_faults_total") == 2


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 20.0),
            st.one_of(st.none(), st.floats(1e-9, 1.0)),
            st.integers(0, 5),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_histograms_and_sums_agree_with_counting_by_hand(exchanges):
    metrics = make_metrics()
    for seconds, p, rows in exchanges:
        metrics.endpoint("digits").observe(
            exchange(received=100.0, finished=100.0 + seconds, p_value=p, rows=rows)
        )
    found = samples(metrics)
    spans = [100.0 + seconds - 100.0 for seconds, _, _ in exchanges]
    for bound in SECONDS:
        expected = sum(span <= bound for span in spans)
        assert value(found, "request_seconds_bucket", le=repr(bound)) == expected
    assert value(found, "request_seconds_bucket", le="+Inf") == len(spans)
    scores = [-math.log10(p) for _, p, _ in exchanges if p is not None]
    for bound in SCORES:
        near = sum(abs(score - bound) < 1e-9 for score in scores)
        expected = sum(score <= bound for score in scores)
        assert abs(value(found, "score_bucket", le=repr(bound)) - expected) <= near
    assert value(found, "rows_scored_total") == sum(n for _, p, n in exchanges if p is not None)


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1000])
def test_no_exchange_is_lost_between_batches(count):
    metrics = make_metrics()
    for _ in range(count):
        metrics.endpoint("digits").observe(exchange())
    found = samples(metrics)
    assert value(found, "requests_total", action="allow", enforced="allow") == count
    assert value(found, "request_seconds_count") == count
    assert value(found, "score_count") == count
    assert value(found, "detector_score_count", detector="pca") == count // 8


def test_a_detector_that_gave_no_score_is_not_counted():
    metrics = make_metrics()
    for _ in range(8):
        metrics.endpoint("digits").observe(exchange(signals={"knn": 0.1}))
    found = samples(metrics)
    assert value(found, "detector_score_count", detector="knn") == 1
    assert value(found, "detector_score_count", detector="pca") == 0


def test_a_p_value_of_nought_or_nan_breaks_nothing():
    metrics = make_metrics()
    for p in (0.0, math.nan, 1.0):
        metrics.endpoint("digits").observe(exchange(p_value=p))
    found = samples(metrics)
    assert value(found, "score_count") == 2
    assert value(found, "score_bucket", le="0.25") == 1


def test_no_client_adds_a_series():
    metrics = make_metrics()
    endpoint = metrics.endpoint("digits")
    draw = random.Random(1)
    blocked = Decision(Action.BLOCK, Action.BLOCK, (Reason(rules.OUTLIER, "detail"),))
    endpoint.observe(exchange(decision=blocked))
    metrics.unrouted.observe(exchange(decision=blocked))
    before = metrics.render().count(b"\n")
    for number in range(100_000):
        record = exchange(client=str(number), target=f"/v2/models/{draw.random()}")
        record.id = str(uuid.UUID(int=number))
        record.method = f"M{number}"
        if number % 2:
            record.decision = blocked
        (endpoint if number % 3 else metrics.unrouted).observe(record)
    assert metrics.render().count(b"\n") == before


def test_labels_are_escaped():
    metrics = make_metrics(Watched('a"b\\c\nd'))
    metrics.endpoint('a"b\\c\nd').observe(exchange())
    for parse, openmetrics in ((parse_text, False), (parse_openmetrics, True)):
        names = {
            sample.labels["endpoint"]
            for family in parse(metrics.render(openmetrics).decode())
            for sample in family.samples
            if "endpoint" in sample.labels
        }
        assert names == {"", 'a"b\\c\nd'}


def test_reload_keeps_the_counters_of_endpoints_that_stay():
    metrics = make_metrics(DIGITS, Watched("other"))
    bound = metrics.endpoint("digits")
    for _ in range(8):
        bound.observe(exchange(flagged_rows=1))
    metrics.endpoint("other").observe(exchange())
    changed = Watched(
        "digits", detectors=("gmm", "knn"), threshold=0.01, budget=0.01, bundle="cd" * 32
    )
    metrics.bind([changed, Watched("new")])
    assert metrics.endpoint("digits") is bound
    with pytest.raises(KeyError):
        metrics.endpoint("other")
    text = metrics.render().decode()
    assert 'endpoint="other"' not in text
    assert 'bartizan_rows_total{endpoint="digits"} 24\n' in text
    assert 'bartizan_detector_score_count{endpoint="digits",detector="knn"} 1\n' in text
    assert 'bartizan_detector_score_count{endpoint="digits",detector="gmm"} 0\n' in text
    assert 'detector="pca"' not in text
    assert 'bartizan_alert_rate{endpoint="digits"} NaN\n' in text  # another threshold: anew
    assert 'bartizan_alert_budget{endpoint="digits"} 0.01\n' in text


def test_reload_of_the_same_bundle_keeps_the_window():
    metrics = make_metrics()
    metrics.endpoint("digits").observe(exchange(flagged_rows=3))
    metrics.bind([DIGITS])
    assert value(samples(metrics), "alert_rate") == 1.0


def test_a_reload_that_cannot_be_bound_changes_nothing():
    metrics = make_metrics()
    metrics.endpoint("digits").observe(exchange())
    with pytest.raises(ValueError, match="budget"):
        metrics.bind([Watched("digits", budget=2.0), Watched("new")])
    assert value(samples(metrics), "rows_total") == 3
    with pytest.raises(KeyError):
        metrics.endpoint("new")


def test_the_process_tells_of_itself():
    metrics = make_metrics()
    metrics.reloaded(True)
    metrics.reloaded(False)
    metrics.connections = lambda: 7
    metrics.connections_shed = lambda: 2
    metrics.clients = lambda: {"digits": 5}
    metrics.upstreams = lambda: [UpstreamState("digits", "127.0.0.1:1", 3, 4, True, 9)]
    metrics.audit = lambda: AuditState(10, 2, 3, 100, "disk full")
    found = samples(metrics, openmetrics=True)
    assert value(found, "reloads_total", result="success") == 1
    assert value(found, "reloads_total", result="failure") == 1
    assert value(found, "reload_successful") == 0
    assert value(found, "reload_timestamp_seconds") == 1234.5
    assert value(found, "connections") == 7
    assert value(found, "connections_shed_total") == 2
    assert value(found, "limits_clients") == 5
    upstream = {"upstream": "127.0.0.1:1"}
    assert value(found, "upstream_in_flight", **upstream) == 3
    assert value(found, "upstream_connections", **upstream) == 4
    assert value(found, "upstream_ejected", **upstream) == 1
    assert value(found, "upstream_ejections_total", **upstream) == 9
    assert value(found, "audit_records_total") == 10
    assert value(found, "audit_dropped_total") == 2
    assert value(found, "audit_queue") == 3
    assert value(found, "audit_queue_limit") == 100
    assert value(found, "audit_failing") == 1


@pytest.mark.parametrize("openmetrics", [False, True])
def test_the_processs_own_figures_are_on_the_page(openmetrics):
    metrics = Metrics(wall=lambda: 0.0)
    parse = parse_openmetrics if openmetrics else parse_text
    names = {family.name for family in parse(metrics.render(openmetrics).decode())}
    assert "process_open_fds" in names
    assert metrics.render(True).endswith(b"# EOF\n")


def test_every_family_is_named_as_prometheus_advises():
    assert len(families.FAMILIES) > 30
    for family in families.FAMILIES:
        assert family.name.startswith("bartizan_")
        assert not family.name.endswith(("_total", "_info"))
        assert family.meaning.endswith(".")
        assert not family.unit or family.name.endswith(f"_{family.unit}")
        assert not set(family.meaning) & set('\\\n"')
    names = [family.name for family in families.FAMILIES]
    assert len(set(names)) == len(names)


def test_the_operators_page_describes_every_metric(repository):
    page = (repository / "docs" / "operation.md").read_text()
    missing = [family.sample for family in families.FAMILIES if f"`{family.sample}`" not in page]
    assert not missing


def test_info_is_a_gauge_where_the_format_has_no_info():
    family = Family("x", "info", "What.")
    assert "# TYPE x_info gauge\n" in family.header(False)
    assert "# TYPE x info\n" in family.header(True)
