"""The units, read by systemd's own tools. ``verify`` exits 0 on a key that it does not know, so
what counts is what it writes.
"""

import os
import re
import shutil
import subprocess

import pytest
from absence import absent
from click.testing import CliRunner

from proxy.cli import main
from proxy.settings.models import Http

UNITS = ("bartizan.service", "bartizan-ext-proc.service")
DROP_INS = ("low-port.conf", "network.conf", "no-compiler.conf")
PROGRAM = "/opt/bartizan/bin/bartizan"


@pytest.fixture
def units(deploy, tmp_path):
    """A copy of the folder, in which the program is one that is there."""
    folder = tmp_path / "systemd"
    shutil.copytree(deploy / "systemd", folder)
    for name in UNITS:
        path = folder / name
        text = path.read_text()
        assert text.count(PROGRAM) == 2
        path.write_text(text.replace(PROGRAM, "/bin/true"))
    return folder


@pytest.fixture
def complaints(run_tool, units):
    """``complaints(unit)``: all that ``systemd-analyze verify`` says of it."""

    def verify(name):
        done = run_tool("systemd-analyze", "verify", "--man=no", units / name, check=False)
        # What is wrong with units of the machine's own is not ours.
        lines = (done.stdout + done.stderr).splitlines()
        return [line for line in lines if "bartizan" in line or str(units) in line]

    return verify


@pytest.mark.parametrize("name", UNITS)
def test_nothing_is_said_against_a_unit(complaints, name):
    assert complaints(name) == []


def test_a_misspelt_key_is_seen(complaints, units):
    path = units / UNITS[0]
    path.write_text(path.read_text().replace("ProtectHome=", "ProtectHoem="))
    assert any("Unknown key" in line and "ProtectHoem" in line for line in complaints(UNITS[0]))


@pytest.mark.parametrize("name", DROP_INS)
def test_a_misspelt_key_of_a_drop_in_is_seen(complaints, units, name):
    assert {path.name for path in (units / f"{UNITS[0]}.d").iterdir()} == set(DROP_INS)
    with (units / f"{UNITS[0]}.d" / name).open("a") as file:
        file.write("\nNoSuchKey=1\n")
    assert any("NoSuchKey" in line for line in complaints(UNITS[0]))


def exposed(run_tool, path):
    """Whether systemd finds the unit more exposed than 2 of 10."""
    shown = run_tool(
        "systemd-analyze", "security", "--offline=yes", "--threshold=20", path, check=False
    )
    assert "Overall exposure level" in shown.stdout, shown.stderr
    return shown.returncode != 0


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_hardened(run_tool, units, name):
    shutil.rmtree(units / f"{UNITS[0]}.d")
    assert not exposed(run_tool, units / name)
    text = (units / name).read_text()
    weak = re.sub(r"(?m)^(SystemCallFilter|CapabilityBoundingSet|NoNewPrivileges)=.*$", "", text)
    (units / name).write_text(weak)
    assert exposed(run_tool, units / name)


@pytest.mark.parametrize("name", UNITS)
def test_the_commands_are_ours_and_a_drain_ends_by_itself(deploy, name):
    text = (deploy / "systemd" / name).read_text()
    commands = re.findall(rf"(?m)^Exec\w+={PROGRAM} (\S+)", text)
    assert len(commands) == 2
    for command in commands:
        assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0
    (seconds,) = re.findall(r"(?m)^TimeoutStopSec=(\d+)s$", text)
    assert int(seconds) > Http().drain_seconds + 5


def test_the_user_and_the_folders(tool, units, tmp_path):
    tool("systemd-analyze")  # of the same package
    if os.geteuid() != 0:
        absent("root", "users and folders are made by root")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    for command in (
        ["systemd-sysusers", f"--root={root}", units / "bartizan.sysusers"],
        ["systemd-tmpfiles", "--create", f"--root={root}", units / "bartizan.tmpfiles"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, "rror" in done.stderr) == (0, False), done.stderr
    assert re.search(r"(?m)^bartizan:", (root / "etc/passwd").read_text())
    bundles = (root / "etc/bartizan/bundles").stat()
    assert (oct(bundles.st_mode & 0o777), bundles.st_uid) == ("0o750", 0)
