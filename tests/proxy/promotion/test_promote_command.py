"""``bartizan promote``: its words, its JSON, its exit codes."""

import json
import os
import shutil
from datetime import timedelta

import pytest
from click.testing import CliRunner
from promotion_logs import CLIENTS, NOW, PLAIN, Log, configuration, log_of

from proxy.cli.admin import Failed, Unreachable
from proxy.cli.promote import promote, served
from proxy.decision import Mode
from proxy.settings.load import load


def run(path, *options, name="digits"):
    arguments = [name, "--configuration", str(path), *map(str, options)]
    return CliRunner().invoke(promote, arguments, obj=NOW.timestamp)


@pytest.fixture
def path(tmp_path):
    return configuration(tmp_path)


def test_it_only_reports(path):
    log_of(path)
    result = run(path)
    assert result.exit_code == 0, result.output
    assert "may be moved to enforce: --apply does it" in result.output
    assert "MISSING" not in result.output
    assert "ok      log intact" in result.output
    assert path.read_text() == PLAIN


def test_it_applies(path):
    log_of(path)
    result = run(path, "--apply")
    assert result.exit_code == 0, result.output
    assert path.read_text() == PLAIN.replace("monitor", "enforce")
    assert f"{path}:10: mode: enforce" in result.output
    assert "kill -HUP" in result.output
    again = run(path, "--apply")
    assert again.exit_code == 0
    assert "digits is in mode enforce already" in again.output


def test_without_evidence_nothing_changes(path):
    log_of(path, 100, hours=5, clients=3)
    result = run(path, "--apply")
    assert result.exit_code == 1
    assert "digits stays in monitor mode" in result.output
    for words in ("MISSING hours", "19 more hours with traffic", "MISSING clients", "7 more"):
        assert words in result.output
    assert path.read_text() == PLAIN


def test_bounds_can_be_moved(path):
    log_of(path, 100, hours=5, clients=1)
    options = ("--min-hours", 4, "--min-clients", 1, "--max-share", 1)
    assert run(path, *options).exit_code == 0


def refused(path):
    log = Log(path.with_name("audit.jsonl"), load(path))
    log.honest(500)
    for number in range(30):
        log.exchange(NOW - timedelta(seconds=number), CLIENTS[7], "BZ-601", id=f"id-{number}x")
    log.exchange(NOW, CLIENTS[8], "BZ-202")
    log.close()


def test_who_would_be_refused_and_what_to_do(path):
    refused(path)
    result = run(path)
    assert result.exit_code == 1
    assert "enforcing would have refused 31 of 531 requests" in result.output
    assert "BZ-601  30 requests by 1 client, 30 of them refused" in result.output
    assert f"{CLIENTS[7]}  30 of 55 requests refused (BZ-601 30)" in result.output
    assert "BZ-202:\n" not in result.output  # no exclusion would help
    pasted = result.output.split("below the endpoint:\n")[1].split("digits stays")[0]
    path.write_text(PLAIN + pasted)
    after = run(path, "--max-refusals", 0.02)
    assert after.exit_code == 0, after.output


def test_the_operator_may_name_the_hostile(path):
    refused(path)
    result = run(path, "--hostile", f"{CLIENTS[7]}=a test of ours", "--max-refusals", 0.02)
    assert result.exit_code == 0, result.output
    assert f"said to be hostile: {CLIENTS[7]}: a test of ours" in result.output
    assert "left out: 55 exchanges of clients that are said to be hostile" in result.output


def test_or_requests_that_are_rightly_flagged(path):
    refused(path)
    options = [part for n in range(30) for part in ("--rightly", f"id-{n}x=seen by Ada")]
    result = run(path, *options, "--rightly", "other=x", "--max-refusals", 0.02, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.output)["said by the operator"]
    assert said["rightly"]["id-3x"] == "seen by Ada"
    assert said["rightly, but not found"] == ["other"]


