"""The firewall before one real server, and the ways through it."""

from dataclasses import dataclass, field

from gateway import Gateway


@dataclass(frozen=True)
class Way:
    """One protocol of a server, as endpoints of the firewall.

    Attributes:
        protocol: the setting.
        match: clients' path; ``{model}`` stands for the endpoint's model.
        path: the server's own, where it differs.
        grpc: whether the endpoint is asked over gRPC, too.
        models: further ones beside the two of :class:`Guarded`, each with its endpoint's settings.
        settings: further settings of every endpoint.
        scored: whether requests hold rows.
    """

    protocol: object
    match: str
    path: str | None = None
    grpc: bool = False
    models: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    scored: bool = True

    def endpoint(self, name, model, server, **settings):
        """One endpoint's configuration."""
        made = {
            "name": name,
            "protocol": self.protocol,
            "match": self.match.format(model=model),
            "upstream": f"http://127.0.0.1:{server.port}",
            **self.settings,
            **settings,
        }
        if self.path is not None:
            made["upstream_path"] = self.path.format(model=model)
        if self.grpc:
            made["grpc"] = {"upstream": f"grpc://127.0.0.1:{server.grpc_port}"}
        return made


# One row now and then: whatever is asked, the second row is one too many.
LIMITS = {"rows_per_second": 0.005, "burst_rows": 1, "rows_per_request": 1}


class Guarded:
    """A real server, and a running firewall before it: each way leads to the model ``linear``,
    which is scored, and to ``limited``, which lets one row pass.

    Attributes:
        server: the real one.
        gateway: the firewall.
        grpc_port: of the firewall.
    """

    def __init__(self, folder, server, ways, bundle, free_port):
        self.server = server
        self.grpc_port = free_port()
        endpoints = []
        for name, way in ways.items():
            models = {
                "linear": {"bundle": str(bundle)} if way.scored else {},
                "limited": {"limits": LIMITS},
                **way.models,
            }
            endpoints += [
                way.endpoint(f"{name}-{model}", model, server, **settings)
                for model, settings in models.items()
            ]
        sections = {}
        if any(way.grpc for way in ways.values()):
            sections["grpc"] = {"listen": f"127.0.0.1:{self.grpc_port}"}
        self.gateway = Gateway(folder, endpoints, **sections).start()

    def port(self, through, grpc=False):
        """Where a client connects, to the firewall or past it."""
        if grpc:
            return self.grpc_port if through else self.server.grpc_port
        return self.gateway.port if through else self.server.port

    def refused(self, endpoint=None):
        """How many requests of an endpoint, or of any or none, have been refused."""
        labels = {} if endpoint is None else {"endpoint": endpoint}
        decided = self.gateway.metric("bartizan_requests_total", **labels)
        return decided - self.gateway.metric("bartizan_requests_total", enforced="allow", **labels)
