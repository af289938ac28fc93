"""A recording model server as a real process, and what it saw."""

import json
import sys
from pathlib import Path

from loadtest.process import Process, accepts

PROGRAM = Path(__file__).with_name("recording_server.py")
MODEL = "digits"
FEATURES = 64


class Recorder:
    """A model server that keeps its port through restarts, and remembers what it saw."""

    def __init__(self, folder, port):
        self.port = port
        self.address = "127.0.0.1", port
        self._folder = folder
        self._log = folder / "seen.jsonl"
        self._process = None

    def start(self):
        """Starts it, and waits until it listens."""
        where, model = f"127.0.0.1:{self.port}", f"{MODEL}={FEATURES}"
        self._process = Process(
            "recorder",
            [sys.executable, str(PROGRAM), where, str(self._log), model],
            self._folder / "recorder.log",
        )
        self._process.wait_until(lambda: accepts(self.address))
        return self

    def stop(self):
        """Ends it, if it runs: its port refuses connections."""
        if self._process is not None:
            self._process.stop()

    def seen(self, method="POST"):
        """The requests so far."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [seen for seen in map(json.loads, lines) if seen["method"] == method]

    def endpoint(self, **keys):
        """A configuration's endpoint that leads here."""
        return {
            "name": MODEL,
            "match": f"/v2/models/{MODEL}",
            "upstream": f"http://127.0.0.1:{self.port}",
            **keys,
        }
