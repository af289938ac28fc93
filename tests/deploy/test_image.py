"""The image: built for real, looked into, and run as a hardened container would run it.

``tests/deploy/image_build.py`` builds it, ``image_run.py`` runs it.
"""

import json
import os
import re
import stat
import subprocess

import image_build
import image_run
import numpy as np
import pytest
import yaml
from image_run import USER

from loadtest.payloads import infer_request, infer_target
from loadtest.process import Process
from loadtest.wire import Session, render_request

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
MIB = 2**20


@pytest.fixture(scope="module")
def image():
    return image_build.built()


@pytest.fixture(scope="module")
def environment(image):
    return list(image.configuration["Env"])


@pytest.fixture(scope="module")
def in_image(image, environment):
    """Runs a program in the image: ``in_image("bartizan", "--version")``."""

    def run(*arguments, more=(), check=True, **mounts):
        done = subprocess.run(
            image_run.command(image.root, [*environment, *more], list(arguments), **mounts),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run


def walk(root):
    """Every path in the image with its status; symbolic links are not followed."""
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)  # noqa: PTH118 - tens of thousands
            yield path.removeprefix(str(root)), os.lstat(path)


def test_the_dockerfile_is_clean(run_tool, deploy):
    assert not run_tool("hadolint", deploy / "image/Dockerfile").stdout


def test_it_is_configured_as_documented(image):
    found = image.configuration
    assert found["User"] == "65532:65532"
    assert found["Entrypoint"] == ["bartizan"]
    assert found["Cmd"] == ["run", "/etc/bartizan/bartizan.yaml"]
    assert found["StopSignal"] in {"SIGTERM", "15"}
    assert set(found["ExposedPorts"]) == {f"{port}/tcp" for port in (8080, 8001, 9002, 9090)}
    assert found["Healthcheck"]["Test"][1:] == ["bartizan", "health", "/etc/bartizan/bartizan.yaml"]
    labels = {
        key.removeprefix("org.opencontainers.image."): v for key, v in found["Labels"].items()
    }
    assert labels["version"] == image_build.ARGUMENTS["VERSION"]
    assert labels["revision"] == image_build.REVISION
    assert labels["source"] == image_build.ARGUMENTS["SOURCE"]
    assert labels["base.name"] == image_build.BASE
    assert labels["licenses"] == "Apache-2.0"
    assert (image.root / labels["bartizan.sbom"].lstrip("/")).is_file()


def test_nothing_is_in_it_that_a_server_does_not_need(image):
    programs = re.compile(r"/s?bin/(gcc|cc|c\+\+|g\+\+|ld|as|make|clang|pip[0-9.]*|git)(-[0-9]+)?$")
    packages = re.compile(
        r"/(site|dist)-packages/(pip|setuptools|wheel|sklearn|scipy|pyarrow|pandas|pytest|joblib|"
        r"hypothesis|cyclonedx|hatchling)(/|-|$)|/ensurepip/|/opt/bartizan/.*/tests/|\.whl$"
    )
    left_over = re.compile(r"/(\.git|\.env|id_rsa)$|^/(src|tools|dist)$")
    paths = [path for path, _ in walk(image.root)]
    assert len(paths) > 5000
    for unwanted in (programs, packages, left_over):
        assert [path for path in paths if unwanted.search(path)] == []
    assert sorted(path.name for path in (image.root / "opt/bartizan/bin").iterdir()) == [
        *("bartizan", "python", "python3", "python3.11"),
    ]


def test_its_user_can_write_nothing_but_two_mount_points(image):
    writable, privileged = set(), []
    for path, status in walk(image.root):
        mode = status.st_mode
        if stat.S_ISLNK(mode):
            continue
        if status.st_uid == USER or status.st_gid == USER or mode & stat.S_IWOTH:
            writable.add(path)
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            privileged.append(path)
    ours = {"/var/log/bartizan", "/var/lib/bartizan", "/var/lib/bartizan/bundles"}
    assert writable == ours | {"/tmp", "/var/tmp", "/run/lock"}  # the last as in any Debian
    assert privileged == []


def test_it_is_no_larger_than_stated(image):
    seen = {status.st_ino: status.st_size for _, status in walk(image.root)}
    assert sum(seen.values()) < 600 * MIB


