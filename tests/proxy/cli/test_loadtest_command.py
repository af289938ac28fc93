"""``bartizan loadtest``: what it prints, what it writes, and its exit status."""

import json
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner

from loadtest.evidence.results import AttackResult, Check, LoadResult, Results, Share
from loadtest.evidence.store import write
from loadtest.scenario import conduct as conducting
from loadtest.scenario.ground import GroundError, UnreachableError
from loadtest.scenario.ledger import LedgerError
from loadtest.scenario.opening import ScenarioError
from proxy.cli import loadtest as module
from proxy.cli import main

RESULTS = Results(
    scenario="t", digest="0" * 64, started="2026-01-01T00:00:00+00:00", seconds=3.0, seed=1,
    command="bartizan loadtest run t.yaml", machine={"processor": "x, 2 cores"},
    versions={"python": "3"}, target={"protocol": "v2", "endpoint": "m"},
    loads=tuple(
        LoadResult(
            name="a", part="honest", kind="honest", side=side, arrivals="constant", round=0,
            seconds=1.0, offered=10, sent=10, late=0, dropped=0, statuses={"200": 10},
            said={"answered": 10}, errors={}, good=10,
        )
        for side in ("direct", "firewall")
    ),
    attacks=(
        AttackResult(
            driver="square", family="evasion", side="firewall", atlas=("AML.T0043.001",),
            goal="a goal", success=Share(0, 2), queries=20, distinct=20, seed=1,
            recognised=Share(2, 2), to_recognition=(4, 5), said={"refused": 20},
        ),
    ),
    checks=(Check("honest_refusals", "<= 0.1", 0.0, True, "all"),),
)  # fmt: skip
SCENARIO = "name: t\nserve: demo\nload:\n  - {name: a, rate: 10, seconds: 1}\n"


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Calls the command in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.yaml").write_text(SCENARIO)

    def call(*arguments):
        return CliRunner().invoke(main, ["loadtest", *arguments])

    return call


@pytest.fixture
def conducted(monkeypatch):
    """Has ``run`` find these results, or raise: ``conducted(status=0)``. Returns what it got."""
    seen = {}

    def instead(*, status=0, raises=None, results=RESULTS):
        def conduct(scenario, folder, **options):
            seen.update(options, scenario=scenario, folder=folder)
            if raises is not None:
                raise raises
            return results, status

        monkeypatch.setattr(conducting, "conduct", conduct)
        return seen

    return instead


def test_it_writes_a_report_and_shows_it(call, conducted, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/some/where/bartizan", "loadtest", "run", "t.yaml"])
    seen = conducted()
    done = call("run", "t.yaml")
    assert done.exit_code == 0, done.output
    assert str(seen["folder"]) == "report" and seen["resume"] is False
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "results.json",
        "report.html",
    }
    assert "square" in done.stdout and "written: report/report.html" in done.stderr
    assert seen["command"] == "bartizan loadtest run t.yaml"


@pytest.mark.parametrize(
    "words",
    [
        ["--set", "target.clients.secret=HUNTER2"],
        ["--set=target.clients.secret=HUNTER2"],
        ["--set", 'target.clients={"by": "api_key", "secret": "HUNTER2"}'],
        ["--set", 'target={"clients": {"secret": "HUNTER2"}}'],
    ],
)
def test_a_report_shows_no_secret_of_the_command_line(call, conducted, monkeypatch, words):
    seen = conducted()
    monkeypatch.setattr("sys.argv", ["/usr/bin/bartizan", "loadtest", "run", "t.yaml", *words,
                                     "--set", "load.steady.rate=50"])  # fmt: skip
    assert call("run", "t.yaml").exit_code == 0
    assert "HUNTER2" not in seen["command"]
    assert "=***" in seen["command"]
    assert seen["command"].endswith("--set load.steady.rate=50")


def test_folder_formats_and_overrides_are_the_command_line_s(call, conducted, tmp_path):
    seen = conducted()
    formats = [part for kind in ("junit", "sarif", "markdown") for part in ("--format", kind)]
    done = call("run", "t.yaml", "--out", "there", "--resume", "--set", "load.a.rate=20", *formats)
    assert done.exit_code == 0, done.output
    assert seen["resume"] is True and seen["scenario"].load[0].rate == 20
    assert {path.name for path in (tmp_path / "there").iterdir()} == {
        *("results.json", "junit.xml", "results.sarif", "report.md"),
    }
    sarif = json.loads((tmp_path / "there" / "results.sarif").read_bytes())
    assert sarif["version"] == "2.1.0"


