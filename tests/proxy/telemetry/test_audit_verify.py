"""Verification: any edit, drop, reorder, insertion or truncation is found, wherever it is."""

import hmac
import random
import shutil
import tracemalloc
from hashlib import sha256

import orjson
import pytest
from audit_logs import fill, lines
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.telemetry.audit_chain import (
    GENESIS,
    MAX_LINE,
    SLOT,
    Head,
    Link,
    digest,
    head_path,
    rotated,
    seal_fault,
)
from proxy.telemetry.audit_verify import verify

COUNT = 12


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A log in one file, closed."""
    path = tmp_path_factory.mktemp("whole") / "audit.jsonl"
    fill(path, COUNT)
    return path


@pytest.fixture(scope="module")
def rotated_log(tmp_path_factory):
    """A log in several files, closed."""
    path = tmp_path_factory.mktemp("rotated") / "audit.jsonl"
    fill(path, 30, rotate_bytes=2000, keep=100)
    assert len(rotated(path)) > 3
    return path


@pytest.fixture
def copy(tmp_path):
    """A copy of a log that may be broken."""

    def make(path):
        directory = tmp_path / "copy"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(path.parent, directory)
        return directory / path.name

    return make


def kinds(report):
    return {finding.kind for finding in report.findings}


def rewrite(path, change):
    """Rewrites a file's lines as ``change`` has it."""
    content = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(change(content)))


def test_a_log_as_it_was_written_is_intact(whole):
    report = verify(whole)
    assert report.ok
    assert report.findings == []
    assert report.records == COUNT + 3  # opened, started, closed
    assert report.first == 1
    assert report.last == Link(COUNT + 3, digest(lines(whole)[-1]))
    assert report.torn_bytes == report.beyond_head == report.dropped == 0
    assert not report.sealed


def test_the_chain_is_what_the_docstring_says(rotated_log):
    previous = GENESIS
    for number, line in enumerate(lines(rotated_log), 1):
        record = orjson.loads(line)
        assert [*record][:2] == ["seq", "prev"]
        assert (record["seq"], record["prev"]) == (number, previous)
        previous = digest(line)
    assert verify(rotated_log).ok


def test_every_rotated_file_names_the_one_before(rotated_log):
    names = [""]
    for first, file in rotated(rotated_log).items():
        opened = orjson.loads(file.read_bytes().splitlines()[0])
        assert opened["type"] == "opened"
        assert opened["seq"] == first
        assert opened["previous"] == {
            "file": names[-1],
            "seq": first - 1,
            "sha256": opened["prev"],
        }
        names.append(file.name)


@pytest.mark.parametrize("position", range(COUNT + 3))
def test_an_edit_is_found_at_every_line(whole, copy, position):
    path = copy(whole)
    line = path.read_bytes().splitlines()[position]
    rewrite(path, lambda all: [*all[:position], line[:-1] + b" }\n", *all[position + 1 :]])
    report = verify(path)
    assert kinds(report) == {"edited"}
    assert [finding.line for finding in report.findings] == [position + 1]


@pytest.mark.parametrize("position", range(COUNT + 3))
def test_a_drop_is_found_at_every_line(whole, copy, position):
    path = copy(whole)
    rewrite(path, lambda all: all[:position] + all[position + 1 :])
    report = verify(path)
    last = position == COUNT + 2
    assert kinds(report) == ({"truncated"} if last else {"missing"})
    expected = position if last else position + 1
    assert [finding.line for finding in report.findings] == [expected]


@pytest.mark.parametrize("position", range(COUNT + 2))
def test_a_swap_is_found_at_every_line(whole, copy, position):
    path = copy(whole)

    def swap(content):
        content[position : position + 2] = content[position + 1], content[position]
        return content

    rewrite(path, swap)
    assert "repeated" in kinds(verify(path))


@pytest.mark.parametrize("position", range(COUNT + 4))
def test_a_duplicate_is_found_at_every_line(whole, copy, position):
    path = copy(whole)
    rewrite(path, lambda all: [*all[:position], all[position - 1], *all[position:]])
    report = verify(path)
    assert report.found >= 1
    assert kinds(report) <= {"repeated", "missing"}


@pytest.mark.parametrize("position", range(COUNT + 3))
def test_a_forged_record_is_found_at_every_line(whole, copy, position):
    """Inserted with the right number and hash: the record that it displaces gives it away."""
    path = copy(whole)

    def forge(content):
        link = Link()
        for line in content[:position]:
            link = link.follows(line)
        forged = b'{"seq":%d,"prev":"%b","type":"exchange"}\n' % (link.seq + 1, link.hash.encode())
        return [*content[:position], forged, *content[position:]]

    rewrite(path, forge)
    assert not verify(path).ok


@pytest.mark.parametrize("position", range(COUNT + 3))
def test_a_log_that_was_chained_anew_is_found_by_its_head(whole, copy, position):
    path = copy(whole)

    def chain(content):
        link = Link()
        for number, line in enumerate(content):
            record = orjson.loads(line)
            record["prev"] = link.hash
            if number == position:
                record["status"] = 418
            changed = orjson.dumps(record) + b"\n"
            link = link.follows(changed)
            yield changed

    rewrite(path, chain)
    report = verify(path)
    assert kinds(report) == {"edited"}
    assert report.findings[0].line == COUNT + 3


