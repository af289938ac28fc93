"""What every test may ask for: the repository, data beside it, ports, the sizes of long runs."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from gateway import Gateway
from handwritten import digits
from hypothesis import HealthCheck, settings
from recorder import Recorder
from xdist.scheduler import LoadFileScheduling

from loadtest import process
from loadtest.process import BARTIZAN

REPOSITORY = Path(__file__).resolve().parent.parent

# Tests that import onnxruntime themselves: it reports to its makers otherwise.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# A busy machine is not a fault: no test of ours fails by the clock.
settings.register_profile(
    "project",
    parent=settings.get_profile("ci" if os.environ.get("CI") else "default"),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("project")


def pytest_addoption(parser):
    group = parser.getgroup("bartizan")
    group.addoption("--soak", action="store_true", help="run the tests marked soak")
    group.addoption("--soak-seconds", type=float, default=600.0, help="how long a soak lasts")
    group.addoption(
        "--observations", metavar="DIR", help="where tests of real clients note what they saw"
    )
    group.addoption(
        "--mutations", type=int, default=100_000, help="how many seeded mutations are tried"
    )


# Folders whose tests wait for other programs. They come first: where files are spread over
# processes, the short ones fill up the end.
SLOW = ("deploy", "real", "e2e", "soak", "loadtest")

# Each of these asks for the session's MLServer, its Triton or both: in one process, each server
# starts once.
TOGETHER = tuple(
    f"tests/real/test_{name}.py"
    for name in ("refusals", "same_answers", "shaped_answers", "triton_crashes", "real_envoy")
)


class Spread(LoadFileScheduling):
    """A file at a time, for what it sets up; and those that share servers as if they were one."""

    def _split_scope(self, nodeid):
        file = super()._split_scope(nodeid)
        return TOGETHER[0] if file in TOGETHER else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Spread(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(config, items):
    def place(item):
        folder = item.path.relative_to(REPOSITORY / "tests").parts[0]
        return SLOW.index(folder) if folder in SLOW else len(SLOW)

    items.sort(key=place)
    if config.getoption("--soak"):
        return
    skip = pytest.mark.skip(reason="minutes long: run with --soak")
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def repository():
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared():
    """Path of a file beside the checkout (``shared("data/wdbc.npz")``), or a skip."""

    def locate(name):
        path = REPOSITORY.parent / "shared" / name
        if not path.exists():
            pytest.skip(f"../shared/{name} is not beside this checkout")
        return path

    return locate


@pytest.fixture(scope="session")
def free_port():
    """A TCP port of 127.0.0.1 that nothing listens on: ``free_port()``."""
    return process.free_port


@pytest.fixture
def gateway(tmp_path_factory):
    """Starts a firewall: ``gateway(endpoints, **sections)``. All are ended with the test.

    With ``wait=False`` it is launched, and the test waits for what it wants to see.
    """
    started = []

    def start(endpoints, *, wait=True, **sections):
        one = Gateway(tmp_path_factory.mktemp("gateway"), endpoints, **sections)
        started.append(one)
        return one.start() if wait else one.launch()

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def silent_recorder(tmp_path, free_port):
    """A model server that is not started yet."""
    recorder = Recorder(tmp_path, free_port())
    yield recorder
    recorder.stop()


@pytest.fixture
def recorder(silent_recorder):
    """A running model server."""
    return silent_recorder.start()


@pytest.fixture(scope="session")
def images():
    """(597, 64) float64: digits on which ``digits_bundle`` was not fitted."""
    return digits()[1200:]


@pytest.fixture(scope="session")
def digits_bundle(tmp_path_factory):
    """A bundle fitted on the other digits, by the command line."""
    folder = tmp_path_factory.mktemp("bundle")
    np.save(folder / "digits.npy", digits()[:1200].astype(np.float32))
    bundle = folder / "digits.bundle"
    fit = ["fit", "--data", str(folder / "digits.npy"), "--out", str(bundle), "--json"]
    subprocess.run(
        [*BARTIZAN, *fit, "--false-positive-budget", "0.02"],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return bundle


@pytest.fixture(scope="session")
def soak_seconds(request):
    """How long a soak lasts, in seconds (``--soak-seconds``)."""
    return request.config.getoption("--soak-seconds")
