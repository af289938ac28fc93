"""``bartizan audit verify``: its words, its JSON, its exit codes."""

import json

import pytest
from click.testing import CliRunner

from proxy.cli.audit import audit
from proxy.settings.models import Settings
from proxy.telemetry.audit_chain import Link, chain_path, digest, head_path
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


def write_chain(path, records, workers=None):
    """Writes a chain of so many records, the first of which says how many workers there are."""
    file = AuditFile(path, keep=3)
    link, data = file.link, b""
    for number in range(records):
        told = b',"type":"started","workers":%d' % workers if workers and not number else b""
        line = b'{"seq":%d,"prev":"%b"%b}' % (link.seq + 1, link.hash.encode(), told)
        link, data = Link(link.seq + 1, digest(line)), data + line + b"\n"
    file.write(data, link)
    file.close()


@pytest.fixture
def chains(tmp_path):
    """The chains of three workers, of 1, 2 and 3 records."""
    path = tmp_path / "audit.jsonl"
    for worker in (1, 2, 3):
        write_chain(chain_path(path, worker), worker, workers=3)
    return path


def names(report, ok):
    return [entry["name"] for entry in report["chains"] if entry["ok"] is ok]


def test_the_chains_of_all_workers_are_verified_together(chains):
    result = verify(chains)
    assert result.exit_code == 0
    assert "audit.worker-2.jsonl: 2 records in 1 files, 1 to 2" in result.output
    assert result.output.endswith("intact in 3 chains\n")
    path = chain_path(chains, 2)
    path.write_bytes(path.read_bytes().replace(b'"seq":1', b'"seq": 1'))
    result = verify(chains)
    assert result.exit_code == 1
    assert "audit.worker-2.jsonl:1: edited" in result.output
    assert result.output.endswith("NOT INTACT: 1 findings in 3 chains\n")
    report = json.loads(verify(chains, "--json").output)
    assert names(report, False) == ["audit.worker-2.jsonl"]


def test_the_log_of_a_single_worker_beside_them_counts_too(chains):
    write_chain(chains, 4)
    report = json.loads(verify(chains, "--json").output)
    assert [entry["records"] for entry in report["chains"]] == [4, 1, 2, 3]
    chains.write_bytes(b"")
    assert names(json.loads(verify(chains, "--json").output), False) == ["audit.jsonl"]


@pytest.mark.parametrize("worker", [1, 2, 3])
def test_a_chain_that_was_deleted_is_missed(chains, worker):
    for path in chains.parent.glob(f"audit.worker-{worker}.*"):
        path.unlink()
    report = json.loads(verify(chains, "--json").output)
    assert names(report, False) == [f"audit.worker-{worker}.jsonl"]


def test_a_worker_that_was_configured_away_is_not_missed(chains):
    for worker in (1, 2):
        write_chain(chain_path(chains, worker), 1, workers=2)
    for path in chains.parent.glob("audit.worker-3.*"):
        path.unlink()
    assert verify(chains).exit_code == 0


def test_what_is_no_chain_of_this_log_does_not_count(chains):
    for name in (
        "other.worker-1.jsonl",
        "audit.worker-0.jsonl",
        "audit.worker-1.jsonl.bak",
        "audit.worker-x.jsonl",
        "audit.worker-12345.jsonl",
        "audit.jsonl2",
    ):
        (chains.parent / name).write_text("not a log\n")
    report = json.loads(verify(chains, "--json").output)
    assert len(report["chains"]) == 3
    assert report["ok"]


def test_a_worker_that_lies_about_their_number_costs_nothing(chains):
    write_chain(chain_path(chains, 1), 1, workers=10**15)
    report = json.loads(verify(chains, "--json").output)
    assert not report["ok"]
    assert len(report["chains"]) == 9999


def test_a_record_is_demanded_of_its_chain(chains):
    lasts = [
        line.removeprefix("last record: ")
        for line in verify(chains).output.splitlines()
        if line.startswith("last record: ")
    ]
    assert len(lasts) == 3
    options = [word for last in lasts for word in ("--expect-head", last)]
    assert verify(chains, *options).exit_code == 0
    path = chain_path(chains, 3)
    for file in (path, head_path(path)):
        file.unlink()
    write_chain(path, 3)
    assert verify(chains).exit_code == 0, "rewritten as a whole"
    result = verify(chains, *options)
    assert result.exit_code == 1
    assert "audit.worker-3.jsonl" in result.output
    alone = lasts[2].partition(":")[2]
    assert verify(path, "--expect-head", alone).exit_code == 1


def test_a_demanded_record_needs_its_chain(chains):
    hash_ = "a" * 64
    for given, words in (
        ([f"1:{hash_}"], "FILE:SEQ:SHA256"),
        ([f"other.jsonl:1:{hash_}"], "is no chain of"),
        ([f"audit.worker-1.jsonl:1:{hash_}"] * 2, "given twice"),
        ([f"../audit.worker-1.jsonl:1:{hash_}"], "SEQ:SHA256"),
    ):
        options = [word for one in given for word in ("--expect-head", one)]
        result = verify(chains, *options)
        assert result.exit_code == 2
        assert words in result.output