@pytest.mark.parametrize("kept", range(COUNT + 3))
def test_a_truncation_is_found_at_every_line(whole, copy, kept):
    path = copy(whole)
    rewrite(path, lambda all: all[:kept])
    report = verify(path)
    assert kinds(report) == {"truncated"}
    assert report.findings[0].line == kept


def test_a_truncation_within_a_line_is_found(whole, copy):
    path = copy(whole)
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    report = verify(path)
    assert kinds(report) == {"truncated"}
    assert report.torn_bytes > 0


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_other_bytes_are_found(rotated_log, copy, data):
    """One stretch of one file replaced by anything at all."""
    path = copy(rotated_log)
    file = data.draw(st.sampled_from([*rotated(path).values(), path]))
    content = file.read_bytes()
    start = data.draw(st.integers(0, len(content) - 1))
    stop = data.draw(st.integers(start, min(start + 400, len(content))))
    put = data.draw(st.binary(max_size=30) | st.just(content[stop : stop + 40]))
    changed = content[:start] + put + content[stop:]
    if changed == content:
        return
    file.write_bytes(changed)
    report = verify(path)
    appended_a_torn_tail = (
        file == path and changed.startswith(content) and not changed.endswith(b"\n")
    )
    assert not report.ok or appended_a_torn_tail
    assert all(finding.file for finding in report.findings)


@pytest.mark.parametrize("which", range(4))
def test_a_rotated_file_that_is_gone_is_found(rotated_log, copy, which):
    path = copy(rotated_log)
    [*rotated(path).values()][which].unlink()
    report = verify(path)
    assert kinds(report) == {"missing"}
    assert report.findings[0].line == 1


def test_the_written_file_that_is_gone_is_found(rotated_log, copy):
    path = copy(rotated_log)
    path.unlink()
    assert kinds(verify(path)) == {"truncated"}


def test_files_that_changed_names_are_found(rotated_log, copy):
    path = copy(rotated_log)
    first, second, *_ = rotated(path).values()
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)
    assert not verify(path).ok


def test_retention_is_no_drop(tmp_path):
    path = tmp_path / "audit.jsonl"
    fill(path, 60, rotate_bytes=2000, keep=2)
    assert len(rotated(path)) == 2
    report = verify(path)
    assert report.ok
    assert report.first == min(rotated(path)) > 1
    # What was noted of a record that retention deleted can be neither confirmed nor denied.
    assert kinds(verify(path, expect=Link(3, "0" * 64))) == {"missing"}
    rotated(path)[report.first].unlink()  # one more than retention deleted
    assert kinds(verify(path)) == {"missing"}


def test_a_log_without_its_head_is_not_called_intact(whole, copy):
    path = copy(whole)
    last = verify(path).last
    head_path(path).unlink()
    assert kinds(verify(path)) == {"head"}
    assert verify(path, expect=last).ok
    rewrite(path, lambda all: all[:-1])
    assert kinds(verify(path, expect=last)) == {"truncated"}


def test_a_head_that_was_cut_along_is_found_by_a_noted_one(whole, copy):
    path = copy(whole)
    noted = verify(path).last
    rewrite(path, lambda all: all[:5])
    last = Link()
    for line in path.read_bytes().splitlines(keepends=True):
        last = last.follows(line)
    head = Head(last.seq, last.hash, 1, path.stat().st_size)
    head_path(path).write_bytes(head.render(None) * 2)
    assert verify(path).ok  # as said: without a key and a note it cannot be told
    assert kinds(verify(path, expect=noted)) == {"truncated"}
    assert kinds(verify(path, expect=Link(3, "0" * 64))) == {"edited"}


def test_only_who_has_the_key_can_write_the_head(tmp_path):
    path = tmp_path / "audit.jsonl"
    fill(path, 5, key=b"secret")
    report = verify(path, key=b"secret")
    assert report.ok
    assert report.sealed
    assert verify(path).ok
    assert not verify(path).sealed
    assert kinds(verify(path, key=b"another")) == {"head"}
    head = Head(report.last.seq, report.last.hash, 1, path.stat().st_size)
    head_path(path).write_bytes(head.render(None) * 2)
    (finding,) = verify(path, key=b"secret").findings
    assert (finding.kind, finding.message) == ("head", "not sealed: it was begun without a key")


def sealed(values, key=None):
    """A slot whose seal holds, whatever it says."""
    body = orjson.dumps(values)
    seal = (
        {"mac": hmac.digest(key, body, "sha256").hex()}
        if key
        else {"sha256": sha256(body).hexdigest()}
    )
    return orjson.dumps({**values, **seal}).ljust(SLOT - 1)[: SLOT - 1] + b"\n"


