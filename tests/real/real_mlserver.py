"""MLServer with a scikit-learn digits model (FP64), an echo of each datatype, and linear models."""

import json
import subprocess

from real_servers import CLASSES, COLUMNS, DATATYPES, FEATURES, MODELS, PROGRAMS, Server


class MLServer(Server):
    """MLServer, REST and gRPC."""

    environment = "mlserver"
    shown = "MLServer"
    distribution = "mlserver"

    def __init__(self, root, folder):
        super().__init__(root, folder)
        self._model(
            "digits",
            "mlserver_sklearn.SKLearnModel",
            [{"name": "x", "datatype": "FP64", "shape": [-1, FEATURES]}],
            [
                {"name": "predict", "datatype": "INT64", "shape": [-1, 1]},
                {"name": "predict_proba", "datatype": "FP64", "shape": [-1, 10]},
            ],
            uri="./model.joblib",
        )
        subprocess.run(
            [self.python, PROGRAMS / "train_digits.py", folder / "digits" / "model.joblib"],
            check=True,
        )
        for datatype in DATATYPES:
            tensor = {"datatype": datatype, "shape": [-1, FEATURES]}
            self._model(
                f"echo_{datatype.lower()}",
                "mlserver_echo.Echo",
                [{"name": "x", **tensor}],
                [{"name": "y", **tensor}],
            )
        for name in MODELS:
            datatype = "INT64" if name == "whole" else "FP64"
            self._model(
                name,
                "mlserver_linear.Linear",
                [{"name": "x", "datatype": datatype, "shape": [-1, len(COLUMNS)]}],
                [{"name": "probabilities", "datatype": "FP64", "shape": [-1, CLASSES]}],
            )
        settings = {
            "host": "127.0.0.1",
            "http_port": self.port,
            "grpc_port": self.grpc_port,
            "metrics_endpoint": None,
            "parallel_workers": 0,  # in its own process: one to start, one to end
            "debug": False,
        }
        (folder / "settings.json").write_text(json.dumps(settings))

    def _model(self, name, implementation, inputs, outputs, **parameters):
        settings = {
            "name": name,
            "implementation": implementation,
            "parameters": parameters,
            "inputs": inputs,
            "outputs": outputs,
        }
        (self.folder / name).mkdir()
        (self.folder / name / "model-settings.json").write_text(json.dumps(settings))

    def command(self):
        """Program and arguments."""
        return [str(self.binaries / "mlserver"), "start", str(self.folder)]
