"""Threads that keep to a script: large requests are inspected beside others, and what these do
meanwhile comes before or after as it did.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from proxy.rehearsal.scene import Scene, Stage


class _Gate:
    """Where a thread waits before it adds to what is known of clients."""

    def __init__(self) -> None:
        self.news = threading.Event()
        self.opened = threading.Event()
        self.reached = False

    def wait(self) -> None:
        """In the thread: waits to be let through."""
        self.reached = True
        self.news.set()
        self.opened.wait()


class Threads(Executor):
    """Runs what it is given at once, and tells what came of it at once, or at the moment that the
    scene's script says.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._own = threading.local()

    def pass_gate(self) -> None:
        """For what adds to what is known of clients: in a thread it waits for its moment."""
        gate: _Gate | None = getattr(self._own, "gate", None)
        if gate is not None:
            self._own.gate = None
            gate.wait()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As ``Executor``."""
        future: Future[Any] = Future()
        scene = self._stage.scene
        threaded = scene.model.thread(scene) if scene is not None else None

        def run() -> None:
            try:
                result = fn(*args, **kwargs)
            except BaseException as fault:
                future.set_exception(fault)
            else:
                future.set_result(result)

        if scene is None or threaded is None:
            run()
        elif threaded.watched:
            self._beside(scene, threaded.moment, run)
        else:
            scene.hold(threaded.moment, run)
        return future

    def _beside(self, scene: Scene, moment: float, run: Callable[[], None]) -> None:
        gate = _Gate()

        def work() -> None:
            self._own.gate = gate
            run()
            gate.news.set()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        gate.news.wait()
        if not gate.reached:
            thread.join()
            return

        def resume() -> None:
            gate.opened.set()
            thread.join()

        scene.hold(moment, resume)
