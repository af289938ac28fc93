"""A load of the scenario as a plan: which requests of whom come when."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from detectors.training.readers import DataError
from loadtest.evidence.results import Kind, Side
from loadtest.load import schedules
from loadtest.load.plan import Call, Part, Plan, Times, Tls
from loadtest.scenario.data import Material, read_rows
from loadtest.scenario.load_settings import Load, Mixed
from loadtest.scenario.means import number_of
from loadtest.targets.base import Rows
from loadtest.targets.places import Place

_POOL: Final = 4096
"""Different requests of one part, at most: beyond it they come again."""

Recorded = Mapping[str, Rows]
"""The queries of drivers, by driver, as they were recorded."""


class Opened(Protocol):
    """What is asked of an open endpoint here."""

    def place(self, side: Side) -> Place:
        """Where a side is."""

    def source(self, client: str) -> str:
        """The address that a client connects from, or ""."""

    def requests(
        self,
        side: Side,
        rows: Rows,
        clients: Sequence[str] | None = None,
        rows_per_request: int = 1,
    ) -> Sequence[bytes] | Sequence[Call]:
        """Complete requests, clients taking turns."""


def plan(
    endpoint: Opened,
    load: Load,
    side: Side,
    turn: int,
    *,
    material: Material,
    pools: Mapping[str, Sequence[str]],
    queries: Recorded,
    seed: int,
) -> Plan:
    """One round of a load on one side. Both sides of a round are sent the same at the same times.

    Args:
        pools: the clients of each part, by the part's name.
        queries: of the drivers whose queries are sent.

    Raises:
        DataError: if a file cannot be read.
        ValueError: if the endpoint does not take such requests.
    """
    times = _times(load, np.random.default_rng((seed, number_of(load.name, "times"), turn)))
    rng = np.random.default_rng((seed, number_of(load.name, "mix"), turn))
    shares = np.array([part.share for part in load.mix])
    which = rng.choice(len(load.mix), len(times), p=shares / shares.sum())
    parts = []
    for index, mixed in enumerate(load.mix):
        wanted = int((which == index).sum()) or _POOL
        rows = _rows(mixed, material, queries, (seed, number_of(load.name, mixed.name), turn))
        clients = pools[mixed.name]
        count = min(wanted, _POOL) * load.rows_per_request
        requests = endpoint.requests(side, _filled(rows, count), clients, load.rows_per_request)
        sources = tuple(filter(None, map(endpoint.source, clients)))
        kind: Kind = "honest" if mixed.send == "honest" else "hostile"
        parts.append(Part(mixed.name, kind, requests, sources=sources))
    place = endpoint.place(side)
    at = place.address
    return Plan(
        name=load.name,
        side=side,
        address=at.path or (at.host, at.port),
        parts=tuple(parts),
        times=times,
        which=which.astype(np.int64),
        arrivals=words(load),
        round=turn,
        wire="grpc" if place.rpc else "http",
        tls=_tls(place),
        connections=load.connections,
        processes=load.processes,
        cores=load.cores,
        queue=load.queue,
        deadline=load.deadline,
    )


def words(load: Load) -> str:
    """How a load's requests are spread over time."""
    if load.arrivals == "steps":
        stretches = ", ".join(f"{step.rate:g}/s for {step.seconds:g} s" for step in load.steps)
        return f"steps: {stretches}"
    if load.arrivals == "recorded":
        assert load.recorded is not None  # the settings were checked
        return f"as recorded in {load.recorded.name}"
    if load.arrivals == "ceiling":
        return "closed loop"
    return f"{load.arrivals}, {load.rate:g}/s for {load.seconds:g} s"


def recorded_times(path: Path) -> Times:
    """Seconds at which requests came: of a .npy, or of the exchanges in an audit log.

    Raises:
        DataError: if there are none, or they cannot be read.
    """
    try:
        times = schedules.recorded(_of_npy(path) if path.suffix == ".npy" else _of_audit(path))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except DataError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: {error}") from error
    if not len(times):
        raise DataError(f"{path}: there are no times")
    return times


def _times(load: Load, rng: np.random.Generator) -> Times:
    if load.arrivals == "steps":
        return schedules.steps([(step.rate, step.seconds) for step in load.steps])
    if load.arrivals == "recorded":
        assert load.recorded is not None  # the settings were checked
        return recorded_times(load.recorded)
    if load.arrivals == "ceiling":
        return np.empty(0)
    assert load.rate is not None and load.seconds is not None  # the settings were checked
    if load.arrivals == "constant":
        return schedules.constant(load.rate, load.seconds)
    times = schedules.poisson(load.rate, load.seconds, int(rng.integers(2**31)))
    # A stretch without any request would be no load; it is one in exp(rate * seconds).
    return times if len(times) else np.zeros(1)


def _rows(mixed: Mixed, material: Material, queries: Recorded, seed: tuple[int, ...]) -> Rows:
    """(n, d) what a part carries, in an order of its own."""
    rng = np.random.default_rng(seed)
    honest = material.honest[rng.permutation(len(material.honest))]
    if mixed.send == "honest":
        # Again and again in other orders, so that every client comes to send different rows.
        turns = range(max(1, _POOL // len(honest)))
        return np.concatenate([honest, *(honest[rng.permutation(len(honest))] for _ in turns)])
    if mixed.send == "noise":
        return rng.uniform(material.low, material.high, honest.shape).astype(np.float32)
    if mixed.send == "inverted":
        return np.asarray(material.low + material.high - honest, np.float32)
    if mixed.send == "shuffled":
        return np.asarray(rng.permuted(honest, axis=1), np.float32)
    if mixed.send == "driver":
        assert mixed.driver is not None  # the settings were checked
        return queries[mixed.driver]
    assert mixed.file is not None  # the settings were checked
    rows = read_rows(mixed.file)
    if rows.shape[1] != material.features:
        raise DataError(
            f"{mixed.file}: rows of {rows.shape[1]} features, the others have {material.features}"
        )
    return rows


def _filled(rows: Rows, count: int) -> Rows:
    """(count, d): the rows, over and over."""
    return np.asarray(np.resize(rows, (count, rows.shape[1])), np.float32)


def _tls(place: Place) -> Tls | None:
    if place.address.tls is None:
        return None
    files = place.tls
    if files is None:
        return Tls(name=place.address.server_name)
    return Tls(files.ca, name=place.address.server_name, certificate=files.certificate,
               key=files.key)  # fmt: skip


def _of_npy(path: Path) -> npt.NDArray[np.float64]:
    times = np.load(path, allow_pickle=False)
    if times.ndim != 1 or times.dtype.kind not in "iuf":
        raise DataError(f"{path}: expected a list of seconds, got an array of {times.shape}")
    return np.asarray(times, np.float64)


def _of_audit(path: Path) -> npt.NDArray[np.float64]:
    times = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            if record.get("type") == "exchange":
                times.append(datetime.fromisoformat(record["time"]).timestamp())
    return np.array(times, np.float64)
