"""What a service manager hears."""

import asyncio
import os
import signal
import socket

import pytest

from proxy.notify import notify, reloading, stay_alive, watchdog_seconds


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """A service manager's socket, which ``NOTIFY_SOCKET`` names: ``manager()`` is what it hears."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield lambda: listening.recv(4096).decode().splitlines()


def test_without_a_manager_nothing_is_told(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    assert not notify("READY=1", environment={"NOTIFY_SOCKET": "vsock:2:1"})


def test_a_manager_that_is_gone_is_no_fault(tmp_path):
    assert not notify("READY=1", environment={"NOTIFY_SOCKET": str(tmp_path / "gone")})


def test_a_manager_hears(manager):
    assert notify("READY=1", "STATUS=fine")
    assert manager() == ["READY=1", "STATUS=fine"]


def test_an_abstract_socket():
    name = f"bartizan-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        assert notify("READY=1", environment={"NOTIFY_SOCKET": f"@{name}"})
        assert listening.recv(100) == b"READY=1"


def test_a_reload_that_fails_is_over_too(manager):
    with pytest.raises(ValueError, match="as it may"), reloading():
        raise ValueError("as it may")
    begun = manager()
    assert begun[0] == "RELOADING=1"
    assert begun[1].removeprefix("MONOTONIC_USEC=").isdecimal()
    assert manager() == ["READY=1"]


# environment, seconds
WATCHDOGS = [
    ({}, None),
    ({"WATCHDOG_USEC": "30000000"}, 30.0),
    ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
    ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
    ({"WATCHDOG_USEC": "0"}, None),
    ({"WATCHDOG_USEC": "soon"}, None),
]


@pytest.mark.parametrize(("environment", "seconds"), WATCHDOGS)
def test_who_wants_to_hear_of_life(environment, seconds):
    assert watchdog_seconds(environment) == seconds


async def test_signs_of_life(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    task = asyncio.create_task(stay_alive())
    heard = [await asyncio.to_thread(manager) for _ in range(3)]
    task.cancel()
    assert heard == [["WATCHDOG=1"]] * 3


def test_a_real_gateway_says_when_it_is_ready_reloads_and_stops(manager, gateway, recorder):
    one = gateway([recorder.endpoint()])
    assert manager() == ["READY=1"]
    one.signal(signal.SIGHUP)
    assert manager()[0] == "RELOADING=1"
    assert manager() == ["READY=1"]
    one.configuration.write_text("broken: [")
    one.signal(signal.SIGHUP)
    assert [manager()[0], manager()[0]] == ["RELOADING=1", "READY=1"]
    one.signal(signal.SIGTERM)
    assert manager() == ["STOPPING=1"]
