"""The benchmark behind Envoy: what it configures is valid and as shipped, and its table renders."""

import json
import math
import subprocess

import pytest
import yaml
from deploy_tools import tool

from loadtest import envoy_cost
from loadtest.bench import Plan, Subject
from loadtest.comparison import Sample
from loadtest.peers import Firewall, Lab
from loadtest.process import Chain, free_port
from loadtest.report import DIRECT
from loadtest.shipped_envoy import SHIPPED, shipped
from proxy.settings.load import load, load_for_envoy

PROCESSOR = ("127.0.0.1", 7002)
ADMIN = 7090


@pytest.fixture
def lab(tmp_path):
    bundle = tmp_path / "f64.bundle"
    return Lab(("127.0.0.1", 7081), tmp_path, None, {}, {"f64": bundle}, "envoy", "")


def envoy_settings(lab):
    return envoy_cost.ShippedEnvoy(PROCESSOR, ADMIN).configuration(lab, 7080)


@pytest.mark.parametrize("endpoint", [{}, envoy_cost.ROUNDING], ids=["unread", "read"])
def test_the_processor_does_what_the_reverse_proxy_does(lab, endpoint):
    processor = envoy_cost.Processor(endpoint=endpoint)
    path = lab.folder / "bartizan.yaml"
    path.write_text(json.dumps(processor.configuration(lab, 7002, ADMIN)))
    judged = load_for_envoy(path)
    path.write_text(json.dumps(Firewall(endpoint=endpoint).configuration(lab, 7002, ADMIN)))
    proxied = load(path)
    assert processor.admin == ADMIN
    assert judged.ext_proc.listen == proxied.listen
    for section in ("endpoints", "client", "audit", "admin", "workers"):
        assert getattr(judged, section) == getattr(proxied, section)
    assert (judged.endpoints[0].shaping.when == "always") is bool(endpoint)


def test_envoy_is_as_shipped_but_for_the_addresses(lab):
    ports = {8080: 7080, 8081: 7081, 9002: 7002, 9090: ADMIN}
    found = envoy_settings(lab)
    moved = {9901: found["admin"]["address"]["socket_address"]["port_value"]} | ports
    text = SHIPPED.read_text()
    assert text.count("address: 0.0.0.0") == 1
    expected = yaml.safe_load(text.replace("address: 0.0.0.0", "address: 127.0.0.1"))
    seen = set()

    def move(value):
        if isinstance(value, dict):
            if "port_value" in value:
                seen.add(value["port_value"])
                value["port_value"] = moved[value["port_value"]]
            value = list(value.values())
        if isinstance(value, list):
            for one in value:
                move(one)

    move(expected)
    assert seen == set(moved)
    assert found == expected


def test_several_processors_are_endpoints_of_one_cluster():
    addresses = [("127.0.0.1", port) for port in (7000, 7001, 7081)]
    found = shipped(*addresses, [(PROCESSOR, ADMIN), (("127.0.0.1", 7003), 7091)])
    clusters = {one["name"]: one for one in found["static_resources"]["clusters"]}
    (locality,) = clusters["bartizan"]["load_assignment"]["endpoints"]
    checks = [
        one["endpoint"]["health_check_config"]["port_value"] for one in locality["lb_endpoints"]
    ]
    assert checks == [ADMIN, 7091]


def test_envoy_itself_accepts_the_configuration(lab):
    program = tool("envoy")
    path = lab.folder / "envoy.json"
    path.write_text(json.dumps(envoy_settings(lab)))
    command = [program, "--mode", "validate", "--disable-hot-restart", "-c", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("OK")


class Spender:
    def __init__(self, seconds):
        self.seconds = seconds
        self.checked = 0

    def check(self):
        self.checked += 1

    def tail(self):
        return f"spent {self.seconds}"

    def cpu_seconds(self):
        return self.seconds


def test_what_a_chain_spends_is_told_whole_and_in_part():
    envoy, judge = Spender(1.5), Spender(2.0)
    chain = Chain(envoy, judge)
    chain.check()
    assert (envoy.checked, judge.checked) == (1, 1)
    assert chain.tail() == "spent 1.5\nspent 2.0"
    address = ("127.0.0.1", free_port())
    assert Subject("both", chain, address, part=judge).cpu_seconds() == (3.5, 2.0)
    whole, part = Subject("one", envoy, address).cpu_seconds()
    assert whole == 1.5
    assert math.isnan(part)


def test_the_table_compares_like_with_like():
    work = {
        DIRECT: (2e-5, math.nan),
        envoy_cost.BARE: (1e-4, math.nan),
        envoy_cost.RUN: (2e-4, math.nan),
        envoy_cost.PROCESSOR: (8e-4, 5e-4),
        envoy_cost.RUN + ", every answer read and rounded": (4e-4, math.nan),
        envoy_cost.PROCESSOR + ", every answer read and rounded": (1.2e-3, 7e-4),
    }
    samples = [
        Sample(peer, "", 1, 100, p50 / 2, 0.5, 0.0, p50, 2 * p50, part=part)
        for peer, (p50, part) in work.items()
    ]
    lost = Sample(envoy_cost.RUN, "", 2, 1, 1.0, 0.5, 0.0, 1.0, 1.0, "statuses {503: 1}")
    text = envoy_cost.markdown([*samples, lost], Plan((), (), 1, 1.0, connections=16))
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert rows == [
        "| no proxy: the upstream itself | 20 | 40 | 0.20 |  | 100 | 10 |  | 0.20 |  | 1 |",
        "| Envoy alone, no filters | 100 | 200 |  |  | 100 | 50 |  |  |  | 1 |",
        "| `bartizan run` | 200 | 400 | 2.00 |  | 100 | 100 |  | 2.00 |  | 1 |",
        "| Envoy with `bartizan ext-proc` | 800 | 1,600 | 8.00 | 4.00 | 100 | 400 | 500 | 8.00 "
        "| 4.00 | 1 |",
        "| `bartizan run`, every answer read and rounded | 400 | 800 | 4.00 |  | 100 | 200 |  "
        "| 4.00 |  | 1 |",
        "| Envoy with `bartizan ext-proc`, every answer read and rounded | 1,200 | 2,400 | 12.00 "
        "| 3.00 | 100 | 600 | 700 | 12.00 | 3.00 | 1 |",
    ]


def test_without_envoy_nothing_is_measured_and_the_reason_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(envoy_cost, "make_rows_and_bundles", lambda *_, **__: ({}, {}))
    page = tmp_path / "page.md"
    page.write_text("# Page\n")
    assert envoy_cost.main(["--envoy", str(tmp_path / "none"), "--out", str(page)]) == 1
    assert "not found" in capsys.readouterr().err
    assert page.read_text() == "# Page\n"
