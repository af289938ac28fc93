"""Other load generators, run as their users run them: wrk (closed loop), k6 (either).

What each reports is taken as it is. Both send one and the same request over and over.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest.process import Address, Process

PERCENTILES: Final = ("50", "90", "99", "99.9")
_SLACK_SECONDS: Final = 60.0
CONNECTIONS: Final = 64
"""Of a closed loop."""
VIRTUAL_USERS: Final = 1500
"""That k6 may use to keep to an arrival rate."""


class GeneratorError(Exception):
    """A load generator did not do what it was asked for."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a generator reports.

    Attributes:
        percentiles: seconds, by percentile as text.
        late: sent more than a millisecond after their time; None: it does not say.
        dropped: that it could not send.
    """

    requests: int
    rate: float
    percentiles: dict[str, float]
    failed: int
    late: int | None = None
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """Where the generators send to: a path, and a JSON body for it."""

    address: Address
    path: str
    body: str

    @property
    def url(self) -> str:
        """Of the path."""
        return "http://{}:{}{}".format(*self.address, self.path)


def missing(program: str, hint: str) -> str:
    """Why a program cannot be run, or ""."""
    return "" if shutil.which(program) else f"{program} is not installed ({hint})"


def version(program: str, argument: str) -> str:
    """The first line that it says of itself."""
    told = subprocess.run(  # noqa: S603 - a program that the user names
        [program, argument], capture_output=True, text=True, check=False
    )
    return (told.stdout or told.stderr).strip().splitlines()[0].partition(" Copyright")[0]


_WRK: Final = """\
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = %s
done = function(summary, latency, requests)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write
                 + summary.errors.status + summary.errors.timeout
  io.write(string.format('\\nTOLD {"requests": %%d, "seconds": %%.6f, "failed": %%d',
           summary.requests, summary.duration / 1e6, failed))
  for _, p in pairs({50, 90, 99, 99.9}) do
    io.write(string.format(', "%%g": %%.6f', p, latency:percentile(p) / 1e6))
  end
  io.write('}\\n')
end
"""


def wrk(program: str, target: Target, seconds: float, folder: Path, cores: set[int] | None) -> Told:
    """wrk with one thread: a closed loop.

    Raises:
        GeneratorError: here and below, if it fails.
    """
    script = folder / "wrk.lua"
    script.write_text(_WRK % json.dumps(target.body), encoding="utf-8")
    command = [
        program, "-t1", f"-c{CONNECTIONS}", f"-d{seconds:.0f}s", "--timeout", "30s",
        "-s", str(script), target.url,
    ]  # fmt: skip
    lines = [line for line in _output(command, folder, seconds, cores) if line.startswith("TOLD ")]
    if not lines:
        raise GeneratorError("wrk says nothing")
    told = json.loads(lines[-1].removeprefix("TOLD "))
    percentiles = {percent: told[percent] for percent in PERCENTILES}
    rate = told["requests"] / told["seconds"]
    return Told(told["requests"], rate, percentiles, told["failed"])


_K6: Final = """\
import http from "k6/http";
export const options = {
  scenarios: { load: %s },
  discardResponseBodies: true,
  summaryTrendStats: ["count", "p(50)", "p(90)", "p(99)", "p(99.9)"],
};
const body = %s;
const params = { headers: { "Content-Type": "application/json" }, timeout: "30s" };
export default function () { http.post(%s, body, params); }
"""


def k6(
    program: str,
    target: Target,
    seconds: float,
    folder: Path,
    cores: set[int] | None,
    *,
    rate: float | None = None,
) -> Told:
    """k6: at an arrival rate, or as a closed loop of virtual users."""
    scenario: dict[str, object] = {"duration": f"{seconds:.0f}s", "gracefulStop": "10s"}
    if rate is None:
        scenario |= {"executor": "constant-vus", "vus": CONNECTIONS}
    else:
        scenario |= {
            "executor": "constant-arrival-rate", "rate": round(rate), "timeUnit": "1s",
            "preAllocatedVUs": VIRTUAL_USERS, "maxVUs": VIRTUAL_USERS,
        }  # fmt: skip
    script, summary = folder / "k6.js", folder / "k6.json"
    script.write_text(_K6 % tuple(map(json.dumps, (scenario, target.body, target.url))))
    summary.unlink(missing_ok=True)
    command = [
        program, "run", "--quiet", "--no-usage-report", "--summary-export", str(summary),
        str(script),
    ]  # fmt: skip
    _output(command, folder, seconds, cores)
    try:
        metrics = json.loads(summary.read_text(encoding="utf-8"))["metrics"]
        durations = metrics["http_req_duration"]
        percentiles = {percent: durations[f"p({percent})"] / 1000 for percent in PERCENTILES}
        requests = metrics["http_reqs"]
    except (OSError, KeyError, ValueError) as error:
        raise GeneratorError(f"k6 leaves no summary: {error}") from None
    failed = metrics.get("http_req_failed", {}).get("passes", 0)
    dropped = metrics.get("dropped_iterations", {}).get("count", 0)
    return Told(requests["count"], requests["rate"], percentiles, failed, dropped=dropped)


def _output(command: list[str], folder: Path, seconds: float, cores: set[int] | None) -> list[str]:
    """What it writes, once it has ended well."""
    log = folder / "generator.log"
    process = Process(command[0], command, log, cores=cores)
    try:
        status = process.wait(seconds + _SLACK_SECONDS)
    except subprocess.TimeoutExpired:
        raise GeneratorError(f"{command[0]} does not end") from None
    finally:
        process.stop()
    if status:
        raise GeneratorError(f"{command[0]} ended with status {status}: {process.tail()}")
    return log.read_text(errors="replace").splitlines()
