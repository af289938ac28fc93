"""How a worker is started: a process of its own, with nothing inherited but what it is given.

A process that was forked would inherit the supervisor's event loop, sockets and threads; one that
is started anew does not, whether it is the first or replaces another. It costs a second.
"""

from __future__ import annotations

import signal
import socket
import sys
from dataclasses import dataclass

from proxy.control import Answering
from proxy.memory import start_without_collecting
from proxy.settings.models import Settings


@dataclass(frozen=True, slots=True)
class Launch:
    """What a worker is told first. Descriptors are inherited.

    Attributes:
        version: the supervisor's.
        number: counts from 1.
        workers: how many there are.
        port: the TCP port to share, or None.
        listening: the descriptor of the unix socket to share, or None.
        leases: descriptor, offset and bytes of the memory in which leases are noted, or None.
    """

    version: str
    settings: Settings
    number: int
    workers: int
    port: int | None
    listening: int | None
    leases: tuple[int, int, int] | None

    @property
    def descriptors(self) -> list[int]:
        """Those that the process must inherit."""
        given = [self.listening, self.leases[0] if self.leases else None]
        return [descriptor for descriptor in given if descriptor is not None]


def command(descriptor: int) -> list[str]:
    """Program and arguments of a worker whose end of the channel is ``descriptor``."""
    # -P: no folder but the installation's is looked in for modules.
    code = "from proxy.launch import main; main()"
    return [sys.executable, "-P", "-c", code, str(descriptor)]


def main() -> None:
    """A worker's process. Its exit status is that of ``bartizan run``."""
    # A terminal's Ctrl-C and hangup reach the whole group: the supervisor says what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    start_without_collecting()
    channel = Answering(socket.socket(fileno=int(sys.argv[1])))
    try:
        question = channel.first()
    except EOFError:  # the supervisor is gone already
        return
    # Only now: a terminal's signals are no danger any more, and it takes a second.
    from proxy.worker import work  # noqa: PLC0415

    assert isinstance(question.value, Launch)
    raise SystemExit(work(channel, question.number, question.value))
