"""Real model servers and real clients, each where its own environment is installed."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from absence import absent
from gateway import Gateway
from real_client import Client
from real_driver import Driver
from real_guard import Guarded
from real_mlserver import MLServer
from real_servers import COLUMNS, DATATYPES
from real_table import Observations
from real_triton import Triton

from loadtest.process import BARTIZAN

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def environment(repository):
    """The root of a real program's own environment; ``absent`` where it is not installed."""

    def locate(name):
        root = repository / f".venv-{name}"
        if not (root / ".installed").exists():
            absent(root.name, f"{root.name} is not installed: make real-environments")
        return root

    return locate


@pytest.fixture(scope="session")
def observe(request):
    """Notes what a test saw of a server and a client, for the tables of the documentation."""
    return Observations(request.config.getoption("--observations"))


@pytest.fixture(scope="session")
def driver(environment, tmp_path_factory):
    """Real clients' programs: ``driver("clients", "boto3_driver.py")``."""
    running = {}

    def start(name, program):
        if program not in running:
            log = tmp_path_factory.mktemp("driver") / "stderr"
            running[program] = Driver(environment(name) / "bin" / "python", program, log)
        return running[program]

    yield start
    for one in running.values():
        one.close()


@pytest.fixture(scope="session")
def linear_bundle(tmp_path_factory):
    """A bundle for the linear model: honest rows are standard normal."""
    folder = tmp_path_factory.mktemp("linear")
    rows = np.random.default_rng(31).normal(size=(2000, len(COLUMNS)))
    np.save(folder / "honest.npy", rows)
    bundle = folder / "linear.bundle"
    fit = ["fit", "--data", str(folder / "honest.npy"), "--out", str(bundle), "--json"]
    fit += ["--no-patterns", "--no-agreement", "--detectors", "mahalanobis"]
    subprocess.run(
        [*BARTIZAN, *fit, "--false-positive-budget", "0.02"],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return bundle


@pytest.fixture(scope="module")
def guarded(request, environment, linear_bundle, free_port, tmp_path_factory):
    """The module's ``SERVER`` and the firewall before it, with the module's ``WAYS``."""
    kind = request.module.SERVER
    server = started(kind, environment, tmp_path_factory)
    try:
        server.wait()
        folder = tmp_path_factory.mktemp("guard")
        one = Guarded(folder, server, request.module.WAYS, linear_bundle, free_port)
        yield one
        one.gateway.stop()
    finally:
        server.stop()


def started(kind, environment, tmp_path_factory):
    """A real server, launched."""
    folder = tmp_path_factory.mktemp(kind.environment)
    server = kind(environment(kind.environment), folder)
    server.launch()
    return server


@pytest.fixture(scope="session")
def mlserver_port(environment, tmp_path_factory):
    """An MLServer that lives through the session, with every model."""
    server = started(MLServer, environment, tmp_path_factory)
    try:
        server.wait()
        yield server.port
    finally:
        server.stop()


@pytest.fixture(scope="session")
def triton(environment, tmp_path_factory):
    """A Triton that lives through the session, with every model; its ``start(port, "echo_fp32")``
    starts another.
    """
    server = started(Triton, environment, tmp_path_factory)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def triton_port(triton):
    """Where it serves."""
    return triton.port


@pytest.fixture(scope="session")
def client(environment, tmp_path_factory):
    """``tritonclient``."""
    log = tmp_path_factory.mktemp("driver") / "stderr"
    one = Client(environment("clients") / "bin" / "python", log)
    yield one
    one.close()


def guard(folder, server_port, bundle):
    """A gateway before every echo model of a server and its digits model, which is scored."""
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
