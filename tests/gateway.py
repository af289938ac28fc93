"""A real ``bartizan run`` with a configuration of its own, waited for until it is ready."""

import json
import os
import signal
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from loadtest.process import BARTIZAN, Process, free_port
from loadtest.wire import Session, render_request

READY = "/readyz"
METRICS = "/metrics"


class Gateway:
    """Started by :meth:`start`; the ports stay the same through restarts.

    Args:
        folder: where its configuration, log and audit log lie.
        endpoints: the configuration's ``endpoints``.
        sections: the configuration's other sections; the audit log's path is chosen here.

    Attributes:
        settings: the configuration, to be changed before :meth:`start` or :meth:`reload`.
    """

    def __init__(self, folder: Path, endpoints, **sections):
        self.folder = folder
        self.configuration = folder / "bartizan.yaml"
        self.audit = folder / "audit.jsonl"
        self.port, self.admin_port = free_port(), free_port()
        self.settings = {
            "listen": f"127.0.0.1:{self.port}",
            "admin": {"listen": f"127.0.0.1:{self.admin_port}"},
            "endpoints": list(endpoints),
            **sections,
            "audit": {"path": str(self.audit), **sections.get("audit", {})},
        }
        self.process = None
        self._starts = 0

    @property
    def address(self):
        """Where clients connect."""
        return "127.0.0.1", self.port

    def write(self):
        """Writes the configuration as it is now."""
        # JSON is YAML, and needs no quoting rules of its own.
        self.configuration.write_text(yaml.safe_dump(self.settings, sort_keys=False))

    def launch(self):
        """Starts it, without waiting for anything."""
        self.write()
        self._starts += 1
        self.process = Process(
            "bartizan",
            [*BARTIZAN, "run", str(self.configuration)],
            self.folder / f"bartizan-{self._starts}.log",
        )
        return self

    def start(self, seconds=30.0):
        """Starts it, and waits until it is ready."""
        self.launch()
        self.process.wait_until(self.ready, seconds)
        return self

    def stop(self):
        """Drains it with SIGTERM; its exit status."""
        return self.process.stop(40)

    def kill(self):
        """Ends it with SIGKILL."""
        self.signal(signal.SIGKILL)
        return self.process.stop()

    def signal(self, number):
        """Sends it a signal."""
        os.kill(self.process.pid, number)

    def ask_admin(self, path):
        """One GET to the admin listener."""
        with Session(("127.0.0.1", self.admin_port)) as session:
            return session.exchange(render_request("GET", path, f"127.0.0.1:{self.admin_port}"))

    def ready(self):
        """Whether the admin listener says that it is."""
        try:
            return self.ask_admin(READY).status == 200
        except (OSError, ValueError):
            return False

    def answers(self):
        """Whether the admin listener answers anything."""
        try:
            return self.ask_admin(READY).status > 0
        except (OSError, ValueError):
            return False

    def metrics(self):
        """Every sample: ``{(name, frozenset of labels): value}``."""
        text = self.ask_admin(METRICS).body.decode()
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def metric(self, name, **labels):
        """The sum of a metric's samples that carry these labels."""
        return sum(
            value
            for (found, carried), value in self.metrics().items()
            if found == name and labels.items() <= dict(carried).items()
        )

    def records(self):
        """The exchanges in the audit log so far, oldest first."""
        records = map(json.loads, self.audit.read_text().splitlines())
        return [record for record in records if record["type"] == "exchange"]
