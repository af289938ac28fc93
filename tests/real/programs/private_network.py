"""Runs a server that listens on every interface where there is none but a loopback of its own, and
lets this machine's loopback in: ``private_network.py OUTER:INNER[,OUTER:INNER…] COMMAND…``.

A socket stays in the network in which it was made: the outer ones are made before this program
leaves the machine's network for a new and empty one, in which the server is started.
"""

import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1


def leave():
    flags = CLONE_NEWNET | (0 if os.geteuid() == 0 else CLONE_NEWUSER)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", IFF_UP, b""))


def relay(outer, inner_port):
    try:
        inner = socket.create_connection(("127.0.0.1", inner_port))
    except OSError:
        outer.close()
        return
    other = {outer: inner, inner: outer}
    with outer, inner, suppress(OSError):
        while True:
            for ready in select.select([outer, inner], [], [])[0]:
                data = ready.recv(1 << 16)
                if not data:
                    return
                other[ready].sendall(data)


def serve(listener, inner_port):
    while True:
        outer, _ = listener.accept()
        threading.Thread(target=relay, args=(outer, inner_port), daemon=True).start()


def main():
    pairs = [tuple(map(int, pair.split(":"))) for pair in sys.argv[1].split(",")]
    listeners = [(socket.create_server(("127.0.0.1", outer)), inner) for outer, inner in pairs]
    leave()
    server = subprocess.Popen(sys.argv[2:])
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    for listener, inner in listeners:
        threading.Thread(target=serve, args=(listener, inner), daemon=True).start()
    sys.exit(server.wait())


main()
