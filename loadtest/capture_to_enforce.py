"""From live traffic to an enforcing firewall, in one go: ``python -m loadtest.capture_to_enforce``.

A model server and the firewall in monitor mode, without a bundle; honest clients send images;
``bartizan record`` takes a sample of them, ``bartizan fit --from-capture`` makes a bundle of it;
the configuration names the bundle and enforces, by a reload; and then honest and hostile clients
send what nothing has seen. Exit status 0 if all of it went as it should.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from detectors.calibration import binomial_tail
from loadtest.demo import digits, traffic
from loadtest.interrupts import ended_in_order
from loadtest.mlp import Floats, Mlp
from loadtest.payloads import infer_request, infer_target
from loadtest.process import BARTIZAN, Address, Process, ProcessError, free_port
from loadtest.wire import Response, Session, render_request

MODEL: Final = "digits"
BUDGET: Final = 0.01
HONEST: Final = 8
"""Clients whose traffic is captured."""
_SURE: Final = 0.999
"""How sure it must be that more honest refusals than these are not chance."""

LEAST: Final = {"uniform-noise": 0.95, "FGSM-0.2": 0.6, "FGSM-0.3": 0.7}
"""Shares of hostile images that must be refused."""


class Broken(Exception):  # noqa: N818 - what happened, as the report has it
    """A step did not do what it should."""


@dataclass(slots=True)
class Place:
    """Where everything is.

    Attributes:
        keys: API keys by client.
    """

    folder: Path
    upstream: Address = ("", 0)
    gateway: Address = field(default_factory=lambda: ("127.0.0.1", free_port()))
    admin: Address = field(default_factory=lambda: ("127.0.0.1", free_port()))
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def configuration(self) -> Path:
        """The firewall's."""
        return self.folder / "bartizan.yaml"

    def configure(self, **endpoint: Any) -> None:
        """Writes the configuration."""
        lines = [f"{n}:{hashlib.sha256(k.encode()).hexdigest()}\n" for n, k in self.keys.items()]
        (self.folder / "api-keys").write_text("".join(lines))
        settings = {
            "listen": "{}:{}".format(*self.gateway),
            "admin": {"listen": "{}:{}".format(*self.admin)},
            "client": {"identify": ["api_key", "ip"], "api_keys": "api-keys"},
            "audit": {"path": "audit.jsonl"},
            "endpoints": [
                {
                    "name": MODEL,
                    "match": f"/v2/models/{MODEL}",
                    "upstream": "http://{}:{}".format(*self.upstream),
                    **endpoint,
                }
            ],
        }
        self.configuration.write_text(yaml.safe_dump(settings, sort_keys=False))

    def send(self, client: str, rows: Floats) -> Counter[int]:
        """Sends rows one by one; how many answers of each status there were."""
        statuses: Counter[int] = Counter()
        header = ("X-API-Key", self.keys[client])
        with Session(self.gateway) as session:
            for row in rows:
                request = infer_request(row[None], "model", infer_target(MODEL), headers=[header])
                statuses[session.exchange(request).status] += 1
        return statuses

    def served(self) -> dict[str, Any]:
        """The endpoint as it is served now."""
        found: dict[str, Any] = json.loads(self._ask("/api/v1/endpoints").body)["endpoints"][0]
        return found

    def ready(self) -> bool:
        """Whether the firewall takes traffic."""
        with contextlib.suppress(OSError, ValueError):
            return self._ask("/readyz").status == 200
        return False

    def _ask(self, path: str) -> Response:
        with Session(self.admin) as session:
            return session.exchange(render_request("GET", path, "{}:{}".format(*self.admin)))


