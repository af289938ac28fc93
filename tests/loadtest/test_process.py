"""Subprocesses: awaited, measured, always ended."""

import os
import re
import sys
from pathlib import Path

import pytest

from loadtest.process import Process, ProcessError, accepts, core_seconds, free_port, on_cores
from loadtest.serving import parse_address

PYTHON = (sys.executable, "-c")


def _start(tmp_path, code, **options):
    return Process("program", [*PYTHON, code], tmp_path / "log", **options)


def test_a_program_that_ends_early_is_reported_with_what_it_wrote(tmp_path):
    process = _start(tmp_path, "raise SystemExit('no such model')")
    with pytest.raises(ProcessError, match=r"status 1:\nno such model"):
        process.wait_for_line(seconds=60)
    assert process.stop() == 1


def test_a_program_that_never_serves_is_reported_and_can_be_ended(tmp_path):
    process = _start(tmp_path, "import time; print('up', flush=True); time.sleep(600)")
    with pytest.raises(ProcessError, match="not ready"):
        process.wait_for_line(seconds=0)
    assert process.stop() < 0


def test_a_program_that_ignores_sigterm_is_ended_all_the_same(tmp_path):
    code = (
        "import signal, time; signal.signal(15, signal.SIG_IGN);"
        "print('listening on 127.0.0.1:9', flush=True); time.sleep(600)"
    )
    process = _start(tmp_path, code)
    assert process.wait_for_line(seconds=60) == ("127.0.0.1", 9)
    assert process.stop(seconds=0.05) == -9


def test_cpu_time_includes_children(tmp_path):
    burn = "import time\nwhile time.process_time() < .2: pass\n"
    code = (
        f"import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-c', {burn + 'time.sleep(600)'!r}])\n"
        "print('listening on 127.0.0.1:9', flush=True)\n"
        "try: time.sleep(600)\nexcept BaseException: p.kill(); p.wait()\n"
    )
    code = "import signal\nsignal.signal(15, signal.default_int_handler)\n" + code
    process = _start(tmp_path, code)
    try:
        process.wait_until(lambda: process.cpu_seconds() >= 0.2, seconds=60)
        assert process.resident_bytes() > 1 << 20
    finally:
        process.stop()
    assert process.cpu_seconds() == 0


def test_a_program_runs_on_its_cores_and_we_stay_on_ours(tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    process = _start(tmp_path, code, cores={cores[-1]})
    with pytest.raises(ProcessError):
        process.wait_for_line(seconds=60)
    assert process.tail() == str([cores[-1]])
    assert sorted(os.sched_getaffinity(0)) == cores


def test_cores_are_given_back_after_a_failure():
    before = os.sched_getaffinity(0)
    with pytest.raises(ZeroDivisionError), on_cores({min(before)}):
        raise ZeroDivisionError
    assert os.sched_getaffinity(0) == before


def test_busy_time_of_cores_only_grows_and_adds_up():
    cores = sorted(os.sched_getaffinity(0))
    before = core_seconds(cores)
    each = sum(core_seconds([core]) for core in cores)
    assert before - 0.001 <= each <= core_seconds(cores) + 0.001
    assert core_seconds([]) == 0


def test_a_free_port_is_free():
    assert not accepts(("127.0.0.1", free_port()))


@pytest.mark.parametrize("text", ["", "127.0.0.1", ":80", "h:", "h:x", "h:70000", "h:-1"])
def test_what_is_not_an_address_is_refused(text):
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_address(text)


def test_an_address_is_read():
    assert parse_address("127.0.0.1:0") == ("127.0.0.1", 0)


def test_the_folder_that_one_stands_in_lends_no_modules():
    root = Path(__file__).parents[2]
    sources = [
        p for room in ("proxy", "loadtest", "detectors") for p in (root / room).rglob("*.py")
    ]
    started = [
        found
        for path in sources
        for found in re.findall(r"[\[(]\s*sys\.executable,\s*([^,]+),", path.read_text())
    ]
    assert len(started) > 10
    assert set(started) == {'"-P"'}
