"""Triton from the wheel of nvidia-pytriton, with two linear models and an echo of each datatype.

The binary is run as it is, without pytriton: its Python backend needs the stub of the environment's
own Python version beside it, and finds numpy through that Python on the PATH.
"""

import json
import os
import subprocess

import numpy as np
from real_servers import CLASSES, COLUMNS, DATATYPES, FEATURES, MODELS, PROGRAMS, Server

from loadtest.process import Process
from loadtest.wire import Session, render_request


class Triton(Server):
    """Triton, HTTP and gRPC."""

    environment = "triton"
    shown = "Triton"

    def __init__(self, root, folder):
        super().__init__(root, folder)
        asked = "import sysconfig as s; print(s.get_python_version(), s.get_config_var('LIBDIR'))"
        self._python_version, self._libraries = subprocess.run(
            [self.python, "-c", asked], capture_output=True, text=True, check=True
        ).stdout.split(maxsplit=1)
        site = root / "lib" / f"python{self._python_version}" / "site-packages"
        self._package = site / "pytriton" / "tritonserver"
        self._lay_backend()
        for datatype in DATATYPES:
            kind = "STRING" if datatype == "BYTES" else datatype
            self._model(
                f"echo_{datatype.lower()}",
                "triton_echo.py",
                f'input {{ name: "x" data_type: TYPE_{kind} dims: [ {FEATURES} ] }}\n'
                f'output {{ name: "y" data_type: TYPE_{kind} dims: [ {FEATURES} ] }}\n',
            )
        version = self._model(
            "digits",
            "triton_linear.py",
            f'input {{ name: "x" data_type: TYPE_FP32 dims: [ {FEATURES} ] }}\n'
            'output { name: "scores" data_type: TYPE_FP32 dims: [ 10 ] }\n'
            'output { name: "label" data_type: TYPE_INT64 dims: [ 1 ] }\n',
        )
        draw = np.random.default_rng(7)
        np.savez(
            version / "weights.npz",
            coefficients=draw.normal(size=(FEATURES, 10)).astype(np.float32),
            intercept=draw.normal(size=10).astype(np.float32),
        )
        for name in MODELS:
            kind = "INT64" if name == "whole" else "FP64"
            version = self._model(
                name,
                "triton_classes.py",
                f'input {{ name: "x" data_type: TYPE_{kind} dims: [ {len(COLUMNS)} ] }}\n'
                f'output {{ name: "probabilities" data_type: TYPE_FP64 dims: [ {CLASSES} ] }}\n',
            )
            (version / "linear.py").symlink_to(PROGRAMS / "linear.py")

    def _lay_backend(self):
        backend = self.folder / "backends" / "python"
        backend.mkdir(parents=True)
        stubs = self._package / "python_backend_stubs" / self._python_version
        for file in (
            self._package / "backends" / "python" / "libtriton_python.so",
            self._package / "backends" / "python" / "triton_python_backend_utils.py",
            stubs / "triton_python_backend_stub",
        ):
            (backend / file.name).symlink_to(file)

    def _model(self, name, program, tensors):
        version = self.folder / "models" / name / "1"
        version.mkdir(parents=True)
        version.with_name("config.pbtxt").write_text(
            f'backend: "python"\nmax_batch_size: 128\n{tensors}'
        )
        (version / "model.py").write_text((PROGRAMS / program).read_text())
        return version

    def command(self):
        """Program and arguments."""
        return self._command(
            self.port,
            ["*"],
            ["--grpc-address=127.0.0.1", f"--grpc-port={self.grpc_port}"],
        )

    def _command(self, port, models, grpc):
        return [
            str(self._package / "bin" / "tritonserver"),
            f"--model-repository={self.folder / 'models'}",
            f"--backend-directory={self.folder / 'backends'}",
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in models),
            "--http-address=127.0.0.1",
            f"--http-port={port}",
            *grpc,
            "--allow-metrics=false",
            "--disable-auto-complete-config",
            "--exit-timeout-secs=2",
        ]

    def variables(self):
        """Its Python backend runs the environment's Python."""
        return {"LD_LIBRARY_PATH": self._libraries.strip()}

    @property
    def version(self):
        """Of the server, which the wheel's version does not tell."""
        with Session(("127.0.0.1", self.port)) as session:
            answer = session.exchange(render_request("GET", "/v2", "localhost"))
        return json.loads(answer.body)["version"]

    def start(self, port, *models):
        """Another instance, with these models and without gRPC."""
        return Process(
            "tritonserver",
            self._command(port, models, ["--allow-grpc=false"]),
            self.folder / f"triton-{port}.log",
            environment={
                "PATH": f"{self.binaries}:{os.environ['PATH']}",
                "PYTHONPATH": str(PROGRAMS),
                **self.variables(),
            },
        )