WHOLE = {"seq": 9, "hash": "a" * 64, "first": 1, "offset": 9, "oldest": 1}
ODD = [
    {"seq": "99"}, {"seq": True}, {"seq": 1.0}, {"seq": -1}, {"seq": None}, {"seq": 2**64 - 1},
    {"hash": 1}, {"hash": "x"}, {"hash": "A" * 64}, {"first": 0}, {"first": "1"}, {"offset": -1},
    {"offset": 2**63}, {"offset": [1]}, {"oldest": {}}, {"oldest": 0}, {"more": 1},
]  # fmt: skip


@pytest.mark.parametrize("key", [None, b"secret"])
@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_a_head_of_odd_values_is_a_finding(whole, copy, odd, key):
    path = copy(whole)
    assert Head.parse(sealed(WHOLE, key), key) == Head(**WHOLE)
    head_path(path).write_bytes(sealed(WHOLE | odd, key) * 2)
    assert kinds(verify(path, key=key)) == {"head"}


@pytest.mark.parametrize("slot", [0, 1])
def test_one_slot_of_odd_values_is_a_finding_one_that_is_torn_is_none(whole, copy, slot):
    path = copy(whole)
    content = bytearray(head_path(path).read_bytes())
    where = slice(slot * SLOT, (slot + 1) * SLOT)
    content[where] = sealed(WHOLE | {"seq": "99"})
    head_path(path).write_bytes(content)
    (finding,) = verify(path).findings
    assert finding.kind == "head"
    assert finding.message == f"slot {slot} is forged: seq is no number that it can be"
    content[where] = bytes(SLOT)
    head_path(path).write_bytes(content)
    assert verify(path).ok


@pytest.mark.parametrize("seal", ["é", 1, None, ["a"], ""])
def test_an_odd_seal_is_a_finding(whole, copy, seal):
    path = copy(whole)
    for name in ("mac", "sha256"):
        slot = orjson.dumps({**WHOLE, name: seal}).ljust(SLOT - 1) + b"\n"
        head_path(path).write_bytes(slot * 2)
        assert kinds(verify(path, key=b"secret")) == {"head"}


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=3,
)


@given(
    st.one_of(
        st.binary(max_size=SLOT),
        VALUES.map(orjson.dumps),
        st.dictionaries(st.sampled_from([*WHOLE, "mac", "sha256"]), VALUES).map(
            lambda odd: orjson.dumps(WHOLE | odd)
        ),
        st.dictionaries(st.sampled_from([*WHOLE, "more"]), VALUES).map(
            lambda odd: sealed(WHOLE | odd)
        ),
    ),
    st.sampled_from([None, b"secret"]),
)
def test_any_slot_is_a_head_or_a_value_error(slot, key):
    seal_fault(slot.ljust(SLOT) * 2, key)
    try:
        head = Head.parse(slot, key)
    except ValueError:
        return
    assert Head.parse(head.render(key), key) == head


@pytest.mark.parametrize("content", [b"", b"garbage", b"\0" * 1024, b"[]" + b" " * 1022])
def test_a_damaged_head_is_told(whole, copy, content):
    path = copy(whole)
    head_path(path).write_bytes(content)
    assert kinds(verify(path)) == {"head"}


def test_a_torn_slot_of_the_head_leaves_the_other(whole, copy):
    path = copy(whole)
    content = bytearray(head_path(path).read_bytes())
    content[:512] = bytes(512)
    head_path(path).write_bytes(content)
    assert verify(path).ok


def test_a_torn_tail_is_no_tampering(whole, copy):
    path = copy(whole)
    with path.open("ab") as file:
        file.write(b'{"seq":16,"prev":"')
    report = verify(path)
    assert report.ok
    assert report.torn_bytes == 18


def test_a_torn_line_within_the_log_is(rotated_log, copy):
    path = copy(rotated_log)
    file = [*rotated(path).values()][1]
    with file.open("ab") as writer:
        writer.write(b'{"seq":')
    assert kinds(verify(path)) == {"unreadable"}


def test_records_beyond_the_head_are_counted(whole, copy):
    path = copy(whole)
    last = verify(path).last
    line = b'{"seq":%d,"prev":"%b"}\n' % (last.seq + 1, last.hash.encode())
    with path.open("ab") as file:
        file.write(line)
    report = verify(path)
    assert report.ok
    assert report.beyond_head == 1


def test_findings_and_lines_take_bounded_memory(tmp_path):
    path = tmp_path / "audit.jsonl"
    with path.open("wb") as file:
        for number in range(20_000):
            file.write(b'{"seq":%d,"prev":"x"}\n' % (number * 2 + 1))
        for _ in range(3):
            file.write(b"x" * (MAX_LINE - 1))
        file.write(b"\n")
    tracemalloc.start()
    report = verify(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.found > 20_000
    assert len(report.findings) == 100
    assert peak < 6 * MAX_LINE


def test_reordering_whole_stretches_is_found(whole, copy):
    draw = random.Random(5)
    tried = 0
    for _ in range(100):
        path = copy(whole)
        content = path.read_bytes().splitlines(keepends=True)
        shuffled = draw.sample(content, len(content))
        if shuffled == content:
            continue
        path.write_bytes(b"".join(shuffled))
        assert not verify(path).ok
        tried += 1
    assert tried >= 99
