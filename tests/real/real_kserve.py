"""KServe's own Python server, in V1, V2 and gRPC. It listens on every interface."""

from real_servers import MODELS, PROGRAMS, Server


class KServe(Server):
    """KServe with the linear models, in a network of its own."""

    environment = "kserve"
    shown = "KServe"
    distribution = "kserve"

    def command(self):
        """Program and arguments."""
        server = [self.python, str(PROGRAMS / "kserve_linear.py")]
        ports = ["--http_port", "8080", "--grpc_port", "8081"]
        return self.in_private_network(
            [*server, *ports, "--", *MODELS], (self.port, 8080), (self.grpc_port, 8081)
        )
