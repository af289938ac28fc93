"""Runs ``bartizan`` in this process under a sampler of CPU time: for ``loadtest.profile``.

``python -m loadtest.sampled OUT.json run CONFIG``. Sampling begins at SIGUSR2 and ends with the
program. A sample that falls into C code counts for the Python function that called it, since that
is where the interpreter next looks for signals. Only the main thread is sampled.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Final

_INTERVAL: Final = 0.001  # seconds of CPU time; the kernel's tick may make it more


class Sampler:
    """Counts functions, by themselves and with what they called."""

    def __init__(self) -> None:
        self.samples = 0
        self.own: Counter[str] = Counter()
        self.total: Counter[str] = Counter()

    def begin(self, number: int, frame: FrameType | None) -> None:
        """Starts the clock."""
        del number, frame
        signal.setitimer(signal.ITIMER_PROF, _INTERVAL, _INTERVAL)

    def sample(self, number: int, frame: FrameType | None) -> None:
        """Takes one."""
        del number
        names = []
        while frame is not None:
            names.append(_name(frame))
            frame = frame.f_back
        self.samples += 1
        self.own[names[0]] += 1
        self.total.update(set(names))

    def write(self, path: Path) -> None:
        """The counts as JSON."""
        document = {"samples": self.samples, "own": self.own, "total": self.total}
        path.write_text(json.dumps(document))


def _name(frame: FrameType) -> str:
    code = frame.f_code
    return f"{Path(code.co_filename).stem}: {code.co_qualname}"


def main() -> None:
    """The command line."""
    out, *arguments = sys.argv[1:]
    sampler = Sampler()
    signal.signal(signal.SIGPROF, sampler.sample)
    signal.signal(signal.SIGUSR2, sampler.begin)
    from proxy.cli import main as bartizan  # noqa: PLC0415 - the handlers come first

    sys.argv = ["bartizan", *arguments]
    try:
        bartizan()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        sampler.write(Path(out))


if __name__ == "__main__":
    main()
