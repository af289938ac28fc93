"""``bartizan validate`` and ``bartizan config``."""

import json

import click
import pytest
from click.testing import CliRunner

from proxy.cli.config import config, validate
from proxy.settings.reference import reference
from proxy.settings.schema import schema

GOOD = """\
endpoints:
  - name: digits
    match: /v2/models/digits
    upstream: http://127.0.0.1:8081
"""


@pytest.fixture
def run(tmp_path):
    """Runs ``validate`` on a text: ``run(text, *options, load_bundle=None)``."""

    def run(text, *options, load_bundle=None):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return CliRunner().invoke(validate, [str(path), *options], obj=load_bundle)

    return run


def test_a_sound_configuration(run):
    result = run(GOOD)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.endswith("c.yaml: ok (digits)\n")


def test_a_sound_configuration_as_json(run):
    result = run(GOOD, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert report["ok"] is True
    assert report["endpoints"] == ["digits"]
    assert len(report["digest"]) == 64


def test_a_faulty_configuration(run):
    result = run(GOOD + "    mode: wrong\n    nme: x\n")
    assert result.exit_code == 3
    assert result.stdout == ""
    assert "c.yaml:5:11: error: endpoints[0].mode" in result.stderr
    assert "c.yaml:6:5: error: unknown key endpoints[0].nme; did you mean 'name'?" in result.stderr
    assert result.stderr.endswith("2 errors\n")


def test_a_faulty_configuration_as_json(run, tmp_path):
    result = run(GOOD + "    mode: wrong\n", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout) == {
        "ok": False,
        "problems": [
            {
                "file": str(tmp_path / "c.yaml"),
                "line": 5,
                "column": 11,
                "message": "endpoints[0].mode: must be 'enforce' or 'monitor'",
            }
        ],
    }


def test_a_file_that_is_not_there(tmp_path):
    result = CliRunner().invoke(validate, [str(tmp_path / "none.yaml")])
    assert result.exit_code == 3
    assert "none.yaml: error: no such file" in result.stderr


def test_a_bundle_that_is_missing_or_cannot_be_loaded(run, tmp_path):
    text = GOOD + "    bundle: d.bundle\n"
    loaded = []

    def load_bundle(settings, endpoint):
        loaded.append(endpoint.bundle)
        raise ValueError("its digest does not match")

    missing = run(text, load_bundle=load_bundle)
    assert missing.exit_code == 3
    assert "5:13: error: endpoints[0].bundle: no such file" in missing.stderr
    assert loaded == []
    (tmp_path / "d.bundle").touch()
    broken = run(text, load_bundle=load_bundle)
    assert broken.exit_code == 3
    assert "5:13: error: endpoints[0].bundle: its digest does not match" in broken.stderr
    assert loaded == [tmp_path / "d.bundle"]
    assert run(text, load_bundle=lambda settings, endpoint: None).exit_code == 0


def test_bundles_are_loaded_as_the_gateway_loads_them(run, tmp_path):
    (tmp_path / "d.bundle").write_bytes(b"not a bundle")
    result = run(GOOD + "    bundle: d.bundle\n")
    assert result.exit_code == 3
    assert "5:13: error: endpoints[0].bundle: " in result.stderr


def test_certificates_that_are_none(run, tmp_path):
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).write_text("not PEM")
    result = run("tls: {certificate: c.pem, key: k.pem}\n" + GOOD)
    assert result.exit_code == 3
    assert "1:6: error: tls: certificate and key cannot be used" in result.stderr
    result = run(
        GOOD.replace("http://127.0.0.1:8081", "https://model") + "    upstream_tls: {ca: c.pem}\n"
    )
    assert result.exit_code == 3
    assert "5:19: error: endpoints[0].upstream_tls: " in result.stderr
    result = run(
        "grpc: {listen: 127.0.0.1:8001, tls: {certificate: c.pem, key: k.pem}}\n"
        + GOOD
        + "    grpc: {upstream: grpcs://h:1, upstream_tls: {ca: c.pem}}\n"
    )
    assert result.exit_code == 3
    assert "1:37: error: grpc.tls: certificate and key cannot be used" in result.stderr
    assert "6:49: error: endpoints[0].grpc.upstream_tls: " in result.stderr


def test_what_is_not_installed_is_named(run, monkeypatch):
    monkeypatch.setattr("proxy.cli.config.find_spec", lambda name: None)
    assert run(GOOD).exit_code == 0
    asked = "grpc: {listen: 127.0.0.1:8001}\n" + GOOD + "    grpc: {upstream: grpc://h:1}\n"
    result = run(asked)
    assert result.exit_code == 3
    assert "'.[grpc]'" in result.stderr


def test_wrong_usage():
    assert CliRunner().invoke(validate, []).exit_code == 2
    assert CliRunner().invoke(config, ["nonsense"]).exit_code == 2


def test_schema_and_reference_are_printed():
    assert CliRunner().invoke(config, ["schema"]).stdout == schema()
    assert CliRunner().invoke(config, ["reference"]).stdout == reference()


def test_they_are_commands_to_be_added():
    assert isinstance(validate, click.Command)
    assert set(config.commands) == {"schema", "reference"}
