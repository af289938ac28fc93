"""The mode changed in a file, and nothing else."""

import errno
import os
import stat

import pytest
from promotion_logs import PLAIN, configuration

from proxy.decision import Mode
from proxy.promotion import edit as editing
from proxy.promotion.edit import EditError, apply, plan
from proxy.settings.load import load


def edited(path, endpoint="digits", mode=Mode.ENFORCE):
    apply(plan(path, endpoint, mode))
    return path.read_bytes().decode()


TWO = (
    PLAIN
    + """\
  - name: faces
    match: /v2/models/faces
    upstream: http://127.0.0.1:9001
    mode: monitor
"""
)

GOOD = {
    "plain": (PLAIN, "mode: monitor #", "mode: enforce #"),
    "another endpoint": (TWO, "mode: monitor #", "mode: enforce #"),
    "quoted": (PLAIN.replace("monitor", '"monitor"'), '"monitor"', '"enforce"'),
    "single quotes": (PLAIN.replace("monitor", "'monitor'"), "'monitor'", "'enforce'"),
    "an anchor that nobody uses": (
        PLAIN.replace("monitor", "&m monitor"), "&m monitor", "&m enforce"),
    "key quoted": (PLAIN.replace("mode:", '"mode" :'), "monitor #", "enforce #"),
    "CRLF": (PLAIN.replace("\n", "\r\n"), "mode: monitor #", "mode: enforce #"),
    "a byte order mark": ("\ufeff" + PLAIN, "mode: monitor #", "mode: enforce #"),
    "words of many bytes before it": (
        "# \u00fc\u4e2d\U0001f600\n" + PLAIN, "mode: monitor #", "mode: enforce #"),
    "value on the next line": (
        PLAIN.replace("mode: monitor", "mode:\n      monitor"), "      monitor", "      enforce"),
    "flow style": (
        PLAIN[: PLAIN.index("  - name")]
        + "  - {name: digits, mode: monitor, match: /v2/models/d, upstream: 'http://a:1'}\n",
        "mode: monitor", "mode: enforce"),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_only_the_mode_changes(tmp_path, case):
    text, before, after = GOOD[case]
    path = configuration(tmp_path, text)
    assert edited(path) == text.replace(before, after, 1)
    assert load(path).endpoints[0].mode is Mode.ENFORCE


MERGED = PLAIN.replace(
    "  - name: digits", "  - <<: &base {mode: monitor}\n    name: digits"
).replace("    mode: monitor # for now\n", "")


def test_a_mode_that_is_merged_gets_a_line_of_its_own(tmp_path):
    path = configuration(tmp_path, MERGED)
    result = edited(path)
    assert result == MERGED.replace("# the only one\n", "# the only one\n    mode: enforce\n")


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_demoting_what_does_not_state_its_mode(tmp_path, ending):
    text = PLAIN.replace("    mode: monitor # for now\n", "").replace("\n", ending)
    path = configuration(tmp_path, text)
    line = f"# the only one{ending}"
    expected = text.replace(line, f"{line}    mode: monitor{ending}")
    assert edited(path, mode=Mode.MONITOR) == expected


def test_a_name_that_ends_the_file(tmp_path):
    text = PLAIN.replace("  - name: digits   # the only one\n    ", "  - ").replace(
        "    mode: monitor # for now\n", ""
    )
    path = configuration(tmp_path, text + "    name: digits")
    assert edited(path, mode=Mode.MONITOR) == text + "    name: digits\n    mode: monitor"


def test_flow_style_without_a_mode(tmp_path):
    start = PLAIN[: PLAIN.index("  - name")]
    text = start + "  - {name: digits, match: /v2/models/d, upstream: 'http://a:1'}\n"
    path = configuration(tmp_path, text)
    assert "{name: digits, mode: monitor, match" in edited(path, mode=Mode.MONITOR)


def test_there_and_back_is_the_same_file(tmp_path):
    path = configuration(tmp_path)
    edited(path)
    assert edited(path, mode=Mode.MONITOR) == PLAIN


BAD = {
    "from the environment": (PLAIN.replace("monitor", '"${MODE:-monitor}"'), "set enforce there"),
    "an anchor of others": (
        TWO.replace("mode: monitor #", "mode: &m monitor #").replace(
            "    mode: monitor\n", "    mode: *m\n"),
        "shared by an anchor"),
    "an alias": (
        PLAIN.replace("name: digits", "name: &m monitor").replace("mode: monitor", "mode: *m"),
        "shared by an anchor"),
    "merged into another": (
        TWO.replace("  - name: digits", "  - &d\n    name: digits").replace(
            "  - name: faces", "  - <<: *d\n    name: faces"),
        "used elsewhere"),
    "folded": (PLAIN.replace("mode: monitor # for now", "mode: >-\n      monitor"), "by hand"),
    "a name from the environment": (
        PLAIN.replace("name: digits", 'name: "${NAME:-digits}"'), "not written out"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_would_change_more_is_refused(tmp_path, case):
    text, words = BAD[case]
    path = configuration(tmp_path, text)
    name = "monitor" if case == "an alias" else "digits"
    assert next(one for one in load(path).endpoints if one.name == name).mode is Mode.MONITOR
    with pytest.raises(EditError, match=words):
        edited(path, name)
    assert path.read_bytes().decode() == text
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_permissions_stay(tmp_path):
    path = configuration(tmp_path)
    path.chmod(0o640)
    edited(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "real").mkdir()
    real = configuration(
        tmp_path / "real", PLAIN.replace("audit:\n  path", "trusted_keys: [k.pem]\naudit:\n  path")
    )
    (tmp_path / "k.pem").write_text("a key")
    link = tmp_path / "link.yaml"
    link.symlink_to(real)
    edited(link)  # k.pem lies beside the link, as the gateway sees it
    assert link.is_symlink()
    assert load(link).endpoints[0].mode is Mode.ENFORCE
    assert {one.name for one in tmp_path.iterdir()} == {"real", "k.pem", "link.yaml"}


def test_a_hard_link_is_refused(tmp_path):
    path = configuration(tmp_path)
    os.link(path, tmp_path / "other.yaml")
    with pytest.raises(EditError, match="hard links"):
        edited(path)
    assert path.read_text() == PLAIN


def test_a_change_meanwhile_is_kept(tmp_path):
    path = configuration(tmp_path)
    planned = plan(path, "digits", Mode.ENFORCE)
    path.write_text(PLAIN + "# mine\n")
    with pytest.raises(EditError, match="meanwhile"):
        apply(planned)
    assert path.read_text() == PLAIN + "# mine\n"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("call", ["fsync", "write"])
def test_a_full_disk_leaves_the_file(tmp_path, monkeypatch, call):
    path = configuration(tmp_path)
    planned = plan(path, "digits", Mode.ENFORCE)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call == "fsync":
        monkeypatch.setattr(editing.os, "fsync", full)
    else:
        monkeypatch.setattr(editing.os, "fdopen", full)
    with pytest.raises(OSError, match="No space"):
        apply(planned)
    assert path.read_text() == PLAIN
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_result_that_could_not_be_served_is_refused(tmp_path):
    path = configuration(tmp_path)

    def never(settings):
        if settings.endpoints[0].mode is Mode.ENFORCE:
            yield ("endpoints", 0, "mode"), "not on a Friday"

    with pytest.raises(EditError, match="not on a Friday"):
        plan(path, "digits", Mode.ENFORCE, [never])
    assert path.read_text() == PLAIN
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
