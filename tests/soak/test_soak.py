"""Minutes of honest and hostile load at once: memory stays where it is, and honest clients served.

Run by ``make soak``, for ten minutes or for as long as ``SECONDS=`` says.
"""

import socket
import threading
import time
from collections import Counter

import numpy as np
import pytest
from hostile import HOSTILE, MEBIBYTE, send
from memory import growth, status_bytes
from recorder import MODEL

from loadtest.payloads import infer_request, infer_target
from loadtest.wire import Session

SAMPLE_SECONDS = 0.5
# How much the medians of the middle and the last third of the run may differ: what 1 MiB an hour
# would add between them, and what one arena of the allocator is worth.
MEBIBYTES_PER_HOUR = 1
ALLOWANCE = 2 * MEBIBYTE


class Load:
    """Threads that repeat their work until the time is over."""

    def __init__(self, *works):
        self.counts = Counter()
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(work,)) for work in works]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive()

    def _run(self, work):
        for outcome in work():
            with self._lock:
                self.counts[outcome] += 1
            if self.over.is_set():
                return


@pytest.mark.soak
def test_memory_is_a_flat_line(guard, images, soak_seconds):
    requests = {name: make() for name, make in HOSTILE.items()}

    def honest():
        rows = [images[n : n + 1 + n % 4].astype(np.float32) for n in range(500)]
        pool = [infer_request(row, "localhost", infer_target(MODEL)) for row in rows]
        with Session(guard.address) as session:
            while True:
                for request in pool:
                    yield "honest", session.exchange(request).status

    def hostile():
        while True:
            for name, request in requests.items():
                yield name, send(guard.address, request)

    def leaving():
        """Clients that go away in the middle of a head, a body, or while they wait."""
        whole = infer_request(images[:1].astype(np.float32), "localhost", infer_target(MODEL))
        while True:
            for part in (whole[:20], whole[:-5], whole, whole * 3):
                with socket.create_connection(guard.address, 60) as connection:
                    connection.sendall(part)
                yield "leaving", len(part)

    samples = []
    begun = time.monotonic()
    with Load(honest, honest, hostile, leaving) as load:
        while (elapsed := time.monotonic() - begun) < soak_seconds:
            load.over.wait(SAMPLE_SECONDS)
            guard.process.check()
            samples.append(status_bytes(guard.process.pid, "VmRSS"))

    grown = growth(samples)
    allowed = MEBIBYTES_PER_HOUR * MEBIBYTE * elapsed / 3 / 3600 + ALLOWANCE
    parts = [f"{np.median(part) / MEBIBYTE:.1f}" for part in np.array_split(samples, 12)]
    report = [f"{elapsed:.0f} s, {sum(load.counts.values())} requests"]
    report += [f"resident MiB, medians over time: {' '.join(parts)}"]
    report += [
        f"grown by {grown / MEBIBYTE:.2f} MiB in the last third; {allowed / MEBIBYTE:.2f} allowed"
    ]
    report += [f"{count:8d} {name} {status}" for (name, status), count in load.counts.items()]
    print(*report, sep="\n")  # noqa: T201 - what a soak is run for
    assert grown < allowed
    served = {status for (name, status), _ in load.counts.items() if name == "honest"}
    assert served <= {200, 403}
    assert all(load.counts[name, 500] == 0 for name in requests)
