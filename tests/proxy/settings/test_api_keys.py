"""The file of API keys."""

import hashlib

import pytest

from proxy.settings.api_keys import read_api_keys
from proxy.settings.problems import SettingsError


def digest(key):
    return hashlib.sha256(key).hexdigest()


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "keys"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_names_by_digest(write):
    path = write(
        f"# partners\n\n  alice:{digest(b'a')}\nbob:{digest(b'b').upper()}\r\nbob:{digest(b'c')}"
    )
    assert read_api_keys(path) == {
        hashlib.sha256(b"a").digest(): "alice",
        hashlib.sha256(b"b").digest(): "bob",
        hashlib.sha256(b"c").digest(): "bob",
    }


def test_every_faulty_line_is_reported_and_none_is_shown(write):
    path = write(
        f"alice:raw-key\nbob\n:{digest(b'a')}\nc d:{digest(b'b')}\n"
        f"e:{digest(b'f')}\ng:{digest(b'f')}\nthe-key:bob\nanother-key\n"
    )
    with pytest.raises(SettingsError) as caught:
        read_api_keys(path)
    assert [problem.line for problem in caught.value.problems] == [1, 2, 3, 4, 6, 7, 8]
    for key in ("raw-key", "the-key", "another-key"):
        assert key not in str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", b"\xff:\n"])
def test_a_file_that_lists_nothing_is_a_fault(write, text):
    with pytest.raises(SettingsError):
        read_api_keys(write(text))


def test_a_missing_file_is_a_fault(tmp_path):
    with pytest.raises(SettingsError, match="no such file"):
        read_api_keys(tmp_path / "none")
