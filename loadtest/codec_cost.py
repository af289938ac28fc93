"""What each protocol costs: ``python -m loadtest.codec_cost``, or with ``make bench``.

Microseconds that each codec takes to read a request and to write what is forwarded, alone, warm,
the least of many rounds. Then the same requests through one real gateway, in interleaved rounds:
the endpoints differ in nothing but the protocol. Both go into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadtest.answer_cost import least
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
from loadtest.image_cost import image_costs, lines_of
from loadtest.interrupts import ended_in_order
from loadtest.payloads import Floats
from loadtest.peers import Firewall, Lab, client_header
from loadtest.process import Process, ProcessError, on_cores
from loadtest.report import section, spread_text, table
from loadtest.spellings import SPELLINGS, V2_JSON, Spelling
from loadtest.wire import Session, render_request
from proxy.build_codecs import Bounds, codec
from proxy.build_contracts import declared_contract
from proxy.protocols.base import Codec, InferRequest, Route
from proxy.protocols.contract import Contract
from proxy.settings.endpoint import Endpoint

FEATURES: Final = 64
_BATCH: Final = 32
_REQUESTS: Final = 640
_HEADING: Final = "What each protocol costs"
_UPSTREAM: Final = "http://127.0.0.1:1"


@dataclass(frozen=True, slots=True)
class Reading:
    """A request, and the codec that reads it."""

    codec: Codec
    route: Route
    head: Mapping[bytes, bytes]
    body: bytes

    @classmethod
    def of(cls, spelling: Spelling, rows: Floats) -> Reading:
        """Of (n, d) rows."""
        settings = Endpoint.model_validate(
            spelling.endpoint("m", rows.shape[1]) | {"upstream": _UPSTREAM}
        )
        (spoken,) = settings.spoken
        reader = codec(spoken, declared_contract(settings, None) or Contract(), Bounds())
        headers, body = spelling.write(rows)
        head = {name.lower().encode(): value.encode() for name, value in headers.items()}
        return cls(reader, reader.route("POST", spelling.target), head, body)

    def request(self) -> InferRequest:
        """As the codec reads it."""
        return self.codec.decode_request(self.head, self.body, self.route)

    def costs(self) -> tuple[int, float, float]:
        """Bytes of the body, and microseconds to read it and to write it again."""
        request = self.request()
        writing = least(lambda: self.codec.encode_request(request))
        return len(self.body), least(self.request), writing


class _EveryProtocol(Firewall):
    """The firewall with an endpoint a protocol, all with one bundle."""

    def __init__(self, spellings: Sequence[Spelling]) -> None:
        super().__init__()
        self._spellings = spellings

    def configuration(self, lab: Lab, port: int, admin: int) -> dict[str, Any]:
        """As in the benchmark, but for the protocols."""
        settings = super().configuration(lab, port, admin)
        (as_v2,) = settings["endpoints"]
        settings["endpoints"] = [
            {key: value for key, value in as_v2.items() if one.scored or key != "bundle"}
            | one.endpoint(f"m{i}", FEATURES)
            for i, one in enumerate(self._spellings)
        ]
        return settings


def through_a_gateway(
    folder: Path,
    spellings: Sequence[Spelling],
    plan: Plan,
    proxy: int | None,
    load: int | None,
) -> list[Sample]:
    """Every protocol in every round.

    Raises:
        BenchError, FitError, ProcessError: if a program does not start, or an honest row is
            refused.
    """
    load_cores = None if load is None else {load}
    cores = None if proxy is None else {proxy}
    rows, bundles = make_rows_and_bundles(folder, [FEATURES], bundles=True)
    pages = [part for one in spellings for page in one.pages for part in ("--page", page)]
    models = ["--model", f"m={FEATURES}", "--model", f"b={FEATURES}"]
    command = [sys.executable, "-P", "-m", "loadtest.echo", *models, *pages]
    with contextlib.ExitStack() as stack:
        upstream = Process("upstream", command, folder / "upstream.log", cores=load_cores)
        stack.callback(upstream.stop)
        lab = Lab(upstream.wait_for_line(), folder, cores, rows, bundles, "", "")
        process, where = _EveryProtocol(spellings).start(lab)
        stack.callback(process.stop)
        stack.enter_context(on_cores(load_cores))
        asked = honest_rows(FEATURES, _REQUESTS, seed=3)
        pools = {one.title: _accepted(one, asked, process, where) for one in spellings}
        return [
            measure(Subject(title, process, where, frozenset(cores or ())), "", pool, plan, round_)
            for round_ in range(1, plan.rounds + 1)
            for title, pool in pools.items()
        ]


def _accepted(
    spelling: Spelling, rows: Floats, process: Process, where: tuple[str, int]
) -> list[bytes]:
    """Requests of one row that are not refused: a calibrated firewall refuses a few honest ones."""
    pool = []
    for i, row in enumerate(rows):
        headers, body = spelling.write(row[None])
        lines = [*headers.items(), client_header(i)]
        pool.append(render_request("POST", spelling.target, "bench", body, lines))
    with Session(where) as session:
        process.wait_until(lambda: session.exchange(pool[0]).status in {200, 403})
        answers = [session.exchange(request) for request in pool]
    wrong = [answer for answer in answers if answer.status not in {200, 403}]
    keep = [request for request, answer in zip(pool, answers, strict=True) if answer.status == 200]
    if wrong or len(keep) < 0.9 * len(pool):
        answer = next((a for a in answers if a.status != 200), answers[0])
        raise BenchError(f"{spelling.title}: {answer.status} {answer.body[:200]!r}")
    return keep


def markdown(
    alone: Mapping[str, Sequence[tuple[int, float, float]]],
    images: Mapping[str, tuple[int, float, float]],
    samples: Sequence[Sample],
) -> str:
    """The section of docs/benchmarks.md."""
    parts = [
        [title, *(text for size, reading, writing in costs
                  for text in (f"{size:,}", f"{reading:.1f}", f"{writing:.1f}"))]
        for title, costs in alone.items()
    ]  # fmt: skip
    head = [
        text
        for rows in ("1 row", f"{_BATCH} rows")
        for text in (f"{rows}: bytes", "read, µs", "write, µs")
    ]
    lines = [
        f"## {_HEADING}",
        "",
        f"`python -m loadtest.codec_cost`. A request of {FEATURES} features as float32, read and",
        "checked, and written again as it is forwarded; one thread, warm, least of many rounds:",
        "",
        *table(["", *head], parts),
        *lines_of(images),
        "",
        "Through one gateway with an endpoint a protocol, one row a request, enforcing, four",
        "detectors, patterns, limits and audit on, before an upstream that gives every request the",
        "same answer; median (lowest to highest) over the rounds, ratios taken within a round:",
        "",
    ]
    rows = []
    for title in dict.fromkeys(sample.peer for sample in samples):
        own = [s for s in samples if s.peer == title and not s.fault]

        def against(metric: Any, title: str = title) -> str:
            return spread_text(ratio(samples, title, V2_JSON, "", metric), "{:.2f}")

        rows.append([
            title,
            spread_text(Spread.of(s.rate for s in own), "{:,.0f}"),
            against("rate") if title != V2_JSON else "",
            spread_text(Spread.of(s.cpu * 1e6 for s in own), "{:,.0f}"),
            spread_text(Spread.of(s.p50 * 1e6 for s in own), "{:,.0f}"),
            str(len(own)),
        ])  # fmt: skip
    columns = ["", "requests/s", f"÷ {V2_JSON}", "CPU µs a request", "p50 µs", "rounds"]
    return "\n".join([*lines, *table(columns, rows)]) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 measured, 1 not."""
    spread = two_cores()
    parser = argparse.ArgumentParser(prog="loadtest.codec_cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each throughput run")
    parser.add_argument("--only", help="spellings whose title holds this, beside v2's JSON")
    parser.add_argument("--out", type=Path, help="the page whose section is replaced")
    parser.add_argument("--json", action="store_true", help="print every figure, and no table")
    parser.add_argument("--proxy-core", type=int, default=spread[0], metavar="N")
    parser.add_argument("--load-core", type=int, default=spread[1], metavar="N")
    options = parser.parse_args(arguments)
    chosen = [one for one in SPELLINGS if one.title == V2_JSON or (options.only or "") in one.title]
    plan = Plan((), (), options.rounds, options.seconds, connections=16)
    rows = honest_rows(FEATURES, _BATCH, seed=2)
    try:
        with ended_in_order(), tempfile.TemporaryDirectory(prefix="bartizan-cost-") as name:
            alone = {
                one.title: [Reading.of(one, part).costs() for part in (rows[:1], rows)]
                for one in chosen
            }
            images = image_costs(least)
            samples = through_a_gateway(
                Path(name), chosen, plan, options.proxy_core, options.load_core
            )
    except (BenchError, FitError, ProcessError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for fault in sorted({sample.fault for sample in samples if sample.fault}):
        sys.stderr.write(f"a round does not count: {fault}\n")
    text = markdown(alone, images, samples)
    if options.out is not None:
        section(options.out, _HEADING, text)
    rates = {s.peer: s.rate for s in samples}
    sys.stdout.write(
        json.dumps({"alone": alone, "images": images, "rates": rates}) if options.json else text
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