def test_the_bill_of_materials_is_what_is_installed(image):
    place = image.root / image.configuration["Labels"]["bartizan.sbom"].lstrip("/")
    document = json.loads(place.read_text())
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["name"] == "bartizan"
    listed = {part["name"].lower(): part for part in document["components"]}
    installed = {}
    for metadata in image.root.glob("opt/bartizan/lib/python3*/site-packages/*.dist-info/METADATA"):
        fields = dict(re.findall(r"^(Name|Version): (.+)$", metadata.read_text(), re.M))
        installed[fields["Name"].lower()] = fields["Version"]
    assert len(installed) > 30
    assert installed.pop("bartizan") == document["metadata"]["component"]["version"]
    assert {
        name: part["version"] for name, part in listed.items() if name != "bartizan"
    } == installed
    assert [name for name, part in listed.items() if not part.get("licenses")] == []
    assert all(part["purl"].startswith("pkg:pypi/") for part in listed.values() if "purl" in part)


def test_the_kernels_are_taken_from_the_image_and_not_compiled(in_image):
    if "avx2" not in open("/proc/cpuinfo").read():  # noqa: PTH123, SIM115 - a pseudo file
        pytest.skip("this CPU is not x86-64-v3")
    probe = (
        "from detectors import native; from detectors.patterns import native as patterns\n"
        "native.load(); patterns.load()"
    )
    said = in_image("python", "-c", probe, more=["NUMBA_DEBUG_CACHE=1"]).stdout
    assert said.count("data loaded from '/opt/bartizan/kernels/") == 5
    assert "saved" not in said


def test_it_serves_with_a_read_only_root(
    image, environment, in_image, tmp_path, recorder, digits_bundle, images, free_port
):
    """As uid 65532 without capabilities: /healthz, /readyz, an inference, its own health check."""
    port, admin = free_port(), free_port()
    configuration, logs = tmp_path / "etc", tmp_path / "log"
    configuration.mkdir()
    logs.mkdir()
    os.chown(logs, USER, USER)
    (configuration / "digits.bundle").write_bytes(digits_bundle.read_bytes())
    settings = {
        "listen": f"127.0.0.1:{port}",
        "admin": {"listen": f"127.0.0.1:{admin}"},
        "audit": {"path": f"{image_run.LOGS}/audit.jsonl"},
        "endpoints": [
            {
                "name": "digits",
                "match": "/v2/models/digits",
                "upstream": "http://{}:{}".format(*recorder.address),
                "bundle": "digits.bundle",
                "false_positive_budget": 0.02,
            }
        ],
    }
    (configuration / "bartizan.yaml").write_text(yaml.safe_dump(settings))
    mounts = {"configuration": configuration, "logs": logs}
    arguments = [*image.configuration["Entrypoint"], *image.configuration["Cmd"]]
    gateway = Process(
        "bartizan in the image",
        image_run.command(image.root, environment, arguments, **mounts),
        tmp_path / "bartizan.log",
    )

    def ask(path):
        with Session(("127.0.0.1", admin)) as session:
            return session.exchange(render_request("GET", path, f"127.0.0.1:{admin}")).status

    def ready():
        try:
            return ask("/readyz") == 200
        except (OSError, ValueError):
            return False

    try:
        gateway.wait_until(ready, 60)
        assert ask("/healthz") == 200
        target = infer_target("digits")
        with Session(("127.0.0.1", port)) as session:
            honest = infer_request(images[:1].astype(np.float32), f"127.0.0.1:{port}", target)
            odd = infer_request(np.full((1, 64), 50, np.float32), f"127.0.0.1:{port}", target)
            assert [session.exchange(request).status for request in (honest, odd)] == [200, 403]
        test = image.configuration["Healthcheck"]["Test"][1:]
        assert in_image(*test, **mounts).stdout == "ok\n"
        process = f"/proc/{gateway.pid}"
        status = dict(
            line.split(":", 1)
            for line in open(f"{process}/status").read().splitlines()  # noqa: PTH123, SIM115
        )
        assert status["Uid"].split() == [str(USER)] * 4
        assert (int(status["CapEff"], 16), int(status["CapBnd"], 16)) == (0, 0)
        assert status["NoNewPrivs"].strip() == "1"
        touched = in_image("python", "-c", "open('/opt/x', 'w')", check=False)
        assert "Read-only file system" in touched.stderr
    finally:
        code = gateway.stop(40)
    assert code == 0, gateway.tail()
    assert (logs / "audit.jsonl").stat().st_size > 0
    gone = in_image(*image.configuration["Healthcheck"]["Test"][1:], check=False, **mounts)
    assert gone.returncode == 4
