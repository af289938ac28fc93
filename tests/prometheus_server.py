"""A real Prometheus that scrapes real gateways, with the alerts hastened."""

import json
import math
import time
import urllib.parse
import urllib.request

import monitoring
import yaml
from deploy_tools import tool

from loadtest.process import Process, free_port

FACTOR = 120
"""By how much the alerts' durations are divided: an hour becomes half a minute."""
EVERY = "500ms"
TOKEN = "a token of at least sixteen characters"


class Prometheus:
    """A server over targets that are found in files, as in Kubernetes they are by labels.

    Args:
        folder: where its configuration, rules and data lie.
        jobs: addresses of admin listeners by name of the job.
    """

    def __init__(self, folder, jobs):
        self._folder = folder
        self._port = free_port()
        self._process = None
        self._since = 0.0
        (folder / "alerts.yaml").write_text(
            monitoring.hastened(monitoring.ALERTS.read_text(), FACTOR)
        )
        self.configuration = folder / "prometheus.yml"
        self.aim(jobs)
        scrapes = [
            {
                "job_name": job,
                "authorization": {"credentials": TOKEN},
                # As a ServiceMonitor does: the target has a label that is ours, too.
                "honor_labels": True,
                "file_sd_configs": [{"files": [str(folder / f"{job}.json")]}],
            }
            for job in jobs
        ]
        times = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), EVERY)
        settings = {"global": times, "rule_files": ["alerts.yaml"], "scrape_configs": scrapes}
        self.configuration.write_text(yaml.safe_dump(settings))

    def aim(self, jobs):
        """Scrapes these from now on."""
        for job, addresses in jobs.items():
            targets = [{"targets": addresses, "labels": {"endpoint": "admin"}}] if addresses else []
            (self._folder / f"{job}.json").write_text(json.dumps(targets))

    def start(self):
        """Starts it, and waits until it is ready."""
        where = {
            "config.file": self.configuration,
            "storage.tsdb.path": self._folder / "data",
            "web.listen-address": f"127.0.0.1:{self._port}",
        }
        command = [tool("prometheus"), *(f"--{name}={value}" for name, value in where.items())]
        self._process = Process("prometheus", command, self._folder / "prometheus.log")
        self._process.wait_until(self._ready)
        return self

    def stop(self):
        if self._process is not None:
            self._process.stop()

    def wait_until(self, condition, seconds=90.0):
        """Waits for a condition while it lives."""
        self._process.wait_until(condition, seconds)

    def query(self, expression):
        """An instant query: ``[(labels, value), …]``, without what is not a number."""
        found = self._ask("query", query=expression)["result"]
        values = [(one["metric"], float(one["value"][1])) for one in found]
        return [(labels, value) for labels, value in values if not math.isnan(value)]

    def series(self, selector):
        """The labels of every series that a selector finds."""
        return self._ask("series", **{"match[]": selector})

    def begin(self, count):
        """Waits until it scrapes so many targets and has got over having found none at its start:
        what fired until then does not count."""

        def quiet():
            found = self.query("count(up == 1)") == [({}, count)]
            return found and not self.query('ALERTS{alertstate="firing"}')

        self.wait_until(quiet)
        self._since = time.time()

    def fired(self):
        """What has fired so far: ``{(alert, severity), …}``."""
        seconds = max(1, int(time.time() - self._since))
        seen = self.query(f'last_over_time(ALERTS{{alertstate="firing"}}[{seconds}s])')
        return {(labels["alertname"], labels["severity"]) for labels, _ in seen}

    def _ask(self, what, **values):
        words = urllib.parse.urlencode(values)
        address = f"http://127.0.0.1:{self._port}/api/v1/{what}?{words}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            return json.load(answer)["data"]

    def _ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=5):
                return True
        except OSError:
            return False
