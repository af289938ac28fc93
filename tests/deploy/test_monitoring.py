"""Alerts and dashboard: read by the real tools, complete, and explained in the runbook."""

import json
import re
from collections import Counter

import monitoring
import pytest
import yaml
from monitoring import ALERTS, ALERTS_TEST, DASHBOARD, panels, queries, rules
from prometheus_client import CollectorRegistry

from proxy import rules as reasons
from proxy.telemetry import families
from proxy.telemetry.metrics import Metrics, Watched

COUNT = 25


def identity(rule):
    return rule["alert"], rule["labels"]["severity"]


def test_promtool_takes_the_rules(run_tool):
    told = run_tool("promtool", "check", "rules", ALERTS).stdout
    assert f"SUCCESS: {COUNT} rules found" in told


def test_the_unit_tests_of_the_alerts_pass(run_tool):
    assert "SUCCESS" in run_tool("promtool", "test", "rules", ALERTS_TEST).stdout


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not():
    fired, silent = set(), set()
    for case in yaml.safe_load(ALERTS_TEST.read_text())["tests"]:
        for look in case["alert_rule_test"]:
            severities = {one["exp_labels"]["severity"] for one in look["exp_alerts"]}
            fired |= {(look["alertname"], severity) for severity in severities}
            if not severities:
                silent.add(look["alertname"])
    assert fired == set(map(identity, rules()))
    assert silent == {name for name, _ in fired}


def test_every_alert_says_what_it_is_how_bad_and_what_to_do():
    for rule in rules():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"] == {"severity": rule["labels"]["severity"]}
        assert rule["labels"]["severity"] in {"page", "ticket"}
        words = rule["annotations"]
        assert set(words) == {"summary", "description", "runbook_url"}
        assert words["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
    assert len(rules()) == len(set(map(identity, rules()))) == COUNT


def test_the_runbook_has_a_section_for_every_alert_and_for_nothing_else(repository):
    page = (repository / "docs" / "runbook.md").read_text()
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    bodies = dict(section.split("\n", 1) for section in sections)
    assert len(bodies) == len(sections)
    assert set(bodies) == {rule["alert"] for rule in rules()}
    for title, body in bodies.items():
        severities = {severity for name, severity in map(identity, rules()) if name == title}
        assert (
            set(re.findall(r"\*(page|ticket)[.*]", body.split("\n\n- ")[0].lower())) == severities
        )
        for part in ("**Clients feel**", "**First look:**", "**Causes:**", "**Do", "**Escalate**"):
            assert f"- {part}" in body, (title, part)


def test_the_runbook_names_only_metrics_and_rules_that_exist(repository):
    page = (repository / "docs" / "runbook.md").read_text()
    known = {family.sample for family in families.FAMILIES}
    named = set(re.findall(r"\bbartizan_\w+", page))
    assert len(named) > 15
    assert named <= known
    ids = set(re.findall(r"BZ-\d{3}", page))
    assert len(ids) > 10
    assert ids <= set(reasons.RULES)


def test_the_dashboard_is_one_that_grafana_reads():
    board = json.loads(DASHBOARD.read_text())
    assert board["schemaVersion"] >= 36
    assert board["uid"] == "bartizan"
    assert "id" not in board
    everything = board["panels"]
    assert not [i for i, count in Counter(one["id"] for one in everything).items() if count > 1]
    assert not [t for t, count in Counter(one["title"] for one in panels()).items() if count > 1]
    taken = set()
    for panel in everything:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + dx, place["y"] + dy)
            for dx in range(place["w"])
            for dy in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    variables = {one["name"]: one for one in board["templating"]["list"]}
    assert set(variables) == {"datasource", "job", "instance", "endpoint", "runbook"}
    sources = re.findall(r'"uid": "([^"]+)"', DASHBOARD.read_text())
    assert set(sources) == {"bartizan", "${datasource}"}, "no data source is wired in"


def test_every_panel_says_what_it_shows_in_which_unit():
    anchors = {f"${{runbook}}#{rule['alert'].lower()}" for rule in rules()}
    linked = set()
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"]
        linked |= {link["url"] for link in panel["links"]}
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
    assert len(panels()) == 61
    assert linked <= anchors
    # What has no figure of its own to look at.
    assert anchors - linked == {"${runbook}#bartizanabsent", "${runbook}#bartizanenvoyfailopen"}


def asked_by(run_tool, expressions, repository):
    """What each expression asks for: ``[[(metric, labels), …], …]``."""
    reader = repository / "tests" / "promql_reader.py"
    told = run_tool("deploy-python", reader, input=json.dumps(expressions))
    return json.loads(told.stdout)


def exposed():
    """Every metric that is exposed, with the labels of its samples: rendered, with all in use."""
    metrics = Metrics(wall=lambda: 0.0, registry=CollectorRegistry())
    metrics.bind([Watched("one", detectors=("pca",), threshold=0.1, budget=0.1)])
    return {line.split("{")[0].split(" ")[0] for line in metrics.render().decode().splitlines()}


def test_every_metric_is_on_the_dashboard(run_tool, repository):
    asked = asked_by(run_tool, [expression for _, expression in queries()], repository)
    shown = {re.sub("_(bucket|sum|count)$", "", name) for each in asked for name, _ in each}
    assert {family.sample for family in families.FAMILIES} - shown == set()
    ours = {name for name in shown if name.startswith("bartizan_")}
    assert ours == {family.sample for family in families.FAMILIES}


def test_counters_that_alerts_stand_on_are_there_from_the_start():
    rendered = exposed()
    counted = set(re.findall(r"(?:increase|rate)\((bartizan_\w+_total)", ALERTS.read_text()))
    # What only a state, an audit log, gRPC or several workers expose starts at 0 with these.
    elsewhere = {"state_dropped", "exchange_failures", "audit_dropped", "grpc_calls_shed",
                 "worker_starts"}  # fmt: skip
    assert len(counted) >= 10
    assert counted - rendered == {f"bartizan_{name}_total" for name in elsewhere}


@pytest.mark.parametrize("factor", [60, 120])
def test_hastened_rules_differ_in_durations_alone(factor, tmp_path, run_tool):
    text = ALERTS.read_text()
    hastened = monitoring.hastened(text, factor)
    (tmp_path / "alerts.yaml").write_text(hastened)
    run_tool("promtool", "check", "rules", tmp_path / "alerts.yaml")
    assert re.sub(r"\d+(ms|[smhd])\b", "T", hastened) == re.sub(r"\d+(ms|[smhd])\b", "T", text)
    before, after = monitoring.durations(text), monitoring.durations(hastened)
    assert len(before) == len(after) == 42
    assert after == pytest.approx([one / factor for one in before])


def test_a_gateways_page_has_no_faults_of_form(run_tool):
    """``promtool check metrics``: each thing that it complains of is wanted, and none other."""
    metrics = Metrics(wall=lambda: 0.0)
    metrics.bind(
        [Watched("one", detectors=("pca",), threshold=0.1, budget=0.1, answer_threshold=1)]
    )
    done = run_tool("promtool", "check", "metrics", input=metrics.render().decode(), check=False)
    assert done.stderr.splitlines() == []
