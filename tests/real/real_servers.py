"""Real model servers, on ephemeral ports of 127.0.0.1, each ended with all that it started."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from loadtest.process import Process
from loadtest.wire import Session, render_request

PROGRAMS = Path(__file__).resolve().parent / "programs"
FEATURES = 64

# Datatype and numpy type of the echo models; BYTES stands apart.
NUMERIC = {
    "BOOL": "?",
    "UINT8": "u1",
    "INT8": "i1",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT64": "<u8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
DATATYPES = (*NUMERIC, "BYTES")


def responds(port, path="/v2/health/ready"):
    """Whether a server answers 200 there."""
    try:
        with Session(("127.0.0.1", port)) as session:
            return session.exchange(render_request("GET", path, "localhost")).status == 200
    except (OSError, ValueError):
        return False


@contextmanager
def serving(process, port) -> Iterator[int]:
    """The port of a server just started, once it is ready."""
    try:
        process.wait_until(lambda: responds(port), 60)
        yield port
    finally:
        process.stop()
        with suppress(ProcessLookupError):  # a server that died leaves its models' processes behind
            os.killpg(process.pid, signal.SIGKILL)


class MLServer:
    """MLServer, with a scikit-learn digits model (FP64) and an echo of each datatype.

    Args:
        environment: the root of its own environment.
        folder: where its models are laid.
    """

    def __init__(self, environment, folder):
        self._binaries = environment / "bin"
        self._folder = folder
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
            [
                self._binaries / "python",
                PROGRAMS / "train_digits.py",
                folder / "digits" / "model.joblib",
            ],
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

    def _model(self, name, implementation, inputs, outputs, **parameters):
        settings = {
            "name": name,
            "implementation": implementation,
            "parameters": parameters,
            "inputs": inputs,
            "outputs": outputs,
        }
        (self._folder / name).mkdir()
        (self._folder / name / "model-settings.json").write_text(json.dumps(settings))

    def start(self, port, grpc_port):
        """A running instance."""
        settings = {
            "host": "127.0.0.1",
            "http_port": port,
            "grpc_port": grpc_port,
            "metrics_endpoint": None,
            "parallel_workers": 0,  # in its own process: one to start, one to end
            "debug": False,
        }
        (self._folder / "settings.json").write_text(json.dumps(settings))
        return Process(
            "mlserver",
            [str(self._binaries / "mlserver"), "start", str(self._folder)],
            self._folder / "mlserver.log",
            environment={
                "PATH": f"{self._binaries}:{os.environ['PATH']}",
                "PYTHONPATH": str(PROGRAMS),
            },
        )


class Triton:
    """Triton from the wheel of nvidia-pytriton, with a linear model and an echo of each datatype.

    The binary is run as it is, without pytriton: its Python backend needs the stub of the
    environment's own Python version beside it, and finds numpy through that Python on the PATH.

    Args:
        environment: the root of its own environment.
        folder: where its backend and its models are laid.
    """

    def __init__(self, environment, folder):
        self._folder = folder
        self._binaries = environment / "bin"
        asked = "import sysconfig as s; print(s.get_python_version(), s.get_config_var('LIBDIR'))"
        self._version, self._libraries = subprocess.run(
            [self._binaries / "python", "-c", asked], capture_output=True, text=True, check=True
        ).stdout.split(maxsplit=1)
        site = environment / "lib" / f"python{self._version}" / "site-packages"
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

    def _lay_backend(self):
        backend = self._folder / "backends" / "python"
        backend.mkdir(parents=True)
        stubs = self._package / "python_backend_stubs" / self._version.strip()
        for file in (
            self._package / "backends" / "python" / "libtriton_python.so",
            self._package / "backends" / "python" / "triton_python_backend_utils.py",
            stubs / "triton_python_backend_stub",
        ):
            (backend / file.name).symlink_to(file)

    def _model(self, name, program, tensors):
        version = self._folder / "models" / name / "1"
        version.mkdir(parents=True)
        version.with_name("config.pbtxt").write_text(
            f'backend: "python"\nmax_batch_size: 128\n{tensors}'
        )
        (version / "model.py").write_text((PROGRAMS / program).read_text())
        return version

    def start(self, port, *models):
        """A running instance with these models; ``"*"`` for all."""
        return Process(
            "tritonserver",
            [
                str(self._package / "bin" / "tritonserver"),
                f"--model-repository={self._folder / 'models'}",
                f"--backend-directory={self._folder / 'backends'}",
                "--model-control-mode=explicit",
                *(f"--load-model={model}" for model in models),
                "--http-address=127.0.0.1",
                f"--http-port={port}",
                "--allow-grpc=false",
                "--allow-metrics=false",
                "--disable-auto-complete-config",
                "--exit-timeout-secs=2",
            ],
            self._folder / f"triton-{port}.log",
            environment={
                "PATH": f"{self._binaries}:{os.environ['PATH']}",
                "LD_LIBRARY_PATH": self._libraries.strip(),
            },
        )
