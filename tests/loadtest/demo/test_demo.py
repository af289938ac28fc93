"""The whole demonstration, as a user runs it: real processes, from nothing, to its exit status."""

import json
import os
import signal
import subprocess

import pytest

from loadtest.process import BARTIZAN

pytest.importorskip("sklearn")


def _run(*arguments, cache, **options):
    return subprocess.Popen(
        [*BARTIZAN, "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache), "TMPDIR": str(cache)},
        **options,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_everything_is_decided_as_it_should_be_and_nothing_is_left_behind(cache):
    with _run("--once", "--json", cache=cache) as process:
        out, err = process.communicate(timeout=180)
    document = json.loads(out)
    failed = [entry for entry in document["traffic"] if entry["verdict"] == "FAILED"]
    assert failed == []
    assert [check for check in document["checks"] if not check["good"]] == []
    assert (process.returncode, document["good"]) == (0, True), err
    assert len(document["traffic"]) == 24
    assert sum(entry["sent"] for entry in document["traffic"]) > 2000
    assert list(cache.glob("bartizan-demo-*")) == []


def test_it_stays_up_until_it_is_interrupted_and_keeps_its_folder(cache):
    with _run(cache=cache) as process:
        for line in process.stdout:
            if line.startswith("curl "):
                break
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    (folder,) = cache.glob("bartizan-demo-*")
    assert {"audit.jsonl", "bartizan.yaml", "honest.json"} <= {p.name for p in folder.iterdir()}
