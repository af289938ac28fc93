"""Configurations for the tests of the doctor."""

import yaml

from proxy.settings.load import load

MODEL = {"name": "m", "match": "/v2/models/m"}


def settings_of(folder, *, endpoint=None, **sections):
    """Settings with one endpoint, read as the gateway reads them."""
    path = folder / "bartizan.yaml"
    whole = {
        "admin": {"listen": "127.0.0.1:9090"},
        "endpoints": [{**MODEL, "upstream": "http://127.0.0.1:9000", **(endpoint or {})}],
        **sections,
    }
    path.write_text(yaml.safe_dump(whole))
    return load(path)


def told(findings):
    """``{check: level}``: the worst level of each check."""
    order = ["ok", "could-not-be-tried", "warning", "wrong"]
    worst = {}
    for finding in findings:
        level = finding.level.value
        worst[finding.check] = max(worst.get(finding.check, "ok"), level, key=order.index)
    return worst


def only(findings, check):
    """The finding of a check that has one."""
    (found,) = [finding for finding in findings if finding.check == check]
    return found
