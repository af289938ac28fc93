"""Real subprocesses: started on a given core, waited for until they serve, ended by their id."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from loadtest.serving import READY, parse_address

Address = tuple[str, int]

BARTIZAN: Final = (sys.executable, "-P", "-c", "from proxy.cli import main; main()")
"""The command line of the firewall that is installed beside this package. ``-P``, here as wherever
Python is started: the folder that one stands in lends it no modules."""

_TICKS: Final = os.sysconf("SC_CLK_TCK")


class ProcessError(Exception):
    """A program did not start, or died: with the end of what it wrote."""


# Below the ports that systems lend to outgoing connections. Each process goes through them from a
# place of its own, so that two which choose at the same time do not choose alike.
_PORTS: Final = range(2000, 12_000)
_turns = itertools.count(os.getpid() * 379)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free just now, and that this process chose for nobody else.

    Raises:
        OSError: if there is none.
    """
    for turn in itertools.islice(_turns, len(_PORTS)):
        port = _PORTS[turn % len(_PORTS)]
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port")


@contextlib.contextmanager
def on_cores(cores: set[int] | None) -> Iterator[None]:
    """Runs the block on these cores; what it starts inherits them. None changes nothing."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Process:
    """A running program whose output goes to a file.

    Args:
        name: for messages.
        command: program and arguments.
        log: where stdout and stderr are written.
        cores: the cores that it may use, or None for all.
        environment: variables on top of the present ones.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        cores: set[int] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        # Its own session: a Ctrl-C on the terminal reaches us alone, and we end it in order.
        with log.open("wb") as sink, on_cores(cores):
            self._popen = subprocess.Popen(  # noqa: S603 - the command is built by the caller
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    def check(self) -> None:
        """Raises ProcessError if the program has ended."""
        code = self._popen.poll()
        if code is not None:
            raise ProcessError(f"{self.name} ended with status {code}:\n{self.tail()}")

    def tail(self, lines: int = 20) -> str:
        """The end of what it wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait_until(self, ready: Callable[[], bool], seconds: float = 30.0) -> None:
        """Waits for a condition while the program lives.

        Raises:
            ProcessError: if it ends first, or the time does.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name} is not ready after {seconds:g} s:\n{self.tail()}")
            time.sleep(0.02)

    def wait_for_line(self, seconds: float = 30.0) -> Address:
        """The address in the line by which our own servers say that they serve."""
        found: list[Address] = []

        def seen() -> bool:
            lines = self.log.read_text(errors="replace").rpartition("\n")[0].splitlines()
            found.extend(parse_address(t[len(READY) :]) for t in lines if t.startswith(READY))
            return bool(found)

        self.wait_until(seen, seconds)
        return found[0]

    def wait(self, seconds: float) -> int:
        """Its exit status, once it has ended by itself.

        Raises:
            subprocess.TimeoutExpired: if that takes longer.
        """
        return self._popen.wait(seconds)

    def stop(self, seconds: float = 10.0) -> int:
        """Asks it to end, then makes it. Returns its exit status (negative: by signal)."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self._popen.kill()
        return self._popen.wait()

    def cpu_seconds(self) -> float:
        """User and system time so far of the process and its living descendants."""
        return sum(_cpu_seconds(pid) for pid in _tree(self.pid))

    def resident_bytes(self) -> int:
        """Resident memory of the process and its living descendants."""
        page = os.sysconf("SC_PAGE_SIZE")
        total = 0
        for pid in _tree(self.pid):
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
        return total


class Program(Protocol):
    """What serves, of however many processes."""

    def check(self) -> None:
        """Raises ProcessError if it has ended."""

    def tail(self) -> str:
        """The end of what it wrote."""

    def cpu_seconds(self) -> float:
        """User and system time so far."""


class Chain:
    """Programs of which each passes on to the next: what they spend is counted together."""

    def __init__(self, *links: Program) -> None:
        self._links = links

    def check(self) -> None:
        """Raises ProcessError if any has ended."""
        for link in self._links:
            link.check()

    def tail(self) -> str:
        """The end of what each wrote."""
        return "\n".join(link.tail() for link in self._links)

    def cpu_seconds(self) -> float:
        """User and system time so far of all."""
        return sum(link.cpu_seconds() for link in self._links)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):  # it may end while we read
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _tree(int(child))


def _cpu_seconds(pid: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    # Fields 14 and 15 of proc(5); the second field, the name, may hold spaces and brackets.
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def core_seconds(cores: Iterable[int]) -> float:
    """Time so far for which these cores were busy, with whatever it was (proc(5), ``stat``)."""
    wanted = {f"cpu{core}" for core in cores}
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in wanted:
            user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / _TICKS


def accepts(address: Address) -> bool:
    """Whether something listens there."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(address) == 0
