"""MLflow's scoring server, as ``mlflow models serve`` starts it."""

import json
import sys

from real_servers import COLUMNS, Server


class MLflow(Server):
    """MLflow with the linear model of four named columns."""

    environment = "mlflow"
    shown = "MLflow"
    distribution = "mlflow"
    health = "/ping"

    def __init__(self, root, folder):
        super().__init__(root, folder)
        inputs = [{"type": "double", "name": name} for name in COLUMNS]
        flavour = {
            "loader_module": "mlflow_linear",
            "python_version": ".".join(map(str, sys.version_info[:3])),
            "env": {},
        }
        (folder / "MLmodel").write_text(  # JSON is YAML
            json.dumps(
                {
                    "flavors": {"python_function": flavour},
                    "signature": {"inputs": json.dumps(inputs)},
                }
            )
        )

    def command(self):
        """What the command line starts in its turn: it saves the import of the whole of MLflow."""
        return [
            str(self.binaries / "uvicorn"),
            *("--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"),
            "mlflow.pyfunc.scoring_server.app:app",
        ]

    def variables(self):
        """The model's folder, as the command line tells it."""
        return {"__pyfunc_model_path__": str(self.folder)}
