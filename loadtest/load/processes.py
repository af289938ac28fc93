"""The processes of a load: started apart, begun at one moment, and ended in order, all of them."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from loadtest.load.outcome import Outcome
from loadtest.load.plan import LoadError, Plan
from loadtest.load.share import write
from loadtest.load.worker import OUTCOME
from loadtest.process import on_cores

Counts = Callable[[Mapping[int, Mapping[str, Any]]], None]
"""Is given the last count of each process that has sent one, by its number."""

_HEAD_START_SECONDS: Final = 0.1
_SILENCE_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 5.0


class _Worker:
    """One of them, and what it has said."""

    def __init__(self, folder: Path, number: int, core: int | None, seconds: float | None) -> None:
        command = [sys.executable, "-P", "-m", "loadtest.load.worker", str(folder), str(number)]
        if seconds is not None:
            command.append(repr(seconds))
        self.number = number
        self._log = folder / f"worker-{number}.log"
        # Its own session: a Ctrl-C on the terminal reaches us alone, and we end it in order.
        with self._log.open("wb") as sink, on_cores(None if core is None else {core}):
            self._popen = subprocess.Popen(  # noqa: S603 - built right here
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink,
                start_new_session=True,
            )  # fmt: skip
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._stdin, self.stdout = self._popen.stdin, self._popen.stdout
        self.heard = time.monotonic()
        self._pending = b""

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    def lines(self) -> list[dict[str, Any]]:
        """What it has said since; raises LoadError if it has ended, or says what is wrong."""
        data = os.read(self.stdout.fileno(), 1 << 16)
        self.heard = time.monotonic()
        if not data:
            raise LoadError(f"process {self.number} of the load died: {self._last_words()}")
        *lines, self._pending = (self._pending + data).split(b"\n")
        told = [json.loads(line) for line in lines]
        for line in told:
            if "error" in line:
                raise LoadError(line["error"])
        return told

    def begin(self, moment: float) -> None:
        """It is to start then."""
        self._stdin.write(f"{moment!r}\n".encode())
        self._stdin.flush()

    def hang_up(self) -> None:
        """Tells it that nobody waits any more."""
        with contextlib.suppress(OSError):
            self._stdin.close()

    def stop(self) -> None:
        """Asks it to end, then makes it."""
        self.hang_up()
        if self._popen.poll() is None:
            try:
                self._popen.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._popen.kill()
        self._popen.wait()
        self.stdout.close()

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(_STOP_SECONDS)
        text = self._log.read_text(errors="replace").strip()
        return f"status {self._popen.poll()}; " + "\n".join(text.splitlines()[-10:])


class Workers:
    """All processes of a plan; a context, which ends them.

    Args:
        seconds: of a closed loop; None: the plan's times.
    """

    def __init__(self, plan: Plan, seconds: float | None = None) -> None:
        self._plan = plan
        self._seconds = seconds
        self._all = contextlib.ExitStack()
        self._workers: list[_Worker] = []
        self._folder = Path()

    def __enter__(self) -> Self:
        with self._all as stack:
            name = tempfile.TemporaryDirectory(prefix="bartizan-load-")
            self._folder = Path(stack.enter_context(name))
            write(self._plan, self._folder)
            cores = self._plan.cores
            for number in range(self._plan.processes):
                core = cores[number % len(cores)] if cores else None
                worker = _Worker(self._folder, number, core, self._seconds)
                stack.callback(worker.stop)
                self._workers.append(worker)
            self._all = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:  # all are told before one is waited for
            worker.hang_up()
        self._all.close()

    @property
    def pids(self) -> list[int]:
        """Of the processes, in their order."""
        return [worker.pid for worker in self._workers]

    def run(self, counts: Counts | None = None) -> list[Outcome]:
        """What each process saw, once all have ended.

        Raises:
            LoadError: if one cannot reach the server, or dies: then nothing counts.
        """
        self._until_all("ready", lambda worker, line: None)
        moment = time.monotonic() + _HEAD_START_SECONDS
        for worker in self._workers:
            with contextlib.suppress(BrokenPipeError):  # it died: that is told when it is read
                worker.begin(moment)
        last: dict[int, Mapping[str, Any]] = {}

        def hear(worker: _Worker, line: dict[str, Any]) -> None:
            if "progress" in line:
                last[worker.number] = line["progress"]
                # Once a second: when the first of them tells again.
                if counts is not None and worker.number == min(last):
                    counts(last)

        self._until_all("done", hear)
        if counts is not None and last:
            counts(last)
        return [self._outcome(worker.number) for worker in self._workers]

    def _until_all(self, word: str, hear: Callable[[_Worker, dict[str, Any]], None]) -> None:
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                worker.heard = time.monotonic()
                selector.register(worker.stdout, selectors.EVENT_READ, worker)
            while selector.get_map():
                for worker in self._speaking(selector):
                    for line in worker.lines():
                        hear(worker, line)
                        if word in line:
                            selector.unregister(worker.stdout)

    def _speaking(self, selector: selectors.BaseSelector) -> Iterator[_Worker]:
        for key, _ in selector.select(1.0):
            yield key.data
        quiet = time.monotonic() - _SILENCE_SECONDS
        for key in selector.get_map().values():
            if key.data.heard < quiet:
                raise LoadError(f"process {key.data.number} of the load says nothing any more")

    def _outcome(self, number: int) -> Outcome:
        with np.load(self._folder / OUTCOME.format(number), allow_pickle=False) as saved:
            return Outcome(saved["intended"], saved["sent"], saved["done"], saved["status"])
