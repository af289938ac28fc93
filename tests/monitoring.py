"""What lies in ``deploy/monitoring``, read as Grafana and Prometheus read it."""

import json
import re
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "monitoring"
ALERTS = FOLDER / "alerts.yaml"
ALERTS_TEST = FOLDER / "alerts_test.yaml"
DASHBOARD = FOLDER / "dashboard.json"

# Labels that a scrape adds, and what Prometheus itself keeps.
OF_TARGETS = {"job", "instance", "namespace"}
OF_PROMETHEUS = {"up", "ALERTS"}
# What another program exposes.
OF_ENVOY = {"envoy_http_ext_proc_failure_mode_allowed"}

_DURATION = re.compile(r"(?<![\w.])(\d+)(ms|[smhd])(?!\w)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def rules():
    """The alerts, in order."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels():
    """The panels that ask for something."""
    return [
        panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"
    ]


def queries(interval="1m", every=".*"):
    """``(title of the panel, expression)`` of every query, variables put in as Grafana does."""
    return [
        (panel["title"], substituted(target["expr"], interval, every))
        for panel in panels()
        for target in panel["targets"]
    ]


def substituted(expression, interval="1m", every=".*"):
    """An expression with the dashboard's variables put in."""
    for name, value in (
        ("$__rate_interval", interval),
        ("$job", every),
        ("$instance", every),
        ("$endpoint", every),
    ):
        expression = expression.replace(name, value)
    return expression


# Where a rules file holds durations: words of annotations are none.
_SPOTS = re.compile(r"\[\w+\]|^ +for: \w+$", re.MULTILINE)


def durations(text):
    """Every duration of a rules file, in seconds, in order."""
    spots = " ".join(_SPOTS.findall(text))
    return [int(number) * _SECONDS[unit] for number, unit in _DURATION.findall(spots)]


def hastened(text, factor):
    """A rules file with every duration of ``for:`` and ``[…]`` divided, and nothing else."""

    def shorter(match):
        return f"{round(int(match[1]) * _SECONDS[match[2]] / factor * 1000)}ms"

    return _SPOTS.sub(lambda spot: _DURATION.sub(shorter, spot[0]), text)
