"""``bartizan attack``, from its options to its exit status."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from spoken_stub import FEATURES, Stub, model, serving

from proxy.cli import main
from proxy.settings.api_keys import read_api_keys


@pytest.fixture(scope="module")
def stub():
    with serving(Stub()) as one:
        yield one


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    rows = np.random.default_rng(1).uniform(-1, 1, (120, FEATURES)).astype(np.float32)
    np.save(folder / "rows.npy", rows)
    np.save(folder / "labels.npy", model(rows).argmax(axis=1))
    return ["--data", str(folder / "rows.npy"), "--labels", str(folder / "labels.npy")]


def run(*words):
    return CliRunner().invoke(main, ["attack", *map(str, words)])


def url(stub):
    return f"{stub.url}/v2/models/m"


def quick(stub, data, *words):
    return run(
        "extraction-random", "--direct-url", url(stub), *data, "--budget", 60, "--tries", 1, *words
    )


def test_drivers_are_listed():
    result = run("--list")
    assert result.exit_code == 0
    assert "hopskipjump" in result.output
    assert "AML.T0043.001" in result.output
    listed = json.loads(run("--list", "--json").output)
    assert len(listed) == 22
    assert {"name", "family", "goal", "words", "atlas", "needs"} == set(listed[0])


def test_an_attack_is_carried_out_and_told(stub, data):
    result = quick(stub, data)
    assert result.exit_code == 0, result.output
    assert "fidelity" in result.stdout
    assert "answered" in result.stdout
    (told,) = json.loads(quick(stub, data, "--json").stdout)
    assert (told["side"], told["queries"], told["said"]) == ("direct", 60, {"answered": 60})


def test_both_sides_are_attacked_and_tell_clients_apart(stub, data):
    before = len(stub.asked)
    words = ("--url", url(stub), "--client", "header", "--accounts", 2, "--json")
    told = json.loads(quick(stub, data, *words).stdout)
    assert [one["side"] for one in told] == ["direct", "firewall"]
    keys = {headers.get("x-forwarded-for") for _, headers, _, _ in stub.asked[before:]}
    assert None not in keys
    path = data[1].replace("rows.npy", "keys")
    Path(path).write_text("ada:a-key\n")
    before = len(stub.asked)
    assert quick(stub, data, "--client", "api_key", "--keys", path, "--tries", 3).exit_code == 0
    assert {headers["x-api-key"] for _, headers, _, _ in stub.asked[before:]} == {"a-key"}
    assert len(json.loads(quick(stub, data, *words, "--side", "firewall").stdout)) == 1


def test_success_beyond_what_is_borne_fails(stub, data):
    pytest.importorskip("art", reason="the adversarial-robustness-toolbox is not installed")
    words = ("simba", "--direct-url", url(stub), *data, "--tries", 2)
    assert run(*words).exit_code == 0
    result = run(*words, "--fail-above", 0.5)
    assert result.exit_code == 1
    assert "2 of 2 tries succeeded" in result.stderr
    assert run(*words, "--fail-above", 1).exit_code == 0


def test_a_journal_is_gone_on_with(stub, data, tmp_path):
    journal = tmp_path / "journal"
    assert quick(stub, data, "--journal", journal).exit_code == 0
    again = quick(stub, data, "--journal", journal)
    assert again.exit_code == 3
    assert "resume it" in again.stderr
    (told,) = json.loads(quick(stub, data, "--journal", journal, "--resume", "--json").stdout)
    assert told["resumed"] == told["queries"] == 60
    assert quick(stub, data, "--resume").exit_code == 2


def test_a_fault_fails(stub, data):
    result = quick(stub, data, "--knob", "nonsense=1")
    assert result.exit_code == 1
    assert "nonsense" in result.stdout


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        ((), 2, "name a DRIVER"),
        (("squere",), 2, "did you mean square?"),
        (("square",), 2, "name what is attacked"),
        (("square", "--url", "http://127.0.0.1:1/v2/models/m"), 2, "--data"),
        (("square", "--url", "http://127.0.0.1:1"), 2, "say the model's path"),
        (("square", "--url", "127.0.0.1:1"), 2, "must be http"),
        (("square", "--image", "8"), 2, "HEIGHTxWIDTH"),
        (("square", "--knob", "x"), 2, "NAME=VALUE"),
        (("square", "--url", "http://127.0.0.1:1/v2/models/m", "--protocol", "v9"), 2, "protocol"),
    ],
)
def test_usage(words, status, told):
    result = run(*words)
    assert result.exit_code == status
    assert told in result.stderr


def test_what_cannot_be_reached_or_may_not_be(free_port, data):
    there = f"http://127.0.0.1:{free_port()}/v2/models/m"
    result = run("square", "--url", there, *data)
    assert (result.exit_code, "unreachable" in result.stderr) == (4, True)
    result = run("square", "--url", "http://model.example.com/v2/models/m", *data)
    assert result.exit_code == 3
    assert "--authorised-host model.example.com" in result.stderr


def test_means_that_do_not_do_are_told(stub, data):
    result = run("membership", "--direct-url", url(stub), *data)
    assert (result.exit_code, "needs members" in result.stderr) == (3, True)
    other = np.zeros((20, 5), np.float32) + np.arange(20)[:, None]
    path = data[1].replace("rows.npy", "other.npy")
    np.save(path, other)
    result = run("square", "--direct-url", url(stub), "--data", path)
    assert (result.exit_code, "takes 6 features" in result.stderr) == (3, True)


def test_a_target_file_says_all(stub, data, tmp_path):
    path = tmp_path / "target.yaml"
    path.write_text(f"direct: {url(stub)}\nclients: {{by: header, count: 2}}\n")
    words = ("--target", path, *data, "--budget", 20, "--tries", 1)
    assert run("extraction-random", *words).exit_code == 0
    path.write_text("direct: 5\nnonsense: 1\n")
    result = run("extraction-random", *words)
    assert result.exit_code == 3
    assert "target.yaml:1:9" in result.stderr
    assert run("extraction-random", *words, "--url", url(stub)).exit_code == 2


def test_the_firewalls_list_of_keys_is_written(tmp_path):
    path, beside = tmp_path / "list", tmp_path / "list.keys"
    assert run("--write-keys", path, "--tries", 3, "--accounts", 2).exit_code == 0
    known = read_api_keys(path)
    keys = [line.partition(":")[2] for line in beside.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 6
    assert set(known) == {hashlib.sha256(key.encode()).digest() for key in keys}
    assert beside.stat().st_mode & 0o777 == 0o600
    # What a firewall may list already is not made anew; another list of it may be written.
    assert run("--write-keys", path, "--tries", 3).exit_code == 3
    assert beside.read_text().count("\n") == 6
    assert run("--write-keys", tmp_path / "again", "--keys", beside).exit_code == 0
    assert (tmp_path / "again").read_text() == path.read_text()
    assert run("--write-keys", tmp_path / "other").exit_code == 0
    assert not set(read_api_keys(tmp_path / "other")) & set(known)


def test_without_keys_nobody_asks_with_keys(stub, data):
    result = quick(stub, data, "--client", "api_key")
    assert result.exit_code == 2
    assert "--write-keys" in result.stderr
