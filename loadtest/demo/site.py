"""The demonstration's model and bundle, its processes, and the folder that they work in."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from loadtest.artefacts import code_digest, fit_bundle, kept
from loadtest.mlp import Floats, Mlp
from loadtest.payloads import infer_json, infer_request, infer_target
from loadtest.process import BARTIZAN, Address, Process, free_port
from loadtest.wire import Header, Response, Session

MODEL: Final = "digits"
TARGET: Final = infer_target(MODEL)
BUDGET: Final = 0.01
RATE: Final = 10.0
BURST: Final = 500
MAX_ROWS: Final = 64


class DemoError(Exception):
    """The demonstration could not be carried out."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What the demonstration plays on.

    Attributes:
        model: the model that the server holds, to tell its own answers and to attack it.
        images, labels: what no training or fitting saw.
        members: what the model was trained on.
        fitted: what the bundle was calibrated with, and the model has not seen.
    """

    model: Mlp
    weights: Path
    bundle: Path
    images: Floats
    labels: npt.NDArray[np.int64]
    members: Floats
    fitted: Floats
    cached: bool


def prepare() -> Stage:
    """Trains the model and fits the bundle, or takes both from the cache.

    Raises:
        FitError: if the bundle cannot be fitted.
        ImportError: if scikit-learn is not installed.
    """
    folder, cached = kept("demo", code_digest("demo", repr(BUDGET)), _make)
    with np.load(folder / "test.npz", allow_pickle=False) as arrays:
        names = ("images", "labels", "members", "fitted")
        images, labels, members, fitted = (arrays[name] for name in names)
    weights, bundle = folder / f"{MODEL}.npz", folder / f"{MODEL}.bundle"
    return Stage(Mlp.load(weights), weights, bundle, images, labels, members, fitted, cached)


def _make(folder: Path) -> None:
    from loadtest.demo import digits  # noqa: PLC0415 - scikit-learn: slow, and only where nothing is kept

    data = digits.load()
    model = digits.train(data.model, data.model_labels)
    model.save(folder / f"{MODEL}.npz")
    np.savez(
        folder / "test.npz",
        images=data.test,
        labels=data.test_labels,
        members=data.model,
        fitted=data.fit,
    )
    # The model's answers to rows that it was trained on are too good to calibrate with: they are
    # named, and only teach the witnesses.
    rows = np.concatenate([data.model, data.fit])
    files = {
        "rows": rows,
        "labels": np.concatenate([data.model_labels, data.fit_labels]),
        "seen": np.arange(len(rows)) < len(data.model),
        "answers": model.probabilities(rows),
    }
    for name, values in files.items():
        np.save(folder / f"{name}.npy", values, allow_pickle=False)
    options = [
        part
        for name in ("labels", "seen", "answers")
        for part in (f"--{name}", str(folder / f"{name}.npy"))
    ]
    fit_bundle(
        folder / "rows.npy",
        folder / f"{MODEL}.bundle",
        budget=BUDGET,
        options=[*options, "--row-shape", "8,8", "--keep-examples", "200"],
    )


class Site:
    """The running processes, and where everything is.

    Args:
        keys: API keys by client name, ``you`` among them; none: random ones.
        rate, burst: the quota of each client, in rows.
        secret: of the clients' pseudonyms; "": another at each start.

    Attributes:
        seen: the id and status of every answer of the firewall.
    """

    CLIENTS: Final = (
        *("honest", "outliers", "crafted", "prober"),
        *("malformed", "latency", "flood", "you"),
    )

    def __init__(
        self,
        folder: Path,
        stage: Stage,
        *,
        keys: Mapping[str, str] | None = None,
        rate: float = RATE,
        burst: int = BURST,
        secret: str = "",
    ) -> None:
        self.folder = folder
        self.keys = keys or {name: secrets.token_urlsafe(24) for name in self.CLIENTS}
        self.seen: dict[str, int] = {}
        self.audit = folder / "audit.jsonl"
        self.configuration = folder / "bartizan.yaml"
        self.address: Address = ("127.0.0.1", free_port())
        self.admin: Address = ("127.0.0.1", free_port())
        self.upstream: Address
        self._stage = stage
        self._rate = rate
        self._burst = burst
        self._secret = secret
        self._server: Process | None = None
        self._firewall: Process | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Starts the model server and the firewall; ends both.

        Raises:
            ProcessError: if either does not start.
        """
        weights = str(self._stage.weights)
        self._server = Process(
            "model server",
            [sys.executable, "-P", "-m", "loadtest.model_server", "--model", weights],
            self.folder / "model-server.log",
        )
        try:
            self.upstream = self._server.wait_for_line()
            self._configure()
            self.renew()
            yield
        finally:
            if self._firewall is not None:
                self._firewall.stop()
            self._server.stop()

    def renew(self) -> None:
        """Starts the firewall, after ending the one that runs: it knows no client any more.

        Raises:
            ProcessError: if it does not start.
        """
        if self._firewall is not None:
            self._firewall.stop()
        command = [*BARTIZAN, "run", str(self.configuration)]
        self._firewall = Process("bartizan", command, self.folder / "bartizan.log")
        self._firewall.wait_until(self._serves)

    def check(self) -> None:
        """Whether both still run.

        Raises:
            ProcessError: if one has ended, with the end of what it wrote.
        """
        for process in (self._server, self._firewall):
            if process is not None:
                process.check()

    def header(self, client: str) -> Header:
        """The header by which the firewall knows a client."""
        return ("X-API-Key", self.keys[client])

    def request(self, client: str, rows: Floats) -> bytes:
        """One inference request of a client."""
        return infer_request(rows, self.host, TARGET, headers=[self.header(client)])

    @property
    def host(self) -> str:
        """The firewall's authority."""
        return "{}:{}".format(*self.address)

    def exchange(self, session: Session, request: bytes) -> Response:
        """One exchange through the firewall, remembered."""
        response = session.exchange(request)
        name = response.headers.get("x-request-id", "")
        if not name or name in self.seen:
            raise DemoError(f"an answer {response.status} without a request id of its own")
        self.seen[name] = response.status
        return response

    def _configure(self) -> None:
        lines = [f"{n}:{hashlib.sha256(k.encode()).hexdigest()}\n" for n, k in self.keys.items()]
        (self.folder / "api-keys").write_text("".join(lines))
        secret = f", secret: {json.dumps(self._secret)}" if self._secret else ""
        self.configuration.write_text(
            f"""\
# Written by `bartizan demo`.
listen: {self.host}
admin: {{listen: "{self.admin[0]}:{self.admin[1]}"}}
client: {{identify: [api_key, ip], api_key_header: x-api-key, api_keys: api-keys{secret}}}
audit: {{path: {json.dumps(str(self.audit))}, durability: batched}}
endpoints:
  - name: {MODEL}
    match: /v2/models/{MODEL}
    upstream: http://{self.upstream[0]}:{self.upstream[1]}
    protocol: v2
    contract: learn
    bundle: {json.dumps(str(self._stage.bundle))}
    mode: enforce
    false_positive_budget: {BUDGET}
    limits:
      rows_per_second: {self._rate:g}
      burst_rows: {self._burst}
      rows_per_request: {MAX_ROWS}
""",
            encoding="utf-8",
        )

    def _serves(self) -> bool:
        """Whether the firewall has found the model and learnt its contract."""
        with contextlib.suppress(OSError), Session(self.address) as session:
            image = self._stage.images[:1]
            return self.exchange(session, self.request("you", image)).status in {200, 403}
        return False


def example(site: Site, stage: Stage) -> str:
    """A request for the reader to try, as a command."""
    path = site.folder / "honest.json"
    path.write_bytes(infer_json(stage.images[:1]))
    return (
        f"curl -H 'X-API-Key: {site.keys['you']}' -H 'Content-Type: application/json' "
        f"--data @{path} http://{site.host}{TARGET}"
    )


@contextlib.contextmanager
def workplace(*, keep: bool) -> Iterator[Path]:
    """A fresh folder for configuration, logs and audit; removed unless it is to be kept."""
    if keep:
        yield Path(tempfile.mkdtemp(prefix="bartizan-demo-"))
        return
    with tempfile.TemporaryDirectory(prefix="bartizan-demo-") as name:
        yield Path(name)
