"""gRPC through the firewall: ``python -m loadtest.grpc_cost``, or with ``make bench``.

The same model server directly, through the firewall's listener, and through Envoy as an HTTP/2
proxy, in interleaved rounds. The result goes into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc

from loadtest.artefacts import FitError
from loadtest.bench import (
    BenchError,
    Plan,
    Subject,
    honest_rows,
    make_rows_and_bundles,
    measure,
    two_cores,
)
from loadtest.comparison import Sample, Spread, ratio
from loadtest.grpc_messages import INFER, infer_message
from loadtest.interrupts import ended_in_order
from loadtest.load.closed import closed_loop
from loadtest.load.plan import Call
from loadtest.payloads import TENSOR, Floats
from loadtest.peers import Envoy, Firewall, Lab, client_header
from loadtest.process import Address, Process, ProcessError, free_port, on_cores
from loadtest.report import DIRECT, OURS, section, spread_text, table
from loadtest.wire import Header

FEATURES: Final = 64
_CANDIDATES: Final = 1280
_HEADING: Final = "gRPC"
_CALL_SECONDS: Final = 10.0
_OPTIONS: Final = [("grpc.use_local_subchannel_pool", 1)]
"""A connection of its own for each channel, as separate clients have."""
_MODEL: Final = f"f{FEATURES}"
_TITLES: Final = {
    DIRECT: "no proxy: the upstream itself",
    OURS: "Bartizan, enforcing, four detectors, patterns",
    Envoy.name: "Envoy as an HTTP/2 proxy, no filters",
}


class _Listener(Firewall):
    """The firewall before a model that is asked by gRPC."""

    def configuration(self, lab: Lab, port: int, admin: int) -> dict[str, Any]:
        """As in the benchmark, but for the protocol: ``port`` is that of gRPC."""
        settings = super().configuration(lab, free_port(), admin)
        (endpoint,) = settings["endpoints"]
        endpoint["grpc"] = {"upstream": "grpc://{}:{}".format(*lab.upstream)}
        del endpoint["upstream"], endpoint["protocol"]
        tensor = {"name": TENSOR, "datatype": "FP32", "shape": [-1, FEATURES]}
        endpoint["contract"] = {"inputs": [tensor]}
        return settings | {"grpc": {"listen": f"127.0.0.1:{port}"}}


class _Http2(Envoy):
    """Bare Envoy, HTTP/2 on both sides."""

    def configuration(self, lab: Lab, port: int) -> dict[str, Any]:
        """As in the benchmark, but for the protocol."""
        settings = super().configuration(lab, port)
        resources = settings["static_resources"]
        manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        manager["codec_type"] = "HTTP2"
        options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        resources["clusters"][0]["typed_extension_protocol_options"] = {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
        return settings


def build_calls(rows: Floats) -> list[Call]:
    """One call of one row each, of each client in turn."""
    calls: list[Call] = []
    for number, row in enumerate(rows):
        name, value = client_header(number)
        calls.append((((name.lower(), value),), infer_message(_MODEL, row[None])))
    return calls


def compare(
    folder: Path, plan: Plan, envoy: str, proxy: int | None, load: int | None
) -> tuple[list[Sample], dict[str, str]]:
    """Every peer in every round; and what was left out, with the reason.

    Raises:
        BenchError, FitError, ProcessError, OSError: if a program does not start, or an honest row
            is refused.
    """
    load_cores = None if load is None else {load}
    cores = None if proxy is None else {proxy}
    rows, bundles = make_rows_and_bundles(folder, [FEATURES], bundles=True)
    command = [sys.executable, "-P", "-m", "loadtest.grpc_echo", "--model", _MODEL]
    skipped = {}
    with contextlib.ExitStack() as stack:
        upstream = Process("upstream", command, folder / "upstream.log", cores=load_cores)
        stack.callback(upstream.stop)
        lab = Lab(upstream.wait_for_line(), folder, cores, rows, bundles, envoy, "")
        subjects = [Subject(DIRECT, upstream, lab.upstream)]
        for peer in (_Listener(), _Http2()):
            if why := peer.missing(lab):
                skipped[peer.name] = why
                continue
            process, address = peer.start(lab)
            stack.callback(process.stop)
            subjects.append(Subject(peer.name, process, address, frozenset(cores or ())))
        stack.enter_context(on_cores(load_cores))
        pool = _accepted(subjects, build_calls(honest_rows(FEATURES, _CANDIDATES, seed=3)))
        samples = [
            measure(subject, "", pool, plan, round_, drive=partial(closed_loop, wire="grpc"))
            for round_ in range(1, plan.rounds + 1)
            for subject in subjects
        ]
    return samples, skipped


def statuses_of(address: Address, calls: Sequence[Call]) -> list[str]:
    """How each call ends, one after the other: names of gRPC statuses."""
    with grpc.insecure_channel("{}:{}".format(*address), options=_OPTIONS) as channel:
        infer = channel.unary_unary(INFER)
        return [_status_of(infer, *call) for call in calls]


def _status_of(infer: Any, metadata: tuple[Header, ...], message: bytes) -> str:
    try:
        infer(message, metadata=metadata, timeout=_CALL_SECONDS, wait_for_ready=True)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def _accepted(subjects: Sequence[Subject], calls: Sequence[Call]) -> list[Call]:
    """The calls that no peer refuses: a calibrated firewall refuses a few honest ones."""
    kept = list(calls)
    for subject in subjects:
        found = statuses_of(subject.address, kept)
        wrong = set(found) - {"OK", "PERMISSION_DENIED"}
        if wrong:
            raise BenchError(f"{subject.name} ended honest calls with {', '.join(sorted(wrong))}")
        kept = [call for call, status in zip(kept, found, strict=True) if status == "OK"]
    if len(kept) < 0.9 * len(calls):
        raise BenchError(f"only {len(kept)} of {len(calls)} honest calls pass")
    return kept


def markdown(samples: Sequence[Sample], skipped: Mapping[str, str], plan: Plan) -> str:
    """The section of docs/benchmarks.md."""
    rows = []
    for peer in dict.fromkeys(sample.peer for sample in samples):
        own = [s for s in samples if s.peer == peer and not s.fault]

        def against(metric: Any, peer: str = peer) -> str:
            found = ratio(samples, OURS, peer, "", metric)
            return "" if peer == OURS else spread_text(found, "{:.2f}")

        rows.append([
            _TITLES[peer],
            spread_text(Spread.of(s.rate for s in own), "{:,.0f}"),
            spread_text(Spread.of(s.cpu * 1e6 for s in own), "{:,.0f}"),
            spread_text(Spread.of(s.busy * 100 for s in own), "{:.0f}"),
            spread_text(Spread.of(s.p50 * 1e6 for s in own), "{:,.0f}"),
            against("rate"), against("cpu"), against("p50"), str(len(own)),
        ])  # fmt: skip
    head = [
        "", "calls/s", "CPU µs a call", "core busy %", "p50 µs",
        "our throughput ÷ theirs", "our CPU ÷ theirs", "our p50 ÷ theirs", "rounds",
    ]  # fmt: skip
    lines = [
        f"## {_HEADING}",
        "",
        f"`python -m loadtest.grpc_cost`. `ModelInfer` with one row of {FEATURES} features as raw",
        f"contents, {plan.connections} connections for throughput and CPU, one for latency, one",
        "call at a time on each, in a closed loop; the upstream gives every call the same answer.",
        "The load generator, which is grpc.aio, shares a core with it: where a proxy's core is",
        "well below 100 % busy, that core was the limit, and CPU a call tells more. Median (lowest",
        "to highest) over the rounds, ratios taken within a round.",
        "",
        *table(head, rows),
    ]
    lines += [f"\n- `{name}` was skipped: {reason}" for name, reason in skipped.items()]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 measured, 1 not."""
    spread = two_cores()
    parser = argparse.ArgumentParser(prog="loadtest.grpc_cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each throughput run")
    parser.add_argument("--out", type=Path, help="the page whose section is replaced")
    parser.add_argument("--json", action="store_true", help="print every sample, and no table")
    parser.add_argument("--envoy", default=".venv-envoy/bin/envoy", metavar="PROGRAM")
    parser.add_argument("--proxy-core", type=int, default=spread[0], metavar="N")
    parser.add_argument("--load-core", type=int, default=spread[1], metavar="N")
    options = parser.parse_args(arguments)
    plan = Plan((), (), options.rounds, options.seconds, connections=16)
    try:
        with ended_in_order(), tempfile.TemporaryDirectory(prefix="bartizan-grpc-") as name:
            samples, skipped = compare(
                Path(name), plan, options.envoy, options.proxy_core, options.load_core
            )
    except (BenchError, FitError, ProcessError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for fault in sorted({sample.fault for sample in samples if sample.fault}):
        sys.stderr.write(f"a round does not count: {fault}\n")
    text = markdown(samples, skipped, plan)
    if options.out is not None:
        section(options.out, _HEADING, text)
    sys.stdout.write(json.dumps([asdict(s) for s in samples]) if options.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
