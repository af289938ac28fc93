"""A rendered container as a process: its arguments, environment, configuration and mounts, in a
network namespace of its own, and from outside what the kubelet, clients and Prometheus ask.

What differs from a pod: mounts are folders, whose paths take the place of theirs in the
configuration, and the names of other Services are the pod's own loopback.
"""

import json
import shutil
import sys

import pytest
from authority import Authority
from deploy_tools import tool
from kubernetes_chart import configuration, firewall, mapped, one, pod, rendered
from namespaces import Namespaces, needed
from recorder import FEATURES, MODEL, PROGRAM

from loadtest.process import BARTIZAN, Process

SECRETS = {
    "BARTIZAN_ADMIN_TOKEN": "a-token-of-the-operator",
    "BARTIZAN_REDIS_URL": "redis://127.0.0.1:6379/0",
    "BARTIZAN_REDIS_PASSWORD": "a-password",
    "BARTIZAN_CLIENT_SECRET": "a-secret-for-pseudonyms",
}
KEY = "sesame"
KEY_SHA256 = "d0c04f4b1951e4aeaaec8223ed2039e542f3aae805a6fa7f6d794e5afff5d272"
ROWS = {
    "inputs": [
        {"name": "input", "datatype": "FP32", "shape": [1, FEATURES], "data": [0.0] * FEATURES}
    ]
}
ASK = """
import json, ssl, sys, urllib.error, urllib.request
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
for url, headers, body in json.load(sys.stdin):
    request = urllib.request.Request(url, body and json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            print(json.dumps([answer.status, answer.read().decode()]))
    except urllib.error.HTTPError as error:
        print(json.dumps([error.code, error.read().decode()]))
    except OSError as error:
        print(json.dumps([0, str(error)]))
"""


class Running:
    """A variant's pod: the model beside it or behind it, and the firewall's container."""

    def __init__(self, variant, folder, hosts):
        self.objects = rendered(variant)
        self._folder, self._hosts = folder, hosts
        self._processes = []
        _labels, self.spec = pod(self.objects)
        self.container = firewall(self.spec)
        self.mounts = {}
        for mount in self.container["volumeMounts"]:
            self.mounts[mount["mountPath"]] = folder / mount["mountPath"].strip("/")
            self.mounts[mount["mountPath"]].mkdir(parents=True)

    def start(self, model, *, bundle):
        """Starts it all as the kubelet would: the container's own words, and nothing else."""
        text = configuration(self.objects)
        for name in ("digits.models:8080", "fraud.models:8080"):
            text = text.replace(name, f"127.0.0.1:{model}")
        text = mapped(text, self.mounts)
        self.mounts["/etc/bartizan"].joinpath("bartizan.yaml").write_text(text)
        if "/var/lib/bartizan/bundles" in self.mounts:
            shutil.copy(bundle, self.mounts["/var/lib/bartizan/bundles"] / "digits.bundle")
        if "/var/lib/bartizan/keys" in self.mounts:
            keys = self.mounts["/var/lib/bartizan/keys"] / "api-keys"
            keys.write_text(f"tester:{KEY_SHA256}\n")
        if "/var/lib/bartizan/tls" in self.mounts:
            certificate, key = Authority(self._folder).issue("bartizan")
            shutil.copy(certificate, self.mounts["/var/lib/bartizan/tls"] / "tls.crt")
            shutil.copy(key, self.mounts["/var/lib/bartizan/tls"] / "tls.key")
        if "state:" in text:
            password = SECRETS["BARTIZAN_REDIS_PASSWORD"]
            redis = [tool("redis-server"), "--requirepass", password, "--save", "", "--port", 6379]
            self._run("redis", redis)
        seen = self._folder / "seen.jsonl"
        models = [f"{MODEL}={FEATURES}", f"fraud={FEATURES}"]
        self._run("model", [sys.executable, PROGRAM, f"127.0.0.1:{model}", seen, *models])
        environment = {}
        for variable in self.container["env"]:
            assert variable["valueFrom"]["secretKeyRef"]["name"] == "bartizan"
            environment[variable["name"]] = SECRETS[variable["name"]]
        assert "command" not in self.container  # the image's: ENTRYPOINT ["bartizan"]
        command = [*BARTIZAN, *(mapped(word, self.mounts) for word in self.container["args"])]
        gateway = self._run("bartizan", command, environment=environment)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            gateway.wait_until(lambda probe=probe: self.probe(probe) == 200)
        return gateway

    def _run(self, name, command, environment=None):
        command = self._hosts.within(self._hosts.pod, command)
        process = Process(name, command, self._folder / f"{name}.log", environment=environment)
        self._processes.append(process)
        return process

    def stop(self):
        while self._processes:
            self._processes.pop().stop()

    def ask(self, *asked):
        """``(URL with POD for the pod's address, headers, body)`` each, asked from outside."""
        asked = [(url.replace("POD", self._hosts.ipv4), head, body) for url, head, body in asked]
        done = self._hosts.run(
            self._hosts.client, sys.executable, "-c", ASK, input=json.dumps(asked)
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    def probe(self, name):
        """What the kubelet is answered."""
        get = self.container[name]["httpGet"]
        ((status, _body),) = self.ask((f"http://POD:{get['port']}{get['path']}", {}, None))
        return status


@pytest.mark.parametrize(
    ("variant", "scheme", "headers"),
    [("gateway", "https", {"x-api-key": KEY}), ("sidecar", "http", {})],
)
def test_the_rendered_container_serves(variant, scheme, headers, tmp_path, digits_bundle):
    needed()
    with Namespaces() as hosts:
        running = Running(variant, tmp_path, hosts)
        try:
            gateway = running.start(8081, bundle=digits_bundle)
            name = one(running.objects, "Deployment")["metadata"]["name"]
            (clients,) = one(running.objects, "Service", name)["spec"]["ports"]
            (admin,) = one(running.objects, "Service", f"{name}-admin")["spec"]["ports"]
            assert clients["appProtocol"] == scheme
            metrics = f"http://POD:{admin['targetPort']}/metrics"
            token = {"Authorization": f"Bearer {SECRETS['BARTIZAN_ADMIN_TOKEN']}"}
            model = f"{scheme}://POD:{clients['targetPort']}/v2/models/{MODEL}/infer"
            json_ = {"Content-Type": "application/json"}
            answers = running.ask(
                (model, {**headers, **json_}, ROWS),
                (model, {**headers, **json_}, {"inputs": []}),
                (metrics, token, None),
                (metrics, {}, None),
                ("http://POD:8081/v2/models/digits", {}, None),
            )
            honest, empty, scraped, unknown, around = answers
            assert honest[0] == 200, honest
            assert "outputs" in honest[1]
            # Monitor mode refuses nothing: the model itself answered this.
            assert empty[0] == 200, empty
            assert scraped[0] == 200
            assert "bartizan_build_info{" in scraped[1]
            assert "bartizan_upstream_in_flight{" in scraped[1]
            assert "bartizan_loop_queue_seconds " in scraped[1]
            assert unknown[0] == 401
            # The model binds the pod's loopback: past the firewall there is nothing.
            assert around[0] == 0, around
            # Nothing was written but where the container may write.
            assert [file.name for file in running.mounts["/etc/bartizan"].iterdir()] == [
                "bartizan.yaml"
            ]
            assert (running.mounts["/var/log/bartizan"] / "audit.jsonl").exists()
            # As the kubelet ends it: in order, and within the pod's time.
            assert gateway.stop(running.spec["terminationGracePeriodSeconds"]) == 0
        finally:
            running.stop()
