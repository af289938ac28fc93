"""The two servers on the Java virtual machine: Multi Model Server, which stands in SageMaker's
containers, and TorchServe.
"""

import shutil
import subprocess

from absence import absent
from real_servers import PROGRAMS, Server

from loadtest.process import free_port
from loadtest.wire import Session, render_request


class JavaServer(Server):
    """A server whose front is written in Java."""

    health = "/ping"

    def __init__(self, root, folder):
        if shutil.which("java") is None:
            absent("java", "Java is not installed")
        super().__init__(root, folder)
        (folder / "store").mkdir()
        (folder / "temporary").mkdir()
        addresses = {
            "inference_address": f"http://127.0.0.1:{self.port}",
            "management_address": f"http://127.0.0.1:{free_port()}",
            "default_workers_per_model": 1,
            "vmargs": "-Xmx128m -XX:TieredStopAtLevel=1",
            **self.properties(),
        }
        (folder / "config.properties").write_text(
            "".join(f"{name}={value}\n" for name, value in addresses.items())
        )

    def properties(self):
        """Further settings."""
        return {}

    def variables(self):
        """It writes its process id into the temporary folder, and runs once for each; its logs
        would go where it is started."""
        temporary = str(self.folder / "temporary")
        names = ("TMPDIR", "TEMP", "LOG_LOCATION", "METRICS_LOCATION")
        return dict.fromkeys(names, temporary)

    def question(self):
        """The target and media type of a request of one row, and its body."""
        raise NotImplementedError

    def ready(self):
        """Whether its model answers: it is healthy before that is loaded."""
        if not super().ready():
            return False
        target, media_type, body = self.question()
        headers = [("Content-Type", media_type)]
        try:
            with Session(("127.0.0.1", self.port)) as session:
                request = render_request("POST", target, "localhost", body, headers)
                return session.exchange(request).status == 200
        except (OSError, ValueError):
            return False


class MMS(JavaServer):
    """Multi Model Server with SageMaker's inference toolkit, which decodes for the model."""

    environment = "mms"
    shown = "MMS with SageMaker's toolkit"
    distribution = "multi-model-server"

    def __init__(self, root, folder):
        super().__init__(root, folder)
        model = folder / "store" / "model"
        model.mkdir()
        (model / "empty").touch()  # an empty folder counts as none

    def properties(self):
        """As the toolkit sets them."""
        return {
            "decode_input_request": "false",
            "default_service_handler": "sagemaker_inference.default_handler_service:handle",
        }

    def command(self):
        """Program and arguments."""
        return [
            str(self.binaries / "multi-model-server"),
            *("--start", "--foreground", "--models", "model=model"),
            *("--model-store", str(self.folder / "store")),
            *("--mms-config", str(self.folder / "config.properties")),
        ]

    def variables(self):
        """The toolkit looks for its user's module by name."""
        return {
            **super().variables(),
            "BARTIZAN_PROGRAMS": str(PROGRAMS),
            "SAGEMAKER_PROGRAM": "mms_linear.py",
        }

    def question(self):
        """One row."""
        return "/invocations", "text/csv", b"0,0,0,0"


class TorchServe(JavaServer):
    """TorchServe with the linear model."""

    environment = "torch"
    shown = "TorchServe"
    distribution = "torchserve"

    def __init__(self, root, folder):
        super().__init__(root, folder)
        subprocess.run(
            [
                self.binaries / "torch-model-archiver",
                *("--model-name", "linear", "--version", "1.0"),
                *("--handler", PROGRAMS / "torchserve_linear.py"),
                *("--extra-files", PROGRAMS / "linear.py", "--export-path", folder / "store"),
            ],
            check=True,
        )

    def properties(self):
        """Every port that it would choose by itself."""
        return {
            "metrics_address": f"http://127.0.0.1:{free_port()}",
            "grpc_inference_port": self.grpc_port,
            "grpc_management_port": free_port(),
        }

    def command(self):
        """Program and arguments."""
        return [
            str(self.binaries / "torchserve"),
            *("--start", "--foreground", "--ncs", "--disable-token-auth"),
            *("--model-store", str(self.folder / "store"), "--models", "linear=linear.mar"),
            *("--ts-config", str(self.folder / "config.properties")),
        ]

    def question(self):
        """One row."""
        return "/predictions/linear", "application/json", b"[[0,0,0,0]]"
