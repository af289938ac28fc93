"""``bartizan audit verify``: its words, its JSON, its exit codes."""

import json

import pytest
from click.testing import CliRunner

from proxy.cli.audit import audit
from proxy.settings.models import Settings
from proxy.telemetry.audit_chain import Link, digest, head_path
from proxy.telemetry.audit_file import AuditFile


def verify(*arguments):
    return CliRunner().invoke(audit, ["verify", *map(str, arguments)])


@pytest.fixture
def log(tmp_path):
    """A log of five records, sealed with the key in ``key``."""
    path = tmp_path / "audit.jsonl"
    (tmp_path / "key").write_bytes(b"secret\n")
    file = AuditFile(path, keep=3, key=b"secret")
    link, data = Link(), b""
    for _ in range(5):
        line = b'{"seq":%d,"prev":"%b"}' % (link.seq + 1, link.hash.encode())
        link, data = Link(link.seq + 1, digest(line)), data + line + b"\n"
    file.write(data, link)
    file.close()
    return path


def test_an_intact_log(log):
    result = verify(log)
    assert result.exit_code == 0
    assert "5 records in 1 files, 1 to 5" in result.output
    assert result.output.endswith("intact\n")


def test_an_edited_log_names_the_place(log):
    log.write_bytes(log.read_bytes().replace(b'"seq":3', b'"seq": 3'))
    result = verify(log)
    assert result.exit_code == 1
    assert "audit.jsonl:3: edited: " in result.output
    assert "NOT INTACT: 1 findings" in result.output


def test_json(log):
    result = verify("--json", log)
    assert result.exit_code == 0
    whole = json.loads(result.output)
    (report,) = whole["chains"]
    assert whole["ok"] is report["ok"] is True
    assert report["name"] == "audit.jsonl"
    assert report["records"] == 5
    assert report["last"]["seq"] == 5
    log.write_bytes(log.read_bytes()[:-50])
    result = verify(log, "--json")
    assert result.exit_code == 1
    whole = json.loads(result.output)
    (report,) = whole["chains"]
    assert whole["ok"] is report["ok"] is False
    assert [finding["kind"] for finding in report["findings"]] == ["truncated"]


def test_the_printed_record_can_be_demanded_later(log):
    last = verify(log).output.split("last record: ")[1].splitlines()[0]
    head_path(log).unlink()
    assert verify(log).exit_code == 1
    assert verify(log, "--expect-head", last).exit_code == 0
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])
    assert verify(log, "--expect-head", last).exit_code == 1


def test_the_key_is_checked(log, tmp_path):
    assert verify(log, "--key-file", tmp_path / "key").exit_code == 0
    (tmp_path / "key").write_bytes(b"another")
    assert verify(log, "--key-file", tmp_path / "key").exit_code == 1
    (tmp_path / "key").write_bytes(b"\n")
    assert verify(log, "--key-file", tmp_path / "key").exit_code == 2


@pytest.mark.parametrize(
    "text",
    ["  0123456789abcdef", "0123456789abcdef\r\n", "a" * 15 + "é\n\n", "\x1f\x85" + "k" * 16],
)
def test_the_key_is_what_the_gateway_takes_from_its_configuration(tmp_path, text):
    settings = Settings.model_validate(
        {
            "audit": {"path": str(tmp_path / "audit.jsonl"), "key": text},
            "endpoints": [{"name": "a", "match": "/v2/models/a", "upstream": "http://127.0.0.1:1"}],
        }
    )
    file = AuditFile(
        settings.audit.path, keep=3, key=settings.audit.key.get_secret_value().encode()
    )
    line = b'{"seq":1,"prev":"%b"}' % Link().hash.encode()
    file.write(line + b"\n", Link(1, digest(line)))
    file.close()
    (tmp_path / "key").write_bytes(text.encode())
    assert verify(settings.audit.path, "--key-file", tmp_path / "key").exit_code == 0
    (tmp_path / "key").write_bytes(b"\xff" * 16)
    result = verify(settings.audit.path, "--key-file", tmp_path / "key")
    assert result.exit_code == 2
    assert "UTF-8" in result.output


def test_the_key_of_a_log_that_is_not_sealed_is_a_finding(tmp_path):
    file = AuditFile(tmp_path / "audit.jsonl", keep=3)
    line = b'{"seq":1,"prev":"%b"}' % Link().hash.encode()
    file.write(line + b"\n", Link(1, digest(line)))
    file.close()
    (tmp_path / "key").write_bytes(b"secret")
    result = verify(tmp_path / "audit.jsonl", "--key-file", tmp_path / "key")
    assert result.exit_code == 1
    assert "audit.jsonl.head: head: not sealed: it was begun without a key" in result.output


def test_a_torn_tail_is_told_and_is_no_finding(log):
    with log.open("ab") as file:
        file.write(b"{")
    result = verify(log)
    assert result.exit_code == 0
    assert "torn tail: 1 bytes" in result.output


def test_a_log_that_was_deleted_is_a_finding_and_none_at_all_is_usage(log, tmp_path):
    log.unlink()
    assert verify(log).exit_code == 1
    assert verify(tmp_path / "other.jsonl").exit_code == 2
    assert verify(tmp_path / "nowhere" / "audit.jsonl").exit_code == 2
    assert verify(tmp_path).exit_code == 2


@pytest.mark.parametrize("value", ["", "x", "5", "0:" + "a" * 64, "5:" + "A" * 64, "5:abc"])
def test_a_record_that_cannot_be_read_is_usage(log, value):
    result = verify(log, "--expect-head", value)
    assert result.exit_code == 2
    assert "SEQ:SHA256" in result.output
