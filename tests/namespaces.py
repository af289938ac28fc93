"""Two hosts on one machine: a pod and a client, network namespaces with a wire between them."""

import itertools
import os
import subprocess

from absence import absent
from deploy_tools import tool

_counter = itertools.count()


def needed():
    """Skips where namespaces cannot be made, or fails: see ``absent``."""
    tool("ip")
    if os.geteuid() != 0:
        absent("root", "network namespaces need root")


class Namespaces:
    """A pod and a client, to be used in a ``with`` statement, which removes them in any case.

    Attributes:
        ipv4, ipv6, link_local: the pod's addresses; the last as the client writes it.
    """

    ipv4 = "10.77.0.2"
    ipv6 = "fd77::2"

    def __init__(self):
        tag = f"bz{os.getpid()}{next(_counter)}"
        self.pod, self.client = f"{tag}-pod", f"{tag}-client"
        self.link_local = ""

    def __enter__(self):
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in (self.pod, self.client):  # the wire goes with its ends
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def within(self, name, command):
        """``command`` as it is run in one of them."""
        return ["ip", "netns", "exec", name, *map(str, command)]

    def run(self, name, *command, timeout=60, **keywords):
        """Runs a command in one of them: the completed process, whatever its exit status."""
        return subprocess.run(
            self.within(name, command),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **keywords,
        )

    def start(self, name, *command):
        """Starts a command in one of them, its output piped."""
        return subprocess.Popen(
            self.within(name, command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def _make(self):
        ends = {self.pod: ("wire", 2), self.client: ("wire", 3)}
        for name in ends:
            _ip("netns", "add", name)
            # Addresses serve at once: nobody else can have them.
            quiet = "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad"
            assert self.run(name, "sh", "-c", quiet).returncode == 0
            _ip("-n", name, "link", "set", "lo", "up")
        wire = ["link", "add", "wire", "netns", self.pod, "type", "veth", "peer", "name", "wire"]
        _ip(*wire, "netns", self.client)
        for name, (link, number) in ends.items():
            _ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", link)
            _ip("-n", name, "addr", "add", f"fd77::{number}/64", "dev", link)
            _ip("-n", name, "link", "set", link, "up")
        told = _ip("-n", self.pod, "-6", "-o", "addr", "show", "dev", "wire", "scope", "link")
        self.link_local = told.split()[3].partition("/")[0] + "%wire"


def _ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False, timeout=10)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout
