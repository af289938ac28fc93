"""A real Envoy with the configuration of deploy/envoy, and the processor behind it.

One Envoy serves several variants of the shipped listener, each on a port of its own, and counts for
each apart: what an operator could set otherwise is a function that changes a copy of it.
"""

import contextlib
import copy
import json

import yaml
from deploy_tools import REPOSITORY, tool
from gateway import Gateway

from loadtest.process import BARTIZAN, Process, accepts, free_port
from loadtest.wire import Session, render_request

SHIPPED = REPOSITORY / "deploy" / "envoy"
_FILTER = "envoy.filters.http.ext_proc"


class Processor(Gateway):
    """A real ``bartizan ext-proc``."""

    def __init__(self, folder, endpoints, **sections):
        super().__init__(folder, endpoints, **sections)
        del self.settings["listen"]
        self.settings["ext_proc"] = {"listen": f"127.0.0.1:{self.port}"}

    def launch(self):
        """As ``Gateway``."""
        self.write()
        self._starts += 1
        log = self.folder / f"ext-proc-{self._starts}.log"
        self.process = Process("ext-proc", [*BARTIZAN, "ext-proc", str(self.configuration)], log)
        return self


def manager_of(listener):
    """The connection manager of a listener."""
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


def filter_of(listener):
    """The configuration of its ext_proc filter."""
    filters = manager_of(listener)["http_filters"]
    return next(one["typed_config"] for one in filters if one["name"] == _FILTER)


def routes_of(listener):
    """The routes of its only virtual host."""
    return manager_of(listener)["route_config"]["virtual_hosts"][0]["routes"]


class Envoy:
    """Started by :meth:`start`.

    Args:
        folder: for its configuration and log.
        model: the model server's port.
        processors: of ``bartizan ext-proc``: ports of Envoy's and of the admin listener.
        variants: name to what changes a copy of the shipped listener.
        others: further clusters by name, each a port: ``/v2/models/NAME`` leads there.

    Attributes:
        ports: of each variant.
    """

    def __init__(self, folder, model, processors, variants, others=None):
        self.folder = folder
        self.admin_port = free_port()
        self.ports = {name: free_port() for name in variants}
        settings = yaml.safe_load((SHIPPED / "envoy.yaml").read_text())
        settings["admin"]["address"] = _address(self.admin_port)
        resources = settings["static_resources"]
        [shipped] = resources["listeners"]
        upstream, processor = resources["clusters"]
        upstream["load_assignment"]["endpoints"][0]["lb_endpoints"] = [_endpoint(model)]
        processor["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
            _endpoint(port, health_check_config={"port_value": admin}) for port, admin in processors
        ]
        for check in processor["health_checks"]:
            check |= {"interval": "0.2s", "no_traffic_interval": "0.2s"}
        resources["listeners"] = []
        for name, change in variants.items():
            listener = copy.deepcopy(shipped)
            listener |= {"name": name, "address": _address(self.ports[name])}
            manager = manager_of(listener)
            manager["stat_prefix"] = name
            filter_of(listener)["message_timeout"] = "1s"
            for other in others or {}:
                route = {"cluster": other, "host_rewrite_literal": other, "timeout": "20s"}
                match = {"prefix": f"/v2/models/{other}"}
                routes_of(listener).insert(0, {"match": match, "route": route})
            change(listener)
            resources["listeners"].append(listener)
        for name, port in (others or {}).items():
            cluster = copy.deepcopy(upstream) | {"name": name}
            cluster["load_assignment"] = {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [_endpoint(port)]}],
            }
            resources["clusters"].append(cluster)
        self.settings = settings
        self.process = None

    def start(self):
        """Starts it, and waits until it can reach the processor."""
        path = self.folder / "envoy.yaml"
        path.write_text(json.dumps(self.settings))  # JSON is YAML
        command = [tool("envoy"), "-c", str(path), "--concurrency", "1"]
        command += ["--disable-hot-restart", "--log-level", "warning"]
        self.process = Process("envoy", command, self.folder / "envoy.log")
        self.process.wait_until(
            lambda: all(accepts(self.address(name)) for name in self.ports) and self.healthy()
        )
        return self

    def stop(self):
        """Ends it, if it runs."""
        if self.process is not None:
            self.process.stop()

    def address(self, name):
        """Where a variant is."""
        return "127.0.0.1", self.ports[name]

    def healthy(self, count=None):
        """Whether so many processors (by default all) are in use."""
        with contextlib.suppress(OSError, ValueError):
            found = self.counted("cluster.bartizan.membership_")
            return found["healthy"] == (found["total"] if count is None else count)
        return False

    def counted(self, prefix):
        """Envoy's statistics that begin so, without the prefix."""
        host = f"127.0.0.1:{self.admin_port}"
        with Session(("127.0.0.1", self.admin_port)) as session:
            text = session.exchange(render_request("GET", "/stats", host)).body.decode()
        lines = [line.split(": ") for line in text.splitlines() if line.startswith(prefix)]
        return {name[len(prefix) :]: int(value) for name, value in lines if value.isdigit()}

    def of_filter(self, name):
        """What a variant's filter has counted so far, where it is not nothing."""
        found = self.counted(f"http.{name}.ext_proc.")
        return {name: count for name, count in found.items() if count}


def _address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _endpoint(port, **keys):
    return {"endpoint": {"address": _address(port), **keys}}
