"""Every configuration in config/ serves: an honest request is answered, a hostile one refused.

Only what names a place is changed, mechanically: hosts, ports and paths; and there are two workers
at most. Certificates, keys, bundles, model servers and Redis are real. `ext-proc.yaml` is served to
a real Envoy in the tests of Envoy; here it starts and is healthy.
"""

import hashlib
import http.client
import json
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from authority import Authority
from example_server import FEATURES, ExampleServer
from redis_servers import ANY, RedisCluster, RedisServer

from loadtest.process import BARTIZAN, Process, free_port
from loadtest.wire import Session, render_request

CONFIG = Path(__file__).resolve().parents[2] / "config"
API_KEY = "an API key of a client"
SECRETS = {
    "BARTIZAN_ADMIN_TOKEN": "a" * 32,
    "BARTIZAN_CLIENT_SECRET": "b" * 32,
    "BARTIZAN_REDIS_PASSWORD": "c" * 16,
}
ENVIRONMENT = {**SECRETS, "BARTIZAN_ENGINE": "numpy"}  # nothing to compile: it starts sooner
HONEST = [0.1, -0.3, 0.2, 0.4]
HOSTILE = [90.0, -90.0, 90.0, -90.0]


@dataclass(frozen=True)
class Case:
    """How an example is tried.

    Attributes:
        model: the model that is asked.
        refused: what the hostile row is answered.
        recorded: the rule that the audit log has of it, if any.
    """

    name: str
    model: str
    refused: int = 403
    recorded: str | None = "BZ-300"


CASES = (
    Case("gateway.yaml", "digits"),
    Case("monitor/1-watch.yaml", "digits", refused=200, recorded=None),
    Case("monitor/2-fitted.yaml", "digits", refused=200),
    Case("monitor/3-enforce.yaml", "digits"),
    Case("mtls.yaml", "fraud"),
    Case("protocols.yaml", "digits", refused=200, recorded=None),
    Case("redis-cluster.yaml", "fraud"),
    Case("replicas.yaml", "fraud"),
    Case("sidecar.yaml", "digits"),
)