def bartizan(*arguments: object) -> dict[str, Any]:
    """What a command of ours prints as JSON.

    Raises:
        Broken: if it fails.
    """
    command = [*BARTIZAN, *map(str, arguments), "--json"]
    done = subprocess.run(  # noqa: S603 - our own program
        command, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        raise Broken(f"{' '.join(map(str, arguments))}: {done.stderr.strip()}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@contextlib.contextmanager
def running(place: Place, model: Mlp, endpoint: dict[str, Any]) -> Iterator[Process]:
    """The model server and the firewall; the firewall's process."""
    weights = place.folder / f"{MODEL}.npz"
    model.save(weights)
    with contextlib.ExitStack() as stack:
        command = [sys.executable, "-P", "-m", "loadtest.model_server", "--model", str(weights)]
        server = Process("model server", command, place.folder / "model.log")
        stack.callback(server.stop)
        place.upstream = server.wait_for_line()
        place.configure(**endpoint)
        command = [*BARTIZAN, "run", str(place.configuration)]
        firewall = Process("bartizan", command, place.folder / "bartizan.log")
        stack.callback(firewall.stop)
        firewall.wait_until(place.ready)
        yield firewall


def hostile(model: Mlp, images: Floats, labels: np.ndarray[Any, Any]) -> dict[str, Floats]:
    """What attackers send, by its name: noise, and images that fool the model."""
    found = {"uniform-noise": traffic.outliers(images[:100], seed=1)["uniform noise"]}
    for epsilon in (0.1, 0.2, 0.3):
        found[f"FGSM-{epsilon:g}"] = traffic.adversarial(model, images, labels, epsilon)[:150]
    return found


def play(place: Place) -> list[str]:
    """The whole way, told as it goes; what did not go as it should.

    Raises:
        Broken, ProcessError, OSError: if it cannot go on.
    """
    data = digits.load()
    model = digits.train(data.model, data.model_labels)
    enemies = hostile(model, data.test, data.test_labels)
    honest = [f"client-{number}" for number in range(HONEST)]
    place.keys = {name: f"key of {name}" for name in [*honest, "newcomer", *enemies]}
    problems: list[str] = []
    with running(place, model, {"mode": "monitor", "capture": {"rows": 2000}}) as firewall:
        _say(f"monitor mode, no bundle: {len(data.fit)} images of {HONEST} honest clients")
        for name, rows in zip(honest, np.array_split(data.fit, HONEST), strict=True):
            _expect(place.send(name, rows), {200}, problems, name)

        sample = place.folder / "digits.capture"
        told = bartizan(
            "record", MODEL, "--config", place.configuration, "--out", sample,
            "--rows", 900, "--for", "60s",
        )  # fmt: skip
        _say(
            f"recorded: {told['recorded']} rows of {told['seen']} seen, {told['clients']} clients, "
            f"left out: {told['left_out'] or 'none'}"
        )
        bundle = place.folder / "digits.bundle"
        fitted = bartizan(
            "fit", "--from-capture", sample, "--out", bundle, "--false-positive-budget", BUDGET
        )
        _say(f"fitted: {fitted['rows']}")
        _say(f"  {fitted['guarantee']}")

        place.configure(mode="enforce", bundle="digits.bundle")
        os.kill(firewall.pid, signal.SIGHUP)
        firewall.wait_until(lambda: place.served()["mode"] == "enforce")
        if place.served()["bundle"] != fitted["digest"]:
            problems.append("the firewall serves another bundle than was fitted")
        _say("enforcing, after a reload")
        problems += judged(place, data.test, enemies)
    return problems


def judged(place: Place, honest: Floats, enemies: dict[str, Floats]) -> list[str]:
    """Sends what nothing has seen; what did not go as it should."""
    problems: list[str] = []
    statuses = place.send("newcomer", honest)
    _expect(statuses, {200, 403}, problems, "newcomer")
    refused, most = statuses[403], chance(len(honest), BUDGET)
    _say(f"honest: {refused} of {len(honest)} refused (at a true {BUDGET:.0%}, up to {most})")
    if refused > most:
        problems.append(f"{refused} of {len(honest)} honest images were refused: {most} at most")
    for name, rows in enemies.items():
        statuses = place.send(name, rows)
        share = 1 - statuses[200] / len(rows)
        _say(f"{name}: {share:.0%} of {len(rows)} not answered {dict(statuses)}")
        if share < LEAST.get(name, 0.0):
            problems.append(f"{name}: {share:.0%} refused, {LEAST[name]:.0%} at least")
    return problems


def chance(count: int, rate: float) -> int:
    """The most refusals among ``count`` rows that a true rate explains."""
    return next(most for most in range(count + 1) if binomial_tail(count, rate, most) >= _SURE)


def _expect(statuses: Counter[int], expected: set[int], problems: list[str], client: str) -> None:
    if set(statuses) - expected:
        problems.append(f"{client} was answered {dict(statuses)}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 all went as it should, 1 not."""
    parser = argparse.ArgumentParser(prog="loadtest.capture_to_enforce", description=__doc__)
    parser.parse_args(arguments)
    try:
        with ended_in_order(), tempfile.TemporaryDirectory(prefix="bartizan-capture-") as name:
            problems = play(Place(Path(name)))
    except (Broken, ProcessError, OSError) as error:
        problems = [str(error)]
    for problem in problems:
        sys.stderr.write(f"FAILED: {problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
