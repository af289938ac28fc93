"""An address on which several processes listen, and whether it is free."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Final

_BACKLOG: Final = 1024


class SharedAddress:
    """Holds an address for processes that listen on it, without accepting anything itself.

    On a TCP port each of them listens with SO_REUSEPORT, and the kernel spreads connections over
    them. That option hides a port that is taken by somebody else, so it is tried without it first;
    then the port is bound and kept, so that it stays ours while no process listens. On a unix
    socket there is no such thing: they inherit one socket that listens.

    Args:
        port: 0 lets the system choose.
        path: of a unix socket, else "".

    Attributes:
        port: the TCP port, 0 on a unix socket.
        listening: the unix socket, None on a TCP port.

    Raises:
        OSError: if the address cannot be had.
    """

    def __init__(self, host: str, port: int, path: str) -> None:
        self.port = port
        self.listening: socket.socket | None = None
        self._path = path
        self._held: list[socket.socket] = []
        try:
            if path:
                self._listen(path)
            else:
                self._hold(host)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets go of it. Processes that listen go on."""
        for held in self._held:
            held.close()
        self._held.clear()

    def _listen(self, path: str) -> None:
        refuse_path_in_use(path)
        if Path(path).is_socket():
            Path(path).unlink()
        listening = socket.socket(socket.AF_UNIX)
        self._held.append(listening)
        listening.bind(path)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
        self.listening = listening

    def _hold(self, host: str) -> None:
        found = socket.getaddrinfo(
            host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, name in dict.fromkeys(found):
            where = (name[0], self.port, *name[2:])
            with _unbound(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                _bind(probe, where)
            held = _unbound(family, kind, protocol)
            self._held.append(held)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            _bind(held, where)
            self.port = held.getsockname()[1]


def refuse_path_in_use(path: str) -> None:
    """Raises OSError if somebody listens there: uvloop would replace any socket."""
    if Path(path).is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == 0:
                raise OSError(errno.EADDRINUSE, "unix socket in use", path)


def _unbound(family: int, kind: int, protocol: int) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    if family == socket.AF_INET6:
        # As an event loop does: the IPv4 address beside it has a socket of its own.
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


def _bind(made: socket.socket, where: tuple[object, ...]) -> None:
    try:
        made.bind(where)
    except OSError as error:
        words = f"cannot listen on {where[0]}:{where[1]}: {os.strerror(error.errno or 0)}"
        raise OSError(error.errno, words) from None