@dataclass
class World:
    """What the examples name, for real."""

    folder: object
    authority: Authority
    plain: list[ExampleServer]
    tls: ExampleServer
    bundle: str
    public_key: str

    def asked(self):
        """Inferences so far, of all model servers."""
        return sum(server.asked for server in (*self.plain, self.tls))

    def settled(self, node, state, name="", parent=""):
        """The example with the places of this machine."""
        if isinstance(node, dict):
            return {key: self.settled(value, state, key, name) for key, value in node.items()}
        if isinstance(node, list) and name == "upstream":
            return [f"http://{server.address}" for server in self.plain[: len(node)]]
        if isinstance(node, list):
            return [self.settled(value, state, name, parent) for value in node]
        match name, parent:
            case "listen", _:
                return f"127.0.0.1:{free_port()}"
            case "upstream", _ if str(node).startswith("https:"):
                return f"https://{self.tls.address}"
            case "upstream", _ if str(node).startswith("http:"):
                return f"http://{self.plain[0].address}"
            case "upstream", _:
                return node if "grpc:" in node else f"unix:{self.folder}/none.sock"
            case "state", _:
                return state
            case "certificate" | "key", "tls":
                return self.authority.issue("gateway")[name == "key"]
            case "certificate" | "key", "upstream_tls":
                return self.authority.issue("towards-the-model")[name == "key"]
            case "client_ca" | "ca", _:
                return self.authority.path
            case "bundle", _:
                return self.bundle
            case "trusted_keys", _:
                return self.public_key
            case "path", "audit":
                return "audit.jsonl"
            case "api_keys", _:
                return "api-keys"
        return node


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Certificates, two model servers, and a small signed bundle of everything."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    folder = tmp_path_factory.mktemp("examples")
    authority = Authority(folder)
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "sign.pem").write_bytes(private)
    (folder / "sign.pub.pem").write_bytes(public)
    rows = np.random.default_rng(7).normal(size=(8000, FEATURES))
    np.save(folder / "rows.npy", rows)
    np.save(folder / "answers.npy", np.tile([0.75, 0.25], (len(rows), 1)))
    np.save(folder / "labels.npy", (rows[:, 0] > 0).astype(int))
    bundle = folder / "small.bundle"
    fit = ["fit", "--data", "rows.npy", "--out", str(bundle), "--sign", "sign.pem"]
    fit += ["--detectors", "mahalanobis", "--answers", "answers.npy", "--labels", "labels.npy"]
    fit += ["--false-positive-budget", "0.0005", "--agreement", "class_density"]
    done = subprocess.run(
        [*BARTIZAN, *fit], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    plain = [ExampleServer(), ExampleServer()]
    tls = ExampleServer((*authority.issue("model"), authority.path))
    yield World(folder, authority, plain, tls, str(bundle), str(folder / "sign.pub.pem"))
    for server in (*plain, tls):
        server.stop()


def state_for(url, folder):
    """A real Redis of the kind that an example names, started, and its address; or none."""
    if url is None:
        return None, None
    if ANY is None:
        pytest.skip("no Redis server is installed")
    if url.startswith("redis+cluster:"):
        server = RedisCluster(folder, replicas=0)
    else:  # a node stands for Sentinel, which tests/proxy/state tries by itself
        server = RedisServer(folder, requirepass=SECRETS["BARTIZAN_REDIS_PASSWORD"])
    return server, server.start().url


def ask(settings, world, path, document=None, *, certificate=True):
    """One request of a client that has all that an example could want of it; status and body."""
    host, port = settings["listen"].split(":")
    if "tls" in settings:
        context = ssl.create_default_context(cafile=world.authority.path)
        if certificate and "client_ca" in settings["tls"]:
            context.load_cert_chain(*world.authority.issue("client"))
        connection = http.client.HTTPSConnection(host, int(port), timeout=20, context=context)
    else:
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
    try:
        body = None if document is None else json.dumps(document)
        headers = {"Content-Type": "application/json", "X-API-Key": API_KEY}
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def infer(settings, world, model, row):
    """One row to a model."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, FEATURES], "data": row}
    return ask(settings, world, f"/v2/models/{model}/infer", {"inputs": [tensor]})


def launch(world, folder, name, command="run", state=None):
    """An example, settled and started; its settings and the process."""
    settings = world.settled(yaml.safe_load((CONFIG / name).read_text()), state)
    if "workers" in settings:
        settings["workers"] = min(settings["workers"], 2)
    # Connections come from every address of the machine: those of the example mean nothing here.
    settings.get("client", {}).pop("trusted_proxies", None)
    (folder / "bartizan.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    digest = hashlib.sha256(API_KEY.encode()).hexdigest()
    (folder / "api-keys").write_text(f"tester:{digest}\n")
    arguments = [*BARTIZAN, command, str(folder / "bartizan.yaml")]
    return settings, Process("bartizan", arguments, folder / "log", environment=ENVIRONMENT)


def answers(settings, world, model):
    """Whether an honest request is answered by now."""
    try:
        return infer(settings, world, model, HONEST)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def records(folder):
    """The exchanges of all chains."""
    lines = [line for path in folder.glob("audit*.jsonl") for line in path.read_text().splitlines()]
    return [r for r in map(json.loads, lines) if r["type"] == "exchange"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_answers_the_honest_and_refuses_the_hostile(world, tmp_path, case):
    url = yaml.safe_load((CONFIG / case.name).read_text()).get("state")
    server, state = state_for(url, tmp_path)
    process = None
    try:
        settings, process = launch(world, tmp_path, case.name, state=state)
        process.wait_until(lambda: answers(settings, world, case.model), 60)
        asked = world.asked()
        assert infer(settings, world, case.model, HONEST)[0] == 200
        assert infer(settings, world, case.model, HOSTILE)[0] == case.refused
        passed = 2 if case.refused == 200 else 1
        assert world.asked() == asked + passed
        # The model server's control plane is nobody's, whatever the mode.
        assert ask(settings, world, "/v2/repository/index")[0] in {403, 404}
        if "client_ca" in settings.get("tls", {}):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                ask(settings, world, "/v2/repository/index", certificate=False)
    finally:
        if process is not None:
            assert process.stop(40) == 0, process.tail()
        if server is not None:
            server.stop()
    if "audit" in settings:
        found = {reason["rule"] for record in records(tmp_path) for reason in record["reasons"]}
        assert (case.recorded in found) == (case.recorded is not None)


def test_the_one_for_envoy_starts(world, tmp_path):
    settings, process = launch(world, tmp_path, "ext-proc.yaml", command="ext-proc")
    host, port = settings["admin"]["listen"].split(":")

    def ready():
        try:
            with Session((host, int(port))) as session:
                return session.exchange(render_request("GET", "/readyz", host)).status == 200
        except OSError:
            return False

    process.wait_until(ready, 60)
    assert process.stop(40) == 0, process.tail()


def test_every_example_is_tried():
    found = {str(path.relative_to(CONFIG)) for path in CONFIG.rglob("*.yaml")}
    tried = {case.name for case in CASES} | {"ext-proc.yaml"}
    assert len(CASES) == 9
    assert tried == {name for name in found if not name.startswith("policy_tests/")}
