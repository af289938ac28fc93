"""The process's log: its two forms, what it escapes, what it hides, how often it speaks."""

import io
import json
import logging

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from proxy.telemetry.logs import RateLimit, configure


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def restore():
    """Leaves logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def start(stream, **options):
    configure(stream=stream, wall=lambda: 1_700_000_000.25, **options)
    return structlog.get_logger("bartizan")


def told(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_where_nobody_looks():
    stream = io.StringIO()
    start(stream).info("reloaded", endpoints=["a", "b"], seconds=0.5)
    assert told(stream) == [
        {
            "time": "2023-11-14T22:13:20.250Z",
            "level": "info",
            "event": "reloaded",
            "endpoints": ["a", "b"],
            "seconds": 0.5,
        }
    ]


def test_words_on_a_terminal():
    stream = Terminal()
    start(stream).warning("reload failed", error="config.yaml:3")
    text = stream.getvalue()
    assert "reload failed" in text
    assert "config.yaml:3" in text
    assert "\x1b[" in text  # its own colours
    assert not text.startswith("{")


@pytest.mark.parametrize(("form", "first"), [("json", "{"), ("console", "2")])
def test_the_form_can_be_chosen(form, first):
    stream = io.StringIO()
    start(stream, form=form).info("x")
    assert stream.getvalue().startswith(first)


def test_what_is_below_the_level_is_not_written():
    stream = io.StringIO()
    log = start(stream, level="warning")
    log.info("quiet")
    logging.getLogger("other").info("quiet")
    log.error("loud")
    assert [entry["event"] for entry in told(stream)] == ["loud"]


@pytest.mark.parametrize("form", ["json", "console"])
@given(text=st.text(st.characters(codec=None)))
def test_nothing_that_a_client_sent_can_fake_a_line(form, text):
    stream = io.StringIO()
    log = start(stream, form=form)
    log.info("refused", target=text, more={text: [text]})
    written = stream.getvalue()
    assert written.endswith("\n")
    assert written[:-1].isprintable()


def test_the_lines_of_a_traceback_are_indented():
    stream = io.StringIO()
    log = start(stream, form="console")
    try:
        int("boom\n2023-11-14 [info] all is well\x1b[2J")
    except ValueError as error:
        error.add_note("boom\n2023-11-14 [info] all is well\x1b[2J")
        log.exception("fault")
    first, *rest = stream.getvalue().splitlines()
    assert "fault" in first
    assert any("ValueError: " in line for line in rest)
    assert all(line.startswith("  ") for line in rest)
    assert "\x1b" not in stream.getvalue()


def test_secrets_and_payloads_are_blanked():
    stream = io.StringIO()
    start(stream).info(
        "x", token="t0ken", Authorization="Bearer t0ken", headers={"api_key": "t0ken"}, rows=[[1.5]]
    )
    assert "t0ken" not in stream.getvalue()
    assert "1.5" not in stream.getvalue()
    assert told(stream)[0]["headers"] == {"api_key": "[redacted]"}


def test_a_long_field_is_cut():
    stream = io.StringIO()
    start(stream).info("x", target="y" * 10**6, many=list(range(10**5)))
    assert len(stream.getvalue()) < 5000


def test_what_is_no_text_is_shown_all_the_same():
    stream = io.StringIO()
    start(stream).info(
        "x", path=b"\x00", deep={"a": {"b": {"c": {"d": {"e": 1}}}}}, nan=float("nan")
    )
    assert told(stream)[0]["path"] == r"b'\x00'"


def test_the_standard_library_goes_the_same_way():
    stream = io.StringIO()
    start(stream)
    logging.getLogger("aiohttp.server").error("bad request from %s", "x\ny\x1b")
    (entry,) = told(stream)
    assert entry["event"] == r"bad request from x\ny\x1b"
    assert entry["level"] == "error"


def test_a_repeated_event_is_limited_and_counted():
    now = 0.0
    stream = io.StringIO()
    limit = RateLimit(10, 1.0, lambda: now)
    log = start(stream, limit=limit)
    for _ in range(1000):
        log.warning("refused")
    log.warning("other")
    assert len(told(stream)) == 11
    now = 1.5
    log.warning("refused")
    assert told(stream)[-1]["suppressed"] == 990
    log.warning("refused")
    assert "suppressed" not in told(stream)[-1]


def test_what_was_suppressed_is_told_even_if_nothing_follows():
    now = 0.0
    limit = RateLimit(10, 1.0, lambda: now)
    log = start(io.StringIO(), limit=limit)
    for _ in range(15):
        log.info("refused")
    assert limit.summaries() == {}
    now = 1.0
    assert limit.summaries() == {"info refused": 5}
    assert limit.summaries() == {}


def test_the_standard_library_is_limited_too():
    now = 0.0
    stream = io.StringIO()
    start(stream, limit=RateLimit(3, 1.0, lambda: now))
    log = logging.getLogger("noisy")
    for number in range(10):
        log.warning("event %d", number)
    assert len(told(stream)) == 3
    now = 2.0
    log.warning("event %d", 10)
    assert told(stream)[-1]["event"] == "event 10 (suppressed 7)"


def test_memory_of_events_is_bounded():
    limit = RateLimit(1, 1.0, lambda: 0.0)
    passed = 0
    for number in range(5000):
        try:
            limit(None, "info", {"event": f"event {number}"})
        except structlog.DropEvent:
            continue
        passed += 1
    assert len(limit._seen) <= 1025
    assert passed == 1025  # all further ones share one limit
