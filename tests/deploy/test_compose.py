"""deploy/compose: each file by its own tool, and all of them as processes that find each other.

There need be no Docker engine: the firewall runs with the very configuration that compose.yaml
mounts, Redis and Prometheus with the very commands, and only names and paths of containers are
replaced by this machine's.
"""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from loadtest.payloads import infer_target
from loadtest.process import BARTIZAN, Process, accepts
from loadtest.wire import Session, render_request

TOKEN = "a-token-of-the-test-0123456789"


@pytest.fixture(scope="module")
def folder(deploy):
    return deploy / "compose"


@pytest.fixture(scope="module")
def compose(folder):
    return yaml.safe_load((folder / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def services(compose):
    return compose["services"]


def mounts(service):
    """{target: source} of a service's bind mounts and volumes."""
    found = {}
    for volume in service.get("volumes", ()):
        if isinstance(volume, str):
            source, target = volume.split(":")[:2]
        else:
            source, target = volume["source"], volume["target"]
        found[target] = source
    return found


def test_it_is_a_compose_file(run_tool, folder):
    run_tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", folder / "compose.yaml")


def test_every_service_is_hardened(services):
    assert set(services) == {"bundle", "model", "redis", "firewall", "prometheus", "grafana"}
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        if "build" not in service:
            assert re.fullmatch(r"docker\.io/\S+:v?\d+\.\d+\S*", service["image"]), name


def test_the_model_is_reached_from_the_firewall_alone(compose, services):
    assert services["model"]["networks"] == ["models"]
    assert "ports" not in services["model"]
    assert compose["networks"]["models"] == {"internal": True}
    assert [n for n, s in services.items() if "models" in s.get("networks", ())] == [
        *("model", "firewall")
    ]
    assert [n for n, s in services.items() if "state" in s.get("networks", ())] == [
        *("redis", "firewall")
    ]
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_whatever_it_names_is_there(compose, services, folder):
    for name, service in services.items():
        assert set(service.get("networks", ())) <= set(compose["networks"]), name
        assert set(service.get("secrets", ())) <= set(compose["secrets"]), name
        assert set(service.get("depends_on", ())) <= set(services), name
        for needed, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[needed], name
        for source in mounts(service).values():
            if source.startswith("."):
                assert (folder / source).is_file(), source
            else:
                assert source in compose["volumes"], source
        if "build" in service:
            build = service["build"]
            dockerfile = folder / build["context"] / build["dockerfile"]
            assert re.search(rf"^FROM \S+ AS {build['target']}$", dockerfile.read_text(), re.M)


def test_secrets_are_files_that_git_does_not_take(compose, folder, repository):
    files = [secret["file"] for secret in compose["secrets"].values()]
    assert len(files) == 2
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *files, ".env"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [*files, ".env"]
    ignored = (repository / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"  # and compose's folder is not taken up again
    assert not [line for line in ignored if line.startswith("!deploy/compose")]


def test_grafana_is_provisioned_with_what_is_mounted(services, folder, deploy):
    """As https://grafana.com/docs/grafana/latest/administration/provisioning/ has the two files."""
    mounted = mounts(services["grafana"])
    assert mounted["/etc/grafana/provisioning/datasources/bartizan.yaml"] == (
        "./grafana/datasource.yaml"
    )
    assert mounted["/etc/grafana/provisioning/dashboards/bartizan.yaml"] == (
        "./grafana/dashboards.yaml"
    )
    source = yaml.safe_load((folder / "grafana/datasource.yaml").read_text())
    assert set(source) == {"apiVersion", "datasources"}
    (datasource,) = source["datasources"]
    assert {"name", "type", "access", "url"} <= set(datasource)
    assert (source["apiVersion"], datasource["type"]) == (1, "prometheus")
    assert datasource["access"] == "proxy"
    assert datasource["url"] == "http://prometheus:9090"
    boards = yaml.safe_load((folder / "grafana/dashboards.yaml").read_text())
    assert set(boards) == {"apiVersion", "providers"}
    (provider,) = boards["providers"]
    assert provider["type"] == "file"
    path = f"{provider['options']['path']}/bartizan.json"
    assert (folder / mounted[path]).resolve() == deploy / "monitoring/dashboard.json"
    dashboard = json.loads((folder / mounted[path]).read_text())
    assert "__inputs" not in dashboard  # those are asked for by hand: a provisioned one has none
    assert dashboard["uid"]


def test_prometheus_is_configured(run_tool, services, folder, tmp_path):
    configuration = _prometheus(services, folder, tmp_path, "firewall:9090")
    said = run_tool("promtool", "check", "config", configuration)
    assert re.search(r"SUCCESS: \d+ rules found", said.stdout + said.stderr)


def test_prometheus_and_the_firewall_agree(services, folder):
    firewall = yaml.safe_load((folder / "bartizan.yaml").read_text())
    scraped = yaml.safe_load((folder / "prometheus.yml").read_text())["scrape_configs"][0]
    host, port = scraped["static_configs"][0]["targets"][0].split(":")
    assert host in services
    assert host in firewall["admin"]["hosts"]
    assert firewall["admin"]["listen"].endswith(f":{port}")
    assert scraped["authorization"]["credentials_file"] == "/run/secrets/admin-token"
    assert "admin-token" in services["prometheus"]["secrets"]
    assert firewall["admin"]["token"] == "${BARTIZAN_ADMIN_TOKEN}"
    asked = set(re.findall(r"\$\{(\w+)", (folder / "bartizan.yaml").read_text()))
    assert asked == set(services["firewall"]["environment"])
    assert services["firewall"]["ports"] == ["127.0.0.1:8080:8080"]
    assert firewall["listen"].endswith(":8080")
    assert set(services["firewall"]["networks"]) & set(services["prometheus"]["networks"])


@pytest.fixture
def started(tmp_path):
    """Starts a program, which ends with the test: ``started(name, command, **environment)``."""
    running = []

    def start(name, command, **environment):
        one = Process(name, command, tmp_path / f"{name}.log", environment=environment)
        running.append(one)
        return one

    yield start
    for one in reversed(running):
        one.stop(40)


@pytest.fixture
def demo(repository, tmp_path):
    """What the image's target ``demo`` has in its folder."""
    made = tmp_path / "demo"
    program = repository / "deploy/image/demo.py"
    subprocess.run([sys.executable, "-P", str(program), str(made)], check=True)
    return made


@pytest.fixture
def model(repository, demo, started):
    """Address of the model server, as the Dockerfile starts it."""
    text = (repository / "deploy/image/Dockerfile").read_text()
    stage = text[text.index("FROM base AS demo") :]
    command = json.loads(re.search(r"^ENTRYPOINT (.*)$", stage, re.M)[1])
    assert command[0] == "python"
    command = [argument.replace("0.0.0.0:8081", "127.0.0.1:0") for argument in command]
    shell = (
        f"cd {shlex.quote(str(demo))} && exec {shlex.join([sys.executable, '-P', *command[1:]])}"
    )
    return started("model", ["sh", "-c", shell]).wait_for_line()


def test_the_services_find_each_other(
    services, folder, tool, started, demo, model, free_port, tmp_path
):
    ports = {name: free_port() for name in ("redis", "firewall", "admin", "prometheus")}
    command = services["redis"]["command"]
    redis = [tool(command[0]), *command[1:], "--bind", "127.0.0.1", "--port", str(ports["redis"])]
    started("redis", redis)

    # The very file: names of services and paths of containers are replaced, and nothing else.
    text = (folder / "bartizan.yaml").read_text()
    replaced = {
        "listen: 0.0.0.0:8080": f"listen: 127.0.0.1:{ports['firewall']}",
        "redis://redis:6379": f"redis://127.0.0.1:{ports['redis']}",
        "listen: 0.0.0.0:9090": f"listen: 127.0.0.1:{ports['admin']}",
        "http://model:8081": "http://{}:{}".format(*model),
        "/var/log/bartizan/": f"{tmp_path}/",
        "/var/lib/bartizan/bundles/": f"{demo}/",
    }
    for there, here in replaced.items():
        assert text.count(there) == 1, there
        text = text.replace(there, here)
    configuration = tmp_path / "bartizan.yaml"
    configuration.write_text(text)
    environment = {"BARTIZAN_ADMIN_TOKEN": TOKEN, "BARTIZAN_CLIENT_SECRET": TOKEN[::-1]}
    firewall = started("firewall", [*BARTIZAN, "run", str(configuration)], **environment)

    def admin(path, host, token=None):
        headers = [("Authorization", f"Bearer {token}")] if token else []
        with Session(("127.0.0.1", ports["admin"])) as session:
            return session.exchange(render_request("GET", path, host, headers=headers)).status

    # The health check that compose.yaml gives it, and the name by which Prometheus calls it.
    check = services["firewall"]["healthcheck"]["test"][2:-1]

    def healthy():
        done = subprocess.run(
            [*BARTIZAN, *check, str(configuration)],
            env={**os.environ, **environment},
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    firewall.wait_until(healthy, 60)
    assert admin("/metrics", "firewall:9090", TOKEN) == 200
    assert admin("/metrics", "firewall:9090") == 401
    assert admin("/metrics", "elsewhere:9090", TOKEN) not in {200, 401}

    assert services["bundle"]["entrypoint"][1:] == [
        *("/srv/demo/digits.bundle", "/var/lib/bartizan/bundles/digits.bundle")
    ]
    for name, status in {"honest": 200, "odd": 403, "malformed": 400}.items():
        body, head = (demo / f"{name}.json").read_bytes(), [("Content-Type", "application/json")]
        request = render_request("POST", infer_target("digits"), "localhost", body, head)
        with Session(("127.0.0.1", ports["firewall"])) as session:
            assert session.exchange(request).status == status, name
    keys = subprocess.run(
        ["redis-cli", "-p", str(ports["redis"]), "dbsize"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert int(keys) > 0  # the state is shared there

    written = _prometheus(services, folder, tmp_path, f"127.0.0.1:{ports['admin']}")
    arguments = [
        argument.replace("/etc/prometheus/prometheus.yml", str(written)).replace(
            "=/prometheus", f"={tmp_path}/series"
        )
        for argument in services["prometheus"]["command"]
    ]
    where = f"127.0.0.1:{ports['prometheus']}"
    prometheus = started(
        "prometheus", [tool("prometheus"), *arguments, f"--web.listen-address={where}"]
    )
    prometheus.wait_until(lambda: accepts(("127.0.0.1", ports["prometheus"])))

    def scraped():
        with Session(("127.0.0.1", ports["prometheus"])) as session:
            answer = session.exchange(
                render_request("GET", "/api/v1/query?query=bartizan_build_info", where)
            )
        return answer.status == 200 and json.loads(answer.body)["data"]["result"]

    prometheus.wait_until(scraped)
    assert scraped()[0]["metric"]["job"] == "bartizan"


def _prometheus(services, folder, tmp_path, target):
    """prometheus.yml with its neighbours, where this machine has them; scrapes every second."""
    mounted = mounts(services["prometheus"])
    text = (folder / mounted["/etc/prometheus/prometheus.yml"]).read_text()
    (tmp_path / "alerts.yaml").write_bytes(
        (folder / mounted["/etc/prometheus/alerts.yaml"]).read_bytes()
    )
    (tmp_path / "admin-token").write_text(TOKEN + "\n")  # as openssl leaves it
    for there, here in {
        "/run/secrets/admin-token": f"{tmp_path}/admin-token",
        "firewall:9090": target,
        "scrape_interval: 15s": "scrape_interval: 1s",
    }.items():
        assert text.count(there) == 1, there
        text = text.replace(there, here)
    written = tmp_path / "prometheus.yml"
    written.write_text(text)
    return written