def test_json(path):
    refused(path)
    result = run(path, "--json")
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert found["verdict"] == "evidence missing"
    assert {one["name"] for one in found["requirements"] if not one["met"]} == {
        "contract", "limits",
    }  # fmt: skip
    assert found["would refuse"]["by kind"]["limit"] == 30
    assert found["clients"][0]["client"] == CLIENTS[7]
    assert found["chains"]["audit.jsonl"]["records"] == 533
    assert len(found["chains"]["audit.jsonl"]["last"].split(":")[1]) == 64
    applied = run(path, "--json", "--apply", "--max-refusals", 1)
    assert json.loads(applied.output)["changed"] == {"file": str(path), "line": 10}


def test_demoting_needs_no_evidence(path):
    path.write_text(PLAIN.replace("monitor", "enforce"))
    assert run(path, "--demote").exit_code == 0
    assert path.read_text() == PLAIN.replace("monitor", "enforce")
    assert run(path, "--demote", "--apply").exit_code == 0
    assert path.read_text() == PLAIN
    assert "already" in run(path, "--demote").output


@pytest.mark.parametrize(
    "options",
    [
        ("--since", "soon"),
        ("--hostile", "alice"),
        ("--rightly", "id-1"),
        ("--rightly", "id-1= "),
        ("--reload", "77"),
        ("--min-hours", "0"),
        ("--max-share", "0"),
    ],
    ids=str,
)
def test_usage(path, options):
    assert run(path, *options).exit_code == 2


def test_configurations_that_will_not_do(path, tmp_path):
    assert run(tmp_path / "none.yaml").exit_code == 3
    result = run(path, name="faces")
    assert result.exit_code == 3
    assert "there are digits" in result.output
    result = run(path, "--audit", tmp_path / "none.jsonl")
    assert result.exit_code == 3
    assert "no such audit log" in result.output
    path.write_text(PLAIN.replace("audit:\n  path: audit.jsonl\n", ""))
    assert "say --audit" in run(path).output
    path.write_text(PLAIN.replace("mode: monitor", 'mode: "${M:-monitor}"'))
    log_of(path)
    result = run(path, "--apply")
    assert result.exit_code == 3
    assert "from the environment" in result.output


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(path):
    log_of(path)
    path.parent.chmod(0o500)
    result = run(path, "--apply")
    path.parent.chmod(0o700)
    assert result.exit_code == 3
    assert "cannot write beside" in result.output


def test_only_a_gateway_is_signalled(path):
    log_of(path)
    result = run(path, "--apply", "--reload", 2**22 - 1)
    assert result.exit_code == 2
    assert "no process" in result.output
    assert path.read_text() == PLAIN


def test_the_key_of_the_log_is_asked_for(path):
    log_of(path)
    sealed = PLAIN.replace("audit:\n", 'audit:\n  key: "a key of the audit log"\n')
    path.write_text(sealed)
    result = run(path)
    assert result.exit_code == 1
    assert "MISSING log intact" in result.output


def test_a_log_of_before_a_move(path, tmp_path):
    """The log may lie anywhere, under a name of its own chains."""
    log_of(path)
    (tmp_path / "kept").mkdir()
    for file in tmp_path.glob("audit.jsonl*"):
        shutil.move(file, tmp_path / "kept" / file.name)
    assert run(path, "--audit", tmp_path / "kept" / "audit.jsonl").exit_code == 0


class Listener:
    """Answers in turn; the last for ever."""

    def __init__(self, *answers):
        self._answers = list(answers)

    def ask(self, method, path):
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return {"endpoints": [{"name": "digits", "mode": mode} for mode in answer]}


def asked(*answers):
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    return served(Listener(*answers), "digits", Mode.ENFORCE, clock=lambda: now[0], sleep=sleep)


def test_it_waits_until_the_mode_is_served():
    assert asked(["monitor"], Unreachable("not yet"), ["enforce"]) == ""
    assert "monitor" in asked(["monitor"])
    assert "monitor" in asked(["enforce", "monitor"])
    assert "nobody" in asked(Unreachable("nobody"))
    assert "token" in asked(Failed("token"))
    assert "not known" in asked([])
