"""Real model servers and the real client, each where its own environment is installed."""

from pathlib import Path

import pytest
from gateway import Gateway
from real_client import Client
from real_servers import DATATYPES, MLServer, Triton, serving

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def environment(repository):
    """The root of a real program's own environment; skips where it is not installed."""

    def locate(name):
        root = repository / f".venv-{name}"
        if not (root / ".installed").exists():
            pytest.skip(f"{root.name} is not installed: make real-environments")
        return root

    return locate


@pytest.fixture(scope="session")
def mlserver_port(environment, free_port, tmp_path_factory):
    """An MLServer that lives through the session, with every model."""
    server = MLServer(environment("mlserver"), tmp_path_factory.mktemp("mlserver"))
    port = free_port()
    with serving(server.start(port, free_port()), port):
        yield port


@pytest.fixture(scope="session")
def triton(environment, tmp_path_factory):
    """Starts Triton: ``triton.start(port, "echo_fp32")``."""
    return Triton(environment("triton"), tmp_path_factory.mktemp("triton"))


@pytest.fixture(scope="session")
def triton_port(triton, free_port):
    """A Triton that lives through the session, with every model."""
    port = free_port()
    with serving(triton.start(port, "*"), port):
        yield port


@pytest.fixture(scope="session")
def client(environment):
    """The real client."""
    driver = Client(environment("tritonclient") / "bin" / "python")
    yield driver
    driver.close()


def guard(folder, server_port, bundle):
    """A gateway before every model of a server; the digits model is scored."""
    endpoints = [
        {
            "name": model,
            "match": f"/v2/models/{model}",
            "upstream": f"http://127.0.0.1:{server_port}",
            **({"bundle": str(bundle)} if model == "digits" else {}),
        }
        for model in ("digits", *(f"echo_{datatype.lower()}" for datatype in DATATYPES))
    ]
    gateway = Gateway(folder, endpoints)
    gateway.server_port = server_port
    return gateway.start()


@pytest.fixture(scope="session")
def guarded_mlserver(mlserver_port, digits_bundle, tmp_path_factory):
    """The firewall before MLServer; ``server_port`` leads past it."""
    gateway = guard(tmp_path_factory.mktemp("guard"), mlserver_port, digits_bundle)
    yield gateway
    gateway.stop()


@pytest.fixture(scope="session")
def guarded_triton(triton_port, digits_bundle, tmp_path_factory):
    """The firewall before Triton; ``server_port`` leads past it."""
    gateway = guard(tmp_path_factory.mktemp("guard"), triton_port, digits_bundle)
    yield gateway
    gateway.stop()
