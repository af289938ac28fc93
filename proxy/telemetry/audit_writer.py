"""The thread that writes the audit log, so that no disk ever holds the loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, repeat
from queue import Empty, SimpleQueue
from typing import Final

import structlog

from proxy.telemetry.audit_chain import Link
from proxy.telemetry.audit_file import AuditFile

_log = structlog.get_logger("bartizan.audit")

_RETRY_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Group:
    """Lines that go to disk together.

    Attributes:
        data: whole lines.
        link: the last of them.
        ticket: the last ticket that is among them.
        opens: whether they begin a new file.
    """

    data: bytes
    link: Link
    ticket: int
    opens: bool = False


class Writer:
    """Writes groups in the order given, each however often it takes.

    Args:
        sync_interval: seconds over which written groups are gathered before they are synced; 0.0
            syncs each one before it counts as done.
        tell: called from the thread whenever one of the attributes changed.
        clock: monotonic seconds.

    Attributes:
        done: the last ticket that is written, and synced if each one is.
        bytes: bytes that are written.
        fault: why the last attempt failed, "" if it did not.
    """

    def __init__(
        self,
        file: AuditFile,
        *,
        sync_interval: float,
        tell: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.done = 0
        self.bytes = 0
        self.fault = ""
        self._file = file
        self._sync_interval = sync_interval
        self._tell = tell
        self._clock = clock
        self._groups: SimpleQueue[Group | None] = SimpleQueue()
        self._give_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bartizan-audit", daemon=True)
        self._thread.start()

    def put(self, group: Group) -> None:
        """Hands over a group."""
        self._groups.put(group)

    def stop(self, patience: float) -> bool:
        """Writes what waits, and ends; gives up on a disk that fails. Blocks up to twice the
        patience, in seconds. False if the disk does not even answer: the thread lives on.
        """
        self._groups.put(None)
        self._thread.join(patience)
        self._give_up.set()
        self._thread.join(patience)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            synced = self._clock()
            ending = False
            while not ending:
                groups = self._gather(synced)
                ending = None in groups
                for group in _joined([group for group in groups if group is not None]):
                    if not self._commit(group):
                        return
                if ending or self._clock() - synced >= self._sync_interval:
                    if not self._try(self._file.sync):
                        return
                    synced = self._clock()
        except Exception as error:
            self.fault = f"the writer ended: {error!r}"
            self._tell()
            raise

    def _gather(self, synced: float) -> list[Group | None]:
        """Every group that waits; the next one, if a sync is not due before."""
        groups: list[Group | None] = []
        with suppress(Empty):
            due = None
            if not self._file.is_synced:
                due = max(0.001, synced + self._sync_interval - self._clock())
            groups.append(self._groups.get(timeout=due))
            while True:
                groups.append(self._groups.get_nowait())
        return groups

    def _commit(self, group: Group) -> bool:
        """Writes a group, however often it takes; False if it was told to give up."""
        write = self._file.rotate if group.opens else self._file.write
        done = self._try(lambda: write(group.data, group.link))
        if done and not self._sync_interval:
            done = self._try(self._file.sync)
        if done:
            self.done = group.ticket
            self.bytes += len(group.data)
            self._tell()
        return done

    def _try(self, step: Callable[[], None]) -> bool:
        """Takes a step until it succeeds; False if it was told to give up."""
        for pause in chain(_RETRY_SECONDS, repeat(_RETRY_SECONDS[-1])):
            try:
                step()
            except OSError as error:
                if not self.fault:
                    _log.error("audit log cannot be written", fault=str(error))
                self.fault = str(error)
                self._tell()
                if self._give_up.wait(pause):
                    return False
            else:
                break
        if self.fault:
            _log.warning("audit log can be written again", after=self.fault)
            self.fault = ""
        return True


def _joined(groups: list[Group]) -> Iterator[Group]:
    """The same lines in fewer groups: one for each file."""
    run: list[Group] = []
    for group in groups:
        if run and group.opens:
            yield _join(run)
            run = []
        run.append(group)
    if run:
        yield _join(run)


def _join(run: list[Group]) -> Group:
    data = run[0].data if len(run) == 1 else b"".join([group.data for group in run])
    return replace(run[-1], data=data, opens=run[0].opens)
