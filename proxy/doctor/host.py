"""What the kernel says of this host, read from its files: sockets, addresses, cgroup limits."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path, PurePosixPath
from typing import Final

IP = IPv4Address | IPv6Address

_LISTENING: Final = "0A"
_UNLIMITED: Final = 2**60
"""What version 1 of cgroups says where there is no limit is larger than this."""


@dataclass(frozen=True, slots=True)
class Host:
    """The host as seen from here; in a container, that is the container.

    Attributes:
        root: where ``proc`` and ``sys`` lie.
    """

    root: Path = Path("/")

    def read(self, path: str) -> str:
        """A file of the kernel's, or "" if it cannot be read."""
        try:
            return (self.root / path).read_text(encoding="ascii", errors="replace")
        except OSError:
            return ""

    def listeners(self) -> list[tuple[IP, int]] | None:
        """Addresses and TCP ports on which something listens; None if that is not told.

        Source: proc(5), /proc/net/tcp: each word of an address in the host's byte order.
        """
        found: list[tuple[IP, int]] = []
        told = False
        for path in ("proc/net/tcp", "proc/net/tcp6"):
            lines = self.read(path).splitlines()
            told = told or bool(lines)
            for line in lines[1:]:
                fields = line.split()
                if len(fields) > 3 and fields[3] == _LISTENING:
                    address, _, port = fields[1].partition(":")
                    with suppress(ValueError):
                        found.append((_packed(address), int(port, 16)))
        return found if told else None

    def addresses(self) -> list[tuple[IP, str]]:
        """Addresses of this host that are not loopback, each with its interface where it takes one
        to reach it (IPv6 link-local), else "".

        Source: /proc/net/fib_trie (``host LOCAL`` follows each local address), /proc/net/if_inet6.
        """
        found: dict[tuple[IP, str], None] = {}
        last = None
        for line in self.read("proc/net/fib_trie").splitlines():
            named = re.search(r"\|-- ([0-9.]+)", line)
            if named:
                last = named[1]
            elif last and "/32 host LOCAL" in line:
                with suppress(ValueError):
                    found[IPv4Address(last), ""] = None
        for line in self.read("proc/net/if_inet6").splitlines():
            fields = line.split()
            with suppress(ValueError, IndexError):
                address = IPv6Address(bytes.fromhex(fields[0]))
                found[address, fields[5] if address.is_link_local else ""] = None
        return [one for one in found if not one[0].is_loopback]

    def memory(self) -> int | None:
        """Bytes that this process and its workers may take: of the cgroup, or of the machine."""
        machine = re.search(r"^MemTotal:\s+([0-9]+) kB", self.read("proc/meminfo"), re.MULTILINE)
        told = self._cgroup("memory.max", "memory/memory.limit_in_bytes")
        limits = [int(text) for text in told if text.isdigit() and int(text) < _UNLIMITED]
        return min([*limits, *([int(machine[1]) * 1024] if machine else [])], default=None)

    def processors(self) -> float | None:
        """Processors' time that the cgroup grants; None if it sets no bound."""
        granted = []
        for text in self._cgroup("cpu.max", ""):
            quota, _, period = text.partition(" ")
            if quota.isdigit() and period.isdigit() and int(period):
                granted.append(int(quota) / int(period))
        quota, period = (
            self.read(f"sys/fs/cgroup/cpu/cpu.cfs_{name}_us").strip()
            for name in ("quota", "period")
        )
        if quota.isdigit() and period.isdigit() and int(period):
            granted.append(int(quota) / int(period))
        return min(granted, default=None)

    def file_system(self, path: Path) -> str:
        """The type of the file system that holds a path: ``ext4``, ``tmpfs``; "" if unknown.

        Source: proc(5), /proc/self/mountinfo.
        """
        best, kind = -1, ""
        for line in self.read("proc/self/mountinfo").splitlines():
            fields = line.split()
            if len(fields) < 6 or "-" not in fields:
                continue
            point = PurePosixPath(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4]))
            if PurePosixPath(path).is_relative_to(point) and len(point.parts) >= best:
                best, kind = len(point.parts), fields[fields.index("-") + 1]
        return kind

    def capable(self, capability: int) -> bool:
        """Whether this process has a capability (capabilities(7) numbers them)."""
        status = re.search(r"^CapEff:\s+([0-9a-f]+)", self.read("proc/self/status"), re.MULTILINE)
        return bool(status and int(status[1], 16) >> capability & 1)

    def _cgroup(self, second: str, first: str) -> list[str]:
        """A file of this process's cgroup and of those above it: every one is a bound."""
        named = re.search(r"^0::(/.*)$", self.read("proc/self/cgroup"), re.MULTILINE)
        place = PurePosixPath(named[1] if named else "/")
        folders = (folder.relative_to("/") for folder in (place, *place.parents))
        files = [f"{folder}/{second}" for folder in folders] + ([first] if first else [])
        texts = (self.read(f"sys/fs/cgroup/{file}") for file in files)
        return [text.strip() for text in texts if text]


def _packed(digits: str) -> IP:
    """An address as the kernel prints it: the four bytes of each word, read as a number."""
    words = (int(digits[start : start + 8], 16) for start in range(0, len(digits), 8))
    address = ip_address(b"".join(word.to_bytes(4, sys.byteorder) for word in words))
    return getattr(address, "ipv4_mapped", None) or address
