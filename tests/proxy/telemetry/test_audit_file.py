"""The log's files: what a crash leaves is repaired, what a hand did is refused."""

import errno
import os
import shutil
from hashlib import sha256

import orjson
import pytest
from audit_logs import fill, lines
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.telemetry.audit_chain import Link, digest, head_path, rotated
from proxy.telemetry.audit_file import AuditError, AuditFile
from proxy.telemetry.audit_verify import verify


def chained(link, count, first=0):
    """``count`` lines after ``link``, and the last one's link."""
    made = []
    for number in range(count):
        line = b'{"seq":%d,"prev":"%b","n":%d}' % (link.seq + 1, link.hash.encode(), first + number)
        link = Link(link.seq + 1, digest(line))
        made.append(line + b"\n")
    return b"".join(made), link


def commit(file, count, first=0):
    file.write(*chained(file.link, count, first))
    file.sync()


def numbers(path):
    return [orjson.loads(line)["n"] for line in lines(path)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


def test_lines_are_there_when_it_is_opened_again(path):
    for start in range(0, 30, 10):
        file = AuditFile(path, keep=3)
        assert file.link.seq == start
        assert file.repair is None
        commit(file, 10, start)
        file.close()
    assert numbers(path) == list(range(30))
    assert verify(path).ok


def test_only_one_process_writes(path):
    file = AuditFile(path, keep=3)
    with pytest.raises(AuditError, match="another process"):
        AuditFile(path, keep=3)
    commit(file, 1)
    file.close()
    AuditFile(path, keep=3).close()


def test_what_is_not_synced_is_not_vouched_for(path):
    file = AuditFile(path, keep=3)
    commit(file, 3)
    file.write(*chained(file.link, 2))
    report = verify(path)
    assert (report.records, report.beyond_head) == (5, 2)
    file.sync()
    assert verify(path).beyond_head == 0
    file.close()


@pytest.mark.parametrize("tail", [b"x", b'{"seq":4', b"\0" * 4096, b"\n", b"{}\n", b"\xff" * 9])
def test_a_torn_tail_is_cut_and_told(path, tail):
    file = AuditFile(path, keep=3)
    commit(file, 3)
    file.close()
    with path.open("ab") as writer:
        writer.write(tail)
    file = AuditFile(path, keep=3)
    assert file.repair.bytes == len(tail)
    assert file.repair.sha256 == sha256(tail).hexdigest()
    commit(file, 2, 3)
    file.close()
    assert numbers(path) == list(range(5))
    assert verify(path).ok


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_power_cut_is_survived(tmp_path, data):
    """What was synced is there; of what was not, any bytes may be missing or wrong."""
    path = tmp_path / "cut" / "audit.jsonl"
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir()
    file = AuditFile(path, keep=3)
    synced = data.draw(st.integers(0, 5))
    if synced:
        commit(file, synced)
    if data.draw(st.booleans()):
        old, (more, link) = file.link, chained(file.link, 1, synced)
        file.rotate(more, link)
        synced += 1
        assert link.seq == old.seq + 1
    safe, head = file.size, head_path(path).read_bytes()
    more, link = chained(file.link, data.draw(st.integers(1, 6)), synced)
    file.write(more, link)
    file.close()
    head_path(path).write_bytes(head)
    content = bytearray(path.read_bytes())
    del content[data.draw(st.integers(safe, len(content))) :]
    for _ in range(data.draw(st.integers(0, 3))):
        if len(content) > safe:
            at = data.draw(st.integers(safe, len(content) - 1))
            content[at : at + 50] = bytes(len(content[at : at + 50]))
    path.write_bytes(content)
    file = AuditFile(path, keep=3)
    kept = file.link.seq
    assert synced <= kept <= link.seq
    commit(file, 2, kept)
    file.close()
    assert numbers(path) == list(range(kept + 2))
    assert verify(path).ok


def cut(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 5)


def cut_a_line(path):
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def edit_the_last_line(path):
    content = path.read_bytes()
    path.write_bytes(content[:-3] + b"9}\n")


def replace(path):
    path.write_bytes(chained(Link(), 3, 100)[0])


def lose_the_head(path):
    head_path(path).unlink()


def break_the_head(path):
    head_path(path).write_bytes(b"broken")


def lose_the_log(path):
    path.unlink()


HANDS = [
    cut, cut_a_line, edit_the_last_line, replace, lose_the_head, break_the_head, lose_the_log,
]  # fmt: skip


@pytest.mark.parametrize("hand", HANDS, ids=lambda hand: hand.__name__)
def test_what_a_hand_did_is_refused_and_left_as_it_is(path, hand):
    file = AuditFile(path, keep=3)
    commit(file, 3)
    file.close()
    hand(path)
    before = {entry.name: entry.read_bytes() for entry in path.parent.iterdir()}
    with pytest.raises(AuditError, match="move"):
        AuditFile(path, keep=3)
    after = {
        entry.name: entry.read_bytes() for entry in path.parent.iterdir() if entry.stat().st_size
    }
    assert after == {name: content for name, content in before.items() if content}


def test_a_head_of_another_key_is_refused(path):
    AuditFile(path, keep=3, key=b"one").close()
    file = AuditFile(path, keep=3, key=b"one")
    commit(file, 1)
    file.close()
    with pytest.raises(AuditError, match="sealed with another key"):
        AuditFile(path, keep=3, key=b"two")


BEGUN = {
    "unsealed": (None, b"one", "not sealed: it was begun without a key"),
    "another key": (b"one", b"two", "sealed with another key"),
    "sealed": (b"one", None, "sealed with a key, and none is given"),
}


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("name", BEGUN)
def test_a_log_is_continued_only_as_it_was_begun(path, name, lost):
    old, new, words = BEGUN[name]
    file = AuditFile(path, keep=3, key=old)
    commit(file, 3)
    file.close()
    if lost:
        path.unlink()
    before = head_path(path).read_bytes()
    with pytest.raises(AuditError, match=words):
        AuditFile(path, keep=3, key=new)
    assert head_path(path).read_bytes() == before
    assert path.exists() is not lost


@pytest.mark.parametrize("name", BEGUN)
def test_a_log_that_holds_nothing_yet_takes_any_key(path, name):
    old, new, _ = BEGUN[name]
    AuditFile(path, keep=3, key=old).close()
    file = AuditFile(path, keep=3, key=new)
    commit(file, 1)
    file.close()
    assert verify(path, key=new).ok


def test_a_disk_that_is_full_loses_nothing(path, monkeypatch):
    """Half of the bytes go through, then none; then there is room again."""
    file = AuditFile(path, keep=3)
    commit(file, 2)
    write = os.write
    room = 30

    def tight(fd, data):
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(fd, data[: min(room, 7)])
        room -= written
        return written

    monkeypatch.setattr(os, "write", tight)
    more = chained(file.link, 3, 2)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            file.write(*more)
        assert file.link.seq == 2
    monkeypatch.undo()
    file.write(*more)
    file.close()
    assert numbers(path) == list(range(5))
    assert verify(path).ok


def test_after_a_failed_sync_everything_unsynced_is_written_again(path, monkeypatch):
    """The kernel may have thrown the pages away, and says nothing at the next sync."""
    file = AuditFile(path, keep=3)
    commit(file, 2)
    file.write(*chained(file.link, 2, 2))
    file.write(*chained(file.link, 1, 4))
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(OSError, match="broken"):
        file.sync()
    with pytest.raises(OSError, match="broken"):
        file.write(*chained(file.link, 1, 5))
    with path.open("r+b") as other:  # what the kernel threw away
        size = path.stat().st_size
        other.seek(size - 40)
        other.write(b"\0" * 40)
    monkeypatch.undo()
    file.write(*chained(file.link, 1, 5))
    file.close()
    assert numbers(path) == list(range(6))
    assert verify(path).ok


def fail(*_arguments):
    raise OSError(errno.EIO, "broken")


@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
def test_a_rotation_that_fails_is_taken_again(path, monkeypatch, call):
    file = AuditFile(path, keep=3)
    commit(file, 2)
    more, link = chained(file.link, 2, 2)
    if call == "rename":
        monkeypatch.setattr(type(path), "rename", fail)
    else:
        monkeypatch.setattr(os, call, fail)
    for _ in range(2):
        with pytest.raises(OSError, match="broken"):
            file.rotate(more, link)
    monkeypatch.undo()
    file.rotate(more, link)
    commit(file, 1, 4)
    file.close()
    assert [*rotated(path)] == [1]
    assert numbers(path) == list(range(5))
    assert verify(path).ok


@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
@pytest.mark.parametrize("left", [b"", b'{"seq":3,"pr', None])
def test_a_crash_within_a_rotation_is_survived(path, monkeypatch, call, left):
    file = AuditFile(path, keep=3)
    commit(file, 2)
    head = head_path(path).read_bytes()
    more, link = chained(file.link, 2, 2)
    with monkeypatch.context() as patch:
        patch.setattr(*((type(path), "rename") if call == "rename" else (os, call)), fail)
        with pytest.raises(OSError, match="broken"):
            file.rotate(more, link)
        file._release()
    head_path(path).write_bytes(head)
    if left is not None and not path.exists():
        path.write_bytes(left)  # the new file came as far as this
    file = AuditFile(path, keep=3)
    assert file.link.seq == 2
    commit(file, 3, 2)
    file.close()
    assert numbers(path) == list(range(5))
    assert verify(path).ok


def test_a_crash_after_a_rotation_is_survived(path):
    file = AuditFile(path, keep=3)
    commit(file, 2)
    head = head_path(path).read_bytes()
    file.rotate(*chained(file.link, 2, 2))
    file.rotate(*chained(file.link, 2, 4))
    file.close()
    head_path(path).write_bytes(head)
    file = AuditFile(path, keep=3)
    assert file.link.seq == 6
    assert file.first == 5
    commit(file, 1, 6)
    file.close()
    assert numbers(path) == list(range(7))
    assert verify(path).ok


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_retention_keeps_as_many_files_as_it_says(path, keep):
    file = AuditFile(path, keep=keep)
    commit(file, 1)
    for number in range(1, 8):
        file.rotate(*chained(file.link, 1, number))
    file.close()
    assert len(rotated(path)) == keep
    assert numbers(path) == list(range(7 - keep, 8))
    assert verify(path).ok


def test_rotation_overwrites_no_other_file(path):
    file = AuditFile(path, keep=3)
    commit(file, 1)
    stranger = path.with_name("audit.jsonl.000000000001")
    stranger.write_text("precious")
    with pytest.raises(FileExistsError):
        file.rotate(*chained(file.link, 1, 1))
    assert stranger.read_text() == "precious"
    stranger.unlink()
    file.rotate(*chained(file.link, 1, 1))
    file.close()
    assert verify(path).ok


def test_a_log_that_was_moved_away_goes_on_and_the_gap_shows(path):
    file = AuditFile(path, keep=3)
    commit(file, 3)
    moved = path.rename(path.with_name("elsewhere"))
    commit(file, 2, 3)
    file.rotate(*chained(file.link, 1, 5))
    file.close()
    assert numbers(path) == [3, 4, 5]
    assert {finding.kind for finding in verify(path).findings} == {"missing"}
    moved.rename(path.with_name("audit.jsonl.000000000001"))
    assert verify(path).ok
    file = AuditFile(path, keep=3)
    assert file.link.seq == 6
    file.close()


def test_a_log_that_was_cut_while_it_was_written_shows(path):
    file = AuditFile(path, keep=3)
    commit(file, 3)
    cut_a_line(path)
    commit(file, 2, 3)
    file.close()
    assert numbers(path) == [0, 1, 3, 4]
    assert {finding.kind for finding in verify(path).findings} == {"missing"}


def test_a_head_that_cannot_be_written_is_told_and_mended(path, monkeypatch):
    file = AuditFile(path, keep=3)
    monkeypatch.setattr(os, "pwrite", fail)
    commit(file, 2)
    assert file.fault is not None
    monkeypatch.undo()
    commit(file, 1, 2)
    assert file.fault is None
    file.close()
    assert verify(path).beyond_head == 0


def test_files_are_for_their_owner_alone(path):
    fill(path, 3)
    assert {entry.stat().st_mode & 0o777 for entry in path.parent.iterdir()} == {0o600}


def test_a_directory_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        AuditFile(tmp_path / "nowhere" / "audit.jsonl", keep=3)
