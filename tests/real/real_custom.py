"""Servers whose API their users make up, and Seldon's wrapper: small ones, of a page of Python."""

from real_servers import PROGRAMS, Server


class LitServe(Server):
    """LitServe with the linear model."""

    environment = "litserve"
    shown = "LitServe"
    distribution = "litserve"
    health = "/health"
    program = "litserve_linear.py"

    def command(self):
        """Program and arguments."""
        return [self.python, str(PROGRAMS / self.program), str(self.port)]


class LitServeOpenAI(LitServe):
    """LitServe's OpenAI servers, which echo."""

    shown = "LitServe (OpenAI)"
    program = "litserve_openai.py"


class BentoML(Server):
    """BentoML with the linear model."""

    environment = "bentoml"
    shown = "BentoML"
    distribution = "bentoml"
    health = "/readyz"

    def command(self):
        """Program and arguments."""
        return [
            str(self.binaries / "bentoml"),
            *("serve", "bentoml_linear:Linear", "--working-dir", str(PROGRAMS)),
            *("--host", "127.0.0.1", "--port", str(self.port)),
        ]

    def variables(self):
        """It writes into its home, and would tell of its use."""
        return {"BENTOML_HOME": str(self.folder), "BENTOML_DO_NOT_TRACK": "True"}


class Seldon(Server):
    """Seldon's wrapper of version 1 with the linear model. It listens on every interface."""

    environment = "seldon"
    shown = "Seldon Core 1"
    distribution = "seldon-core"
    health = "/health/status"

    def command(self):
        """Program and arguments."""
        server = [str(self.binaries / "seldon-core-microservice"), "seldon_linear"]
        options = ["--service-type", "MODEL", "--http-port", "9000", "--workers", "1"]
        return self.in_private_network([*server, *options], (self.port, 9000))
