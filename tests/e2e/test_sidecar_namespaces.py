"""The sidecar as processes: in a pod's network namespace, the model is reached through the firewall
alone; where it is not so, it shows, ``bartizan doctor`` says so, and a packet filter mends it.
"""

import json
import sys
from pathlib import Path

import port_scan
import pytest
import yaml
from deploy_tools import tool
from namespaces import Namespaces, needed
from recorder import FEATURES, MODEL, PROGRAM

from loadtest.process import BARTIZAN, Process

SCAN = Path(port_scan.__file__)
FIREWALL, MODEL_PORT, ADMIN_PORT = 8080, 9000, 9090
ASK = """
import http.client, json, sys
host, port, method, path, body = sys.argv[1:]
connection = http.client.HTTPConnection(host, int(port), timeout=10)
try:
    connection.request(method, path, body or None, {"Content-Type": "application/json"})
    answer = connection.getresponse()
except OSError as error:
    print(json.dumps([0, str(error)]))
else:
    print(json.dumps([answer.status, answer.read().decode()]))
"""


class Pod:
    """A model server and the firewall in one network namespace, and a client in another."""

    def __init__(self, folder, hosts):
        self.hosts = hosts
        self._folder = folder
        self.configuration = folder / "bartizan.yaml"
        self._running = {}
        settings = {
            "listen": f"{hosts.ipv4}:{FIREWALL}",
            "admin": {"listen": f"127.0.0.1:{ADMIN_PORT}"},
            "audit": {"path": str(folder / "audit.jsonl")},
            "endpoints": [
                {
                    "name": MODEL,
                    "match": f"/v2/models/{MODEL}",
                    "upstream": f"http://127.0.0.1:{MODEL_PORT}",
                }
            ],
        }
        self.configuration.write_text(yaml.safe_dump(settings))

    def serve_model(self, host):
        """Starts the model server, bound to an address; ``""``: to all of them."""
        where, model = f"{host}:{MODEL_PORT}", f"{MODEL}={FEATURES}"
        command = [sys.executable, PROGRAM, where, self._folder / "seen.jsonl", model]
        self._start("model", command, lambda: self.asked_inside(MODEL_PORT, "/v2")[0] == 200)

    def serve_firewall(self):
        """Starts the firewall."""
        command = [*BARTIZAN, "run", self.configuration]
        self._start("firewall", command, lambda: self.bartizan("pod", "health", "--ready")[0] == 0)

    def _start(self, name, command, answers):
        log = self._folder / f"{name}.log"
        process = Process(name, self.hosts.within(self.hosts.pod, command), log)
        self._running[name] = process
        process.wait_until(answers)

    def stop(self, *names):
        """Ends processes; by default all of them."""
        for name in names or tuple(self._running):
            self._running.pop(name).stop()

    def bartizan(self, where, command, *options):
        """A command on the pod or the client: exit status and lines."""
        asked = [*BARTIZAN, command, self.configuration, *options]
        done = self.hosts.run(getattr(self.hosts, where), *asked)
        return done.returncode, done.stdout.splitlines()

    def asked_inside(self, port, path):
        """One GET within the pod."""
        return self._asked(self.hosts.pod, "127.0.0.1", port, "GET", path, "")

    def asked(self, host, port, method="GET", path="/v2", body=""):
        """One request of the client's: status and body, 0 and why not."""
        return self._asked(self.hosts.client, host, port, method, path, body)

    def _asked(self, where, host, port, method, path, body):
        done = self.hosts.run(where, sys.executable, "-c", ASK, host, port, method, path, body)
        return json.loads(done.stdout)

    def infer(self):
        """The client asks the model, through the firewall."""
        tensor = {"name": "input", "datatype": "FP32", "shape": [1, FEATURES]}
        body = json.dumps({"inputs": [{**tensor, "data": [0.5] * FEATURES}]})
        return self.asked(self.hosts.ipv4, FIREWALL, "POST", f"/v2/models/{MODEL}/infer", body)

    @property
    def everywhere(self):
        """The pod's addresses, as the client writes them."""
        return [self.hosts.ipv4, self.hosts.ipv6, self.hosts.link_local]


@pytest.fixture
def pod(tmp_path):
    needed()
    with Namespaces() as hosts:
        pod = Pod(tmp_path, hosts)
        try:
            yield pod
        finally:
            pod.stop()


def exposure(lines):
    return [line for line in lines if ": exposure." in line]


def test_the_model_is_reached_through_the_firewall_alone(pod):
    hosts = pod.hosts
    pod.serve_model("127.0.0.1")
    pod.serve_firewall()
    scan = hosts.start(hosts.client, sys.executable, SCAN, *pod.everywhere)

    status, body = pod.infer()
    assert (status, json.loads(body)["outputs"][0]["data"]) == (200, [3])
    status, lines = pod.bartizan("pod", "doctor")
    assert status == 0, lines
    (line,) = exposure(lines)
    assert line.startswith(f"ok: exposure.port: {MODEL}: port {MODEL_PORT} listens on loopback")
    status, lines = pod.bartizan("client", "doctor", "--outside", hosts.ipv4)
    assert (status, len([line for line in exposure(lines) if line.startswith("ok: ")])) == (0, 2)

    found, errors = scan.communicate(timeout=60)
    assert json.loads(found) == {
        hosts.ipv4: [FIREWALL], hosts.ipv6: [], hosts.link_local: []
    }, errors  # fmt: skip


def test_a_model_that_is_bound_to_every_address_shows_and_a_packet_filter_mends_it(pod):
    hosts = pod.hosts
    pod.serve_model("")
    pod.serve_firewall()
    for address in pod.everywhere:
        assert pod.asked(address, MODEL_PORT)[0] == 200, address
    assert pod.asked(hosts.ipv4, ADMIN_PORT)[0] == 0

    status, lines = pod.bartizan("pod", "doctor")
    (line,) = exposure(lines)
    assert status == 1
    assert line.startswith(
        f"wrong: exposure.port: {MODEL}: port {MODEL_PORT}, the model's, answers"
    )
    assert all(address in line for address in pod.everywhere), line
    status, lines = pod.bartizan("client", "doctor", "--outside", hosts.ipv4)
    assert (status, exposure(lines)[0].split(": ")[0]) == (1, "wrong")

    # What a NetworkPolicy does: of what comes from elsewhere, the firewall's port alone.
    _admit_the_firewall_alone(hosts)
    for address in pod.everywhere:
        assert pod.asked(address, MODEL_PORT)[0] == 0, address
    assert pod.infer()[0] == 200
    status, lines = pod.bartizan("client", "doctor", "--outside", hosts.ipv4)
    assert (status, len([line for line in exposure(lines) if line.startswith("ok: ")])) == (0, 2)


def _admit_the_firewall_alone(hosts):
    rules = {
        "iptables": ["!", "--dport", str(FIREWALL), "-j", "REJECT", "--reject-with", "tcp-reset"],
        "ip6tables": ["-j", "REJECT", "--reject-with", "tcp-reset"],
    }
    program = tool("iptables")
    for name, rule in rules.items():
        command = program.removesuffix("iptables") + name
        words = ["-A", "INPUT", "!", "-i", "lo", "-p", "tcp", *rule]
        done = hosts.run(hosts.pod, command, *words)
        assert done.returncode == 0, done.stderr
