"""A reduced demonstration, as a user runs it: real servers, real attacks, one command."""

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from loadtest.process import BARTIZAN

pytest.importorskip("sklearn")
pytest.importorskip("hdrh")

SCENARIO = """\
name: small
seed: 1
serve: demo
load:
  - name: honest
    rate: 60
    seconds: 1.5
    connections: 8
    mix: [{name: honest, share: 9, clients: 10}, {name: noise, send: noise}]
attacks:
  - {driver: adaptive-scores, budget: 400, tries: 2, accounts: 2, during: honest}
thresholds:
  honest_refusals: "<= 50 %"
  failures: "<= 5 %"
report: {formats: [json, html]}
"""


@pytest.fixture
def launch(tmp_path):
    """Launches a run of a scenario in a folder of its own."""

    def launch(text, *arguments):
        (tmp_path / "s.yaml").write_text(text)
        return subprocess.Popen(
            [*BARTIZAN, "loadtest", "run", "s.yaml", *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )

    return launch


def test_load_and_attack_with_and_without_the_firewall(launch, tmp_path):
    with launch(SCENARIO, "--json") as process:
        out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    results = json.loads(out)
    assert results == json.loads((tmp_path / "report" / "results.json").read_bytes())
    assert results["complete"] and all(check["passed"] for check in results["checks"])
    assert "<html" in (tmp_path / "report" / "report.html").read_text()
    loads = {(one["part"], one["side"], one["beside"]): one for one in results["loads"]}
    parts = [(name, side, "") for name in ("honest", "noise") for side in ("direct", "firewall")]
    assert set(parts) <= set(loads) and ("honest", "firewall", "adaptive-scores") in loads
    # The model answers anything; the firewall answers honest clients, and not noise.
    for part in ("honest", "noise"):
        alone = loads[part, "direct", ""]
        assert alone["sent"] == alone["said"]["answered"] > 0 == sum(alone["errors"].values())
    honest, noise = loads["honest", "firewall", ""], loads["noise", "firewall", ""]
    assert honest["said"]["answered"] >= 0.9 * honest["sent"] > 0 == sum(honest["errors"].values())
    assert noise["said"].get("refused", 0) >= 0.9 * noise["sent"] > 0
    assert sum(noise["rules"].values()) == noise["said"]["refused"]
    direct, firewall = results["attacks"]
    assert (direct["side"], firewall["side"]) == ("direct", "firewall")
    assert direct["success"] == {"count": 2, "total": 2} and direct["recognised"] is None
    assert firewall["recognised"] == {"count": 2, "total": 2}
    assert not direct["fault"] and not firewall["fault"]
    assert results["target"]["bundle"] and results["target"]["mode"] == "enforce"


def test_an_interrupted_run_leaves_a_report_and_no_process(launch, tmp_path):
    long = SCENARIO.replace("seconds: 1.5", "seconds: 600")
    with launch(long) as process:
        for line in process.stderr:
            if "s  p50" in line:  # a load is under way
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, err
    results = json.loads((tmp_path / "report" / "results.json").read_bytes())
    assert results["complete"] is False
    assert any("interrupted" in note for note in results["notes"])
    assert [check["passed"] for check in results["checks"][:2]] == [False, False]
    assert [line for line in command_lines() if str(tmp_path) in line] == []


def command_lines():
    """Of all processes."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it may end while we read
            yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