def test_json_is_all_of_standard_output(call, conducted):
    conducted(status=1)
    done = call("run", "t.yaml", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["scenario"] == "t"


@pytest.mark.parametrize("status", [0, 1, 130, 143])
def test_its_status_is_the_run_s_and_the_report_is_written_all_the_same(
    call, conducted, tmp_path, status
):
    conducted(status=status, results=replace(RESULTS, complete=status == 0))
    assert call("run", "t.yaml").exit_code == status
    written = json.loads((tmp_path / "report" / "results.json").read_bytes())
    assert written["complete"] is (status == 0)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ScenarioError("attacks[0] (square): the knob is loose"), 3),
        (LedgerError("there is no broken run"), 3),
        (UnreachableError("direct: nobody"), 4),
        (GroundError("the model server ended"), 1),
        (OSError("no space"), 1),
    ],
)
def test_what_goes_wrong_before_the_run_is_said(call, conducted, tmp_path, error, status):
    conducted(raises=error)
    done = call("run", "t.yaml")
    assert done.exit_code == status
    assert str(error) in done.stderr
    assert not (tmp_path / "report" / "results.json").exists()


def test_a_report_that_cannot_be_written_is_a_failure(call, conducted, tmp_path):
    conducted()
    (tmp_path / "report").write_text("a file")
    done = call("run", "t.yaml")
    assert done.exit_code == 1
    assert "report" in done.stderr


def test_a_faulty_scenario_is_told_with_its_place(call, tmp_path):
    (tmp_path / "t.yaml").write_text(SCENARIO + "sede: 1\n")
    for command in ("run", "validate"):
        done = call(command, "t.yaml")
        assert done.exit_code == 3
        assert "t.yaml:5:1: error: unknown key sede; did you mean 'seed'?" in done.stderr
        assert "1 error" in done.stderr
    done = call("validate", "t.yaml", "--json")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["problems"][0]["line"] == 5
    assert call("validate", "none.yaml").exit_code == 3
    assert call("validate", "t.yaml", "--set", "nothing").exit_code == 2


def test_validate_lists_the_steps(call):
    done = call("validate", "t.yaml")
    assert done.exit_code == 0
    assert "load a, direct" in done.stdout and "2 steps" in done.stdout
    assert json.loads(call("validate", "t.yaml", "--json").stdout)["steps"] == [
        "load a, direct",
        "load a, firewall",
    ]


def test_shipped_scenarios_go_by_their_name_unless_a_file_is_there(call, tmp_path):
    assert "56 steps" in call("validate", "demo").stdout
    (tmp_path / "demo").write_text(SCENARIO)
    assert "2 steps" in call("validate", "demo").stdout
    assert call("validate", "../demo").exit_code == 3


def test_without_the_extra_it_says_so(call, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    done = call("metrics")
    assert done.exit_code == 1
    assert "'.[loadtest]'" in done.stderr


def test_metrics_and_schema(call):
    assert "honest_refusals  (share, lower is better" in call("metrics").stdout
    assert json.loads(call("metrics", "--json").stdout)["ceiling_ratio"]["unit"] == "ratio"
    assert json.loads(call("schema").stdout)["title"] == "Bartizan load test scenario"


def test_a_report_is_made_of_results_again(call, tmp_path):
    write(RESULTS, tmp_path / "r.json")
    told = call("report", "r.json").stdout
    assert "square" in told
    assert "threshold" in told.splitlines()[0].lower()
    assert 80 < max(map(len, told.splitlines())) <= 120
    for kind, words in (
        ("html", "<html"),
        ("junit", "<testsuite"),
        ("sarif", '"2.1.0"'),
        ("markdown", "square"),
    ):
        assert words in call("report", "r.json", "--format", kind).stdout
        done = call("report", "r.json", "--format", kind, "--out", f"out.{kind}")
        assert done.exit_code == 0 and words in (tmp_path / f"out.{kind}").read_text()
    assert call("report", "r.json", "--out", "no/such").exit_code == 1
    assert call("report", "r.json", "--format", "html", "--out", "no/such").exit_code == 1
    (tmp_path / "bad.json").write_text("{")
    for name in ("bad.json", "none.json"):
        assert call("report", name).exit_code == 2


def test_two_runs_are_compared(call, tmp_path):
    worse = {"refused": 5, "answered": 5}
    loads = (RESULTS.loads[0], replace(RESULTS.loads[1], said=worse, good=5))
    write(RESULTS, tmp_path / "a.json")
    write(replace(RESULTS, loads=loads), tmp_path / "b.json")
    assert call("compare", "a.json", "a.json").exit_code == 0
    done = call("compare", "a.json", "b.json")
    assert done.exit_code == 1 and "1 worse, 0 better" in done.stdout
    assert json.loads(call("compare", "a.json", "b.json", "--format", "json").stdout)
    call("compare", "a.json", "b.json", "--format", "markdown", "--out", "c.md")
    assert "1 worse, 0 better" in (tmp_path / "c.md").read_text()
    assert call("compare", "a.json", "none.json").exit_code == 2
