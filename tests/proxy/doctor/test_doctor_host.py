"""What the doctor reads from the kernel's files, on hosts made of files."""

import os
import socket
from ipaddress import ip_address
from pathlib import Path

import pytest

from proxy.doctor.host import Host

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue
   0: 0100007F:2328 00000000:0000 0A 00000000:00000000
   1: 00000000:1F90 00000000:0000 0A 00000000:00000000
   2: 0200074D:1F90 0300074D:D431 01 00000000:00000000
"""
TCP6 = """\
  sl  local_address                         remote_address
   0: 00000000000000000000000001000000:2329 00000000000000000000000000000000:0000 0A
   1: 0000000000000000FFFF00000100007F:232A 00000000000000000000000000000000:0000 0A
"""
TRIE = """\
Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.77.0.0
        /24 link UNICAST
     |-- 10.77.0.2
        /32 host LOCAL
     |-- 127.0.0.1
        /32 host LOCAL
"""
SIX = """\
00000000000000000000000000000001 01 80 10 80       lo
fe80000000000000583232fffe0726c5 02 40 20 80     eth0
fd770000000000000000000000000002 02 40 00 80     eth0
"""
MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/sda rw
23 22 0:20 / /tmp rw shared:1 - tmpfs tmpfs rw
24 22 0:21 / /var/log/a\\040b rw - nfs4 server:/ rw
"""


@pytest.fixture
def host(tmp_path):
    """``host(files)``: a host with these files."""

    def make(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Host(tmp_path)

    return make


@pytest.mark.skipif(os.sys.byteorder != "little", reason="the sample is of such a machine")
def test_listeners_of_a_sample(host):
    found = host({"proc/net/tcp": TCP, "proc/net/tcp6": TCP6}).listeners()
    assert found == [
        (ip_address("127.0.0.1"), 9000),
        (ip_address("0.0.0.0"), 8080),
        (ip_address("::1"), 9001),
        (ip_address("127.0.0.1"), 9002),  # IPv4, mapped
    ]


def test_a_real_listener_is_seen():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert (ip_address("127.0.0.1"), port) in Host().listeners()


def test_addresses_that_are_not_loopback(host):
    found = host({"proc/net/fib_trie": TRIE, "proc/net/if_inet6": SIX}).addresses()
    assert found == [
        (ip_address("10.77.0.2"), ""),
        (ip_address("fe80::5832:32ff:fe07:26c5"), "eth0"),
        (ip_address("fd77::2"), ""),
    ]


def test_a_host_that_tells_nothing(tmp_path):
    host = Host(tmp_path)
    assert (host.listeners(), host.addresses()) == (None, [])
    assert (host.memory(), host.processors(), host.capable(10)) == (None, None, False)
    assert host.file_system(Path("/tmp")) == ""


def test_garbage_is_no_fault(host):
    files = {
        "proc/net/tcp": "x\n 0: zz:1 a:1 0A\n",
        "proc/net/if_inet6": "xyz\n00 1\n",
        "proc/net/fib_trie": "|-- 999.1.1.1\n /32 host LOCAL\n",
        "proc/self/cgroup": "0::/../..\n",
        "sys/fs/cgroup/cpu.max": "a b c",
        "sys/fs/cgroup/memory.max": "-",
        "proc/self/mountinfo": "a b c - \n- - - - - -\n",
    }
    host = host(files)
    assert (host.listeners(), host.addresses()) == ([], [])
    assert (host.memory(), host.processors()) == (None, None)


# files under sys/fs/cgroup, what is granted: memory in MiB, processors
CGROUPS = [
    ({"a/b/memory.max": "max", "a/memory.max": "536870912", "a/b/cpu.max": "50000 100000"},
     512, 0.5),
    ({"memory.max": "1073741824", "a/b/cpu.max": "max 100000"}, 1024, None),
    ({"memory/memory.limit_in_bytes": "268435456"}, 256, None),
    ({"memory/memory.limit_in_bytes": "9223372036854771712"}, 2048, None),  # version 1's "no limit"
    ({"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, 2048, 1.5),
    ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 2048, None),
]  # fmt: skip


@pytest.mark.parametrize(("files", "memory", "processors"), CGROUPS)
def test_what_cgroups_grant(host, files, memory, processors):
    machine = {"proc/meminfo": "MemTotal:  2097152 kB\n", "proc/self/cgroup": "0::/a/b\n"}
    made = host({**machine, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}})
    assert (made.memory() // 2**20, made.processors()) == (memory, processors)


def test_file_systems(host):
    made = host({"proc/self/mountinfo": MOUNTS})
    assert made.file_system(Path("/tmp/x")) == "tmpfs"
    assert made.file_system(Path("/tmpfoo")) == "ext4"
    assert made.file_system(Path("/var/log/a b/audit.jsonl")) == "nfs4"


def test_capabilities(host):
    made = host({"proc/self/status": "Name:\tx\nCapEff:\t0000000000000400\n"})
    assert (made.capable(10), made.capable(11)) == (True, False)
