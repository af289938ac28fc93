"""Freed buffers go back to the system, so that resident memory stays a flat line."""

import subprocess
import sys

import pytest

from proxy.memory import return_memory

# Large buffers, freed while small ones made after them live on at the top of the heap.
PROBE = """
import os, sys, threading
from proxy.memory import return_memory
if sys.argv[1] == "yes":
    assert return_memory()
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
kept = []
def churn():
    for size in range(64):
        large = [bytearray(b"x") * (3_000_000 + size * 10_000) for _ in range(4)]
        kept.append(bytearray(b"y") * 2_000)
        del large
before = resident()
threads = [threading.Thread(target=churn) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(resident() - before)
"""


def growth(tuned):
    command = [sys.executable, "-c", PROBE, "yes" if tuned else "no"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_large_buffers_are_given_back():
    if not sys.platform.startswith("linux") or not return_memory():
        pytest.skip("no glibc here")
    assert growth(tuned=True) < 8 * 2**20
