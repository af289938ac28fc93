"""The image, built from deploy/image/Dockerfile by buildah, with no registry and no Docker engine.

The base image comes from debootstrap: Debian 12 with Python 3.11 where the official image has it.
What is built is kept under the digest of all that it was built from.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from absence import absent
from deploy_tools import REPOSITORY, tool

from loadtest.artefacts import cache_root, kept

DOCKERFILE = REPOSITORY / "deploy/image/Dockerfile"
CONTEXT = (
    *("LICENSE", "README.md", "pyproject.toml", ".dockerignore"),
    *("deploy/image", "detectors", "loadtest", "proxy", "requirements"),
)
BASE = "localhost/python:3.11-slim-bookworm"
REVISION = "0123456789abcdef0123456789abcdef01234567"
ARGUMENTS = {
    "PYTHON_IMAGE": BASE,
    "VERSION": "0.1.0",
    "REVISION": REVISION,
    "SOURCE": "https://code.example/bartizan",
}
# dpkg writes all to disk after each file otherwise.
QUICK = "force-unsafe-io\npath-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\n"


@dataclass(frozen=True)
class Image:
    """The root file system, and the image's configuration as Docker writes it."""

    root: Path
    configuration: dict


def built() -> Image:
    """The image of this checkout; a skip or a failure (``absent``) where it cannot be built."""
    for name in ("buildah", "debootstrap", "unshare"):
        tool(name)
    if os.geteuid() != 0:
        absent("root", "debootstrap and chroot need root")
    folder, _ = kept("image", _digest(), _build)
    return Image(folder / "root", json.loads((folder / "config.json").read_text()))


def _digest() -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for name in CONTEXT:
        place = REPOSITORY / name
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(REPOSITORY)}\0".encode())
                digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def _build(folder: Path) -> None:
    base, _ = kept("image-base", hashlib.sha256(QUICK.encode()).hexdigest(), _debootstrap)
    with _storage(folder) as buildah, tempfile.TemporaryDirectory(dir=folder) as name:
        host = Path(name)
        (host / "Base").write_text("FROM scratch\nADD root.tar /\n")
        buildah("build", "--tag", BASE, "--file", host / "Base", base)
        volumes = _index(host)
        arguments = [f"--build-arg={key}={value}" for key, value in ARGUMENTS.items()]
        # Docker's format: the other one has no health check.
        options = ["--format=docker", "--layers=false", *arguments, *volumes, "--tag=bartizan"]
        buildah("build", *options, "--file", DOCKERFILE, REPOSITORY)
        described = json.loads(buildah("inspect", "--type=image", "localhost/bartizan"))
        (folder / "config.json").write_text(json.dumps(described["Docker"]["config"]))
        container = buildah("from", "--pull-never", "localhost/bartizan").strip()
        Path(buildah("mount", container).strip()).rename(folder / "root")
    for place in ("etc/pip.conf", "mnt/index", "mnt/wheels"):  # where the volumes were
        left = folder / "root" / place
        if left.is_dir():
            shutil.rmtree(left)
        elif left.exists() and not left.stat().st_size:
            left.unlink()


@contextlib.contextmanager
def _storage(folder: Path):
    """buildah, with all that it keeps in a folder of its own, which goes."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        (place / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{place}/graph"\nrunroot = "{place}/run"\n'
        )
        environment = {
            **os.environ,
            "BUILDAH_ISOLATION": "chroot",
            "CONTAINERS_STORAGE_CONF": str(place / "storage.conf"),
            "STORAGE_DRIVER": "vfs",
        }

        def buildah(*arguments: object) -> str:
            return _run([tool("buildah"), *map(str, arguments)], environment)

        yield buildah


def _index(host: Path) -> list[str]:
    """Options that lend the build this machine's package index and certificates, and a cache."""
    settings = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    lines = ["[global]", "cache-dir = /mnt/wheels"]
    for line in settings.splitlines():
        key, _, value = line.partition("=")
        name, value = key.rpartition(".")[2], value.strip("'")
        if name == "cert":
            (host / "certificates.pem").write_bytes(Path(value).read_bytes())
            lines.append("cert = /mnt/index/certificates.pem")
        elif name in {"index-url", "proxy", "trusted-host"}:
            lines.append(f"{name} = {value}")
    (host / "pip.conf").write_text("\n".join(dict.fromkeys(lines)) + "\n")
    wheels = cache_root() / "image-pip"
    wheels.mkdir(parents=True, exist_ok=True)
    volumes = [(host / "pip.conf", "/etc/pip.conf:ro"), (host, "/mnt/index:ro")]
    volumes.append((wheels, "/mnt/wheels"))
    return [f"--volume={source}:{target}" for source, target in volumes]


def _debootstrap(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        root = Path(name)
        root.chmod(0o755)
        settings = root / "etc/dpkg/dpkg.cfg.d"
        settings.mkdir(parents=True)
        (settings / "quick").write_text(QUICK)
        packages = "--include=python3,python3-venv"
        _run([tool("debootstrap"), "--variant=minbase", packages, "bookworm", str(root)])
        (settings / "quick").unlink()
        (root / "usr/local/bin/python3").symlink_to("/usr/bin/python3.11")
        left_out = ["--exclude=./dev/*", "--exclude=./var/cache/apt/*"]
        _run(["tar", "-C", str(root), *left_out, "-cf", str(folder / "root.tar"), "."])


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    if done.returncode:
        pytest.fail(
            f"{' '.join(command)}: exit {done.returncode}\n{(done.stdout + done.stderr)[-4000:]}"
        )
    return done.stdout
