"""Which TCP ports answer: ``port_scan.py ADDRESS…`` writes ``{address: [port, …]}`` as JSON.

Every port of every address is connected to; what drops packets would take a second each.
"""

import json
import socket
import sys


def open_ports(address):
    (family, *_, place), *_ = socket.getaddrinfo(address, 1, type=socket.SOCK_STREAM)
    found = []
    for port in range(1, 65536):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            if probe.connect_ex((place[0], port, *place[2:])) == 0:
                found.append(port)
    return found


if __name__ == "__main__":
    json.dump({address: open_ports(address) for address in sys.argv[1:]}, sys.stdout)
