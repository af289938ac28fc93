"""``bartizan doctor``: exit status, output, and that it changes and gives away nothing."""

import json

import pytest
import yaml
from click.testing import CliRunner

from proxy.cli import main
from proxy.cli.doctor import status
from proxy.doctor import limits
from proxy.doctor.finding import ok, untried, warning, wrong

TOKEN = "an-admin-token-of-some-length"


@pytest.fixture
def configuration(tmp_path, free_port):
    """``configuration(**sections)``: the path of one whose model server is not there."""

    def write(**sections):
        whole = {
            "listen": f"127.0.0.1:{free_port()}",
            "admin": {"listen": f"127.0.0.1:{free_port()}", "token": TOKEN},
            "audit": {"path": "audit.jsonl"},
            "endpoints": [
                {
                    "name": "m",
                    "match": "/v2/models/m",
                    "upstream": f"http://127.0.0.1:{free_port()}",
                }
            ],
            **sections,
        }
        path = tmp_path / "bartizan.yaml"
        path.write_text(yaml.safe_dump(whole))
        return path

    return write


def doctor(*arguments):
    return CliRunner().invoke(main, ["doctor", *map(str, arguments)])


def test_statuses():
    gone = wrong("upstream.reached", "gone", "start it", unreachable=True)
    other = wrong("redis.eviction", "evicts", "do not")
    assert status([ok("a", ""), warning("b", "", ""), untried("c", "")]) == 0
    assert status([gone, ok("a", "")]) == 4
    assert status([gone, other]) == status([other]) == 1


def test_it_says_what_is_wrong_and_changes_nothing(configuration, tmp_path):
    path = configuration()
    done = doctor(path)
    assert done.exit_code == 4, done.output
    *lines, closing = done.output.splitlines()
    levels = {line.split(": ")[0] for line in lines}
    assert levels <= {"ok", "warning", "wrong", "could-not-be-tried"}
    assert [line for line in lines if line.startswith("wrong: upstream.reached: m http://127.0.")]
    subjects = {line.split(": ")[1].split(".")[0] for line in lines}
    assert subjects == {"exposure", "upstream", "bundle", "redis", "clock", "limits", "audit",
                        "listeners"}  # fmt: skip
    assert closing.endswith("could-not-be-tried")
    assert TOKEN not in done.output
    assert list(tmp_path.iterdir()) == [path]


def test_as_json(configuration):
    done = doctor(configuration(), "--json")
    report = json.loads(done.output)
    assert (done.exit_code, report["ok"]) == (4, False)
    assert {tuple(finding) for finding in report["findings"]} == {
        ("check", "level", "words", "advice")
    }


def test_all_faults_of_a_configuration_at_once(tmp_path):
    path = tmp_path / "bartizan.yaml"
    path.write_text("listen: here\nadmin: {listen: there}\nendpoints: []\n")
    done = doctor(path)
    assert (done.exit_code, done.stderr.count("error:")) == (3, 3)
    done = doctor(path, "--json")
    assert (done.exit_code, len(json.loads(done.output)["findings"])) == (3, 3)


def test_files_that_are_missing_are_faults_of_the_configuration(configuration):
    done = doctor(configuration(audit={"path": "gone/audit.jsonl"}))
    assert (done.exit_code, "no such directory" in done.stderr) == (3, True)


def test_from_outside_files_need_not_be_there(configuration):
    path = configuration(audit={"path": "gone/audit.jsonl"})
    done = doctor(path, "--outside", "127.0.0.1")
    assert done.exit_code == 0
    assert all(": exposure.outside: " in line for line in done.output.splitlines()[:-1])


def test_a_control_is_tried_from_outside_alone(configuration):
    path = configuration()
    assert doctor(path, "--control", "8080").exit_code == 2
    done = doctor(path, "--outside", "127.0.0.1", "--control", "1")
    assert (done.exit_code, "neither does port 1 there" in done.output) == (0, True)


def test_a_check_that_fails_hides_no_other(configuration, monkeypatch):
    def broken(*_):
        raise RuntimeError("a defect")

    monkeypatch.setattr(limits, "memory", broken)
    lines = doctor(configuration()).output.splitlines()
    assert "could-not-be-tried: limits: limits: RuntimeError: a defect" in lines
    assert [line for line in lines if line.startswith("ok: listeners.address")]


def test_a_damaged_bundle_is_wrong(configuration, tmp_path, free_port):
    (tmp_path / "m.bundle").write_bytes(b"PK not a bundle")
    endpoint = {"name": "m", "match": "/v2/models/m", "bundle": "m.bundle"}
    path = configuration(endpoints=[{**endpoint, "upstream": f"http://127.0.0.1:{free_port()}"}])
    done = doctor(path)
    assert (done.exit_code, "wrong: bundle.loaded: " in done.output) == (1, True)
