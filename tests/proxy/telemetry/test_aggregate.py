"""Several workers' figures as one: sums that never go back, gauges by their rule."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from proxy.telemetry import families
from proxy.telemetry.aggregate import Pages
from proxy.telemetry.budget import AlertWindow
from proxy.telemetry.metrics import Metrics, Watched
from proxy.telemetry.record import Record

DIGITS = Watched("digits", detectors=("pca",), threshold=0.001, budget=0.001, bundle="ab" * 32)
RULES = {"sum", "max", "min", "supervisor", "derived"}


def worker(*watched, registry=None):
    metrics = Metrics(wall=lambda: 7.0, registry=registry or CollectorRegistry())
    metrics.bind(watched or (DIGITS,))
    return metrics


def exchanges(metrics, count, flagged=0, endpoint="digits"):
    """Lets a worker serve so many exchanges of one row."""
    for turn in range(count):
        metrics.endpoint(endpoint).observe(
            Record(
                "id",
                received=10.0,
                read=10.1,
                finished=10.5 + turn % 3,
                endpoint=endpoint,
                status=200,
                rows=1,
                p_value=1e-6 if turn < flagged else 0.5,
                flagged_rows=int(turn < flagged),
                signals={"pca": 0.5},
            )
        )


def page(metrics):
    return metrics.render(openmetrics=True).decode()


def samples(pages, own="", openmetrics=False):
    parse = parse_openmetrics if openmetrics else parse_text
    found = {}
    for family in parse(pages.render(own, openmetrics).decode()):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def value(found, name, **labels):
    return found[f"bartizan_{name}", frozenset(labels.items())]


def growing(found):
    return {
        key: value
        for key, value in found.items()
        if key[0].endswith(("_total", "_count", "_sum", "_bucket"))
    }


def test_every_family_says_how_workers_become_one():
    unsaid = [family.name for family in families.FAMILIES if family.over_workers not in RULES]
    assert not unsaid
    derived = [family for family in families.FAMILIES if family.over_workers == "derived"]
    assert derived == [families.ALERT_RATE, families.BUDGET_EXCEEDED]
    assert all(
        family.over_workers in ("sum", "supervisor")
        for family in families.FAMILIES
        if family.kind in ("counter", "histogram")
    )


@pytest.mark.parametrize("openmetrics", [False, True])
def test_one_worker_alone_is_shown_as_it_is(openmetrics):
    metrics = worker()
    exchanges(metrics, 300, flagged=2)
    pages = Pages()
    pages.take(1, page(metrics))
    shown = samples(pages, openmetrics=openmetrics)
    parse = parse_openmetrics if openmetrics else parse_text
    expected = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(metrics.render(openmetrics).decode())
        for sample in family.samples
        if "reload" not in family.name and family.name != families.READY.name
    }
    assert shown == pytest.approx(expected, nan_ok=True)


def test_two_workers_are_summed():
    one, other = worker(), worker()
    exchanges(one, 100)
    exchanges(other, 40)
    one.connections, other.connections = (lambda: 3), (lambda: 4)
    pages = Pages()
    pages.take(1, page(one))
    pages.take(2, page(other))
    found = samples(pages)
    assert value(found, "responses_total", endpoint="digits", status="2xx") == 140
    assert value(found, "request_seconds_count", endpoint="digits") == 140
    assert value(found, "connections") == 7
    assert value(found, "alert_budget", endpoint="digits") == 0.001
    labels = {"endpoint": "digits", "mode": "enforce", "bundle": "ab" * 32}
    assert value(found, "endpoint_info", **labels) == 1


def test_what_ended_workers_counted_stays_and_their_gauges_go():
    one, other = worker(), worker()
    exchanges(one, 100)
    exchanges(other, 40)
    one.connections = lambda: 3
    pages = Pages()
    pages.take(1, page(one))
    pages.take(2, page(other))
    before = samples(pages)
    pages.end(1)
    after = samples(pages)
    assert growing(after) == growing(before)
    assert value(after, "connections") == 0
    replacement = worker()
    exchanges(replacement, 5)
    pages.take(1, page(replacement))
    assert value(samples(pages), "rows_total", endpoint="digits") == 145
    pages.end(1)
    pages.end(2)
    pages.end(2)
    assert value(samples(pages), "rows_total", endpoint="digits") == 145


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["serve", "tell", "end"]), st.integers(1, 3), st.integers(1, 300)
        ),
        max_size=25,
    )
)
def test_no_counter_goes_back_whatever_happens(events):
    pages, workers, told = Pages(), {}, 0
    seen = {}
    for event, number, count in events:
        metrics, unseen = workers.get(number) or (worker(), 0)
        if event == "serve":
            exchanges(metrics, count)
            unseen += count
        elif event == "tell":
            pages.take(number, page(metrics))
            told, unseen = told + unseen, 0
        else:
            pages.end(number)
            metrics, unseen = worker(), 0
        workers[number] = metrics, unseen
        found = growing(samples(pages))
        assert [key for key, past in seen.items() if found[key] < past] == []
        seen = found
        rows = found.get(("bartizan_rows_total", frozenset({("endpoint", "digits")})), 0)
        assert rows == told


def test_the_alert_rate_is_that_of_all_rows():
    window = AlertWindow(0.001)
    pages = Pages()
    for number, (count, flagged) in enumerate([(900, 0), (400, 15), (50, 15)], 1):
        metrics = worker()
        exchanges(metrics, count, flagged)
        pages.take(number, page(metrics))
        window.add(count, flagged, flagged)
    found = samples(pages)
    assert value(found, "alert_rate", endpoint="digits") == pytest.approx(window.rate)
    assert value(found, "budget_exceeded", endpoint="digits") == window.exceeded == 1
    assert pages.value(families.ALERT_RATE, endpoint="digits") == pytest.approx(window.rate)
    assert pages.value(families.ALERT_RATE, endpoint="other") is None


def test_no_row_yet_is_no_rate():
    pages = Pages()
    pages.take(1, page(worker()))
    assert math.isnan(value(samples(pages), "alert_rate", endpoint="digits"))
    assert value(samples(pages), "budget_exceeded", endpoint="digits") == 0


def test_an_endpoint_that_is_no_more_is_forgotten():
    pages, metrics = Pages(), worker(DIGITS, Watched("other"))
    exchanges(metrics, 10)
    exchanges(metrics, 10, endpoint="other")
    pages.take(1, page(metrics))
    pages.end(1)
    pages.keep(["other"])
    found = samples(pages)
    assert value(found, "rows_total", endpoint="other") == 10
    assert value(found, "rows_total", endpoint="") == 0
    assert not any(("endpoint", "digits") in labels for _, labels in found)


def test_what_only_the_supervisor_knows_is_its_own():
    own = (
        families.RELOADS.header(openmetrics=True)
        + f"{families.RELOADS.series(result='success')}3\n"
        + families.WORKERS.header(openmetrics=True)
        + f"{families.WORKERS.series()}2\n# EOF\n"
    )
    metrics = worker()
    metrics.reloaded(True)
    pages = Pages()
    pages.take(1, page(metrics))
    pages.end(1)
    pages.take(1, page(metrics))
    for openmetrics in (False, True):
        found = samples(pages, own, openmetrics)
        assert value(found, "reloads_total", result="success") == 3
        assert value(found, "workers") == 2


def test_the_processes_figures_are_summed():
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    metrics = worker(registry=registry)
    pages = Pages()
    pages.take(1, page(metrics))
    one = samples(pages)
    pages.take(2, page(metrics))
    two = samples(pages)
    key = "process_resident_memory_bytes", frozenset()
    assert 1.5 * one[key] < two[key] < 2.5 * one[key]
    key = "process_start_time_seconds", frozenset()
    assert one[key] == two[key]


@pytest.mark.parametrize(
    "text",
    ["a 1\n", "# TYPE a gauge\na\n", "# TYPE a gauge\na x\n", "# TYPE a gauge\n 1 b\n", "\0"],
)
def test_what_is_no_page_is_a_value_error_and_changes_nothing(text):
    pages = Pages()
    pages.take(1, page(worker()))
    before = pages.render("")
    with pytest.raises(ValueError, match=r".*"):
        pages.take(1, text)
    assert pages.render("") == before


def test_a_sum_does_not_lose_its_last_bit_when_a_worker_ends():
    text = "# HELP x_seconds Time.\n# TYPE x_seconds counter\nx_seconds_total {}\n"
    pages = Pages()
    for number, seconds in enumerate((0.7, 0.3, 0.1)):
        pages.take(number, text.format(seconds))
    assert (0.7 + 0.3) + 0.1 > (0.1 + 0.7) + 0.3
    before = pages.render("").decode()
    pages.end(2)
    assert pages.render("").decode() == before
    assert f"x_seconds_total {math.fsum((0.7, 0.3, 0.1))}\n" in before
