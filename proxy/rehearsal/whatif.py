"""A recording decided anew, as it was and as it would have been."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

from detectors.bundle import Bundle
from detectors.sample import Sample, SampleError
from detectors.scorer import ScoreFault
from proxy.build import load_bundles
from proxy.rehearsal.amendments import Amendments, NoSuchEndpointError
from proxy.rehearsal.exclusions import known_names, with_pseudonyms
from proxy.rehearsal.recorded import Log, read_log
from proxy.rehearsal.replay import Outcome, Player
from proxy.rehearsal.stage import Stage
from proxy.rehearsal.tally import Change, Fidelity, wilson
from proxy.settings.load import digest
from proxy.settings.models import Settings
from proxy.settings.shared_state import MEMORY

_DIGEST: Final = 16


class Incomplete(Exception):  # noqa: N818 - the condition's name
    """The recording does not hold what a replay takes. The message says what is missing."""


async def of_log(path: Path, configuration: Path, given: Amendments, most: int) -> dict[str, Any]:
    """Replays the audit log at ``path``; as JSON has it.

    Args:
        most: clients that are told one by one.

    Raises:
        Incomplete: if the log holds no exchange that can be replayed.
        SettingsError, BuildError: if a configuration cannot be served.
        NoSuchEndpointError: as it says.
        OSError: if the log cannot be read.
    """
    base = Amendments().load(configuration)
    other = given.load(configuration) if given else None
    log = read_log(path)
    _check(path, log)
    fidelity, change = Fidelity(), Change()
    seconds = await _play(log, base, fidelity.add)
    if other is not None:
        _check_endpoints(base, other)
        await _play(log, other, change.add, named=base)
    told: dict[str, Any] = {
        "audit": str(path),
        "configuration": digest(base),
        "exchanges": log.exchanges,
        "seconds": seconds,
        "ok": not fidelity.unequal and not log.broken,
        "broken": log.broken,
        "notes": _notes(log, base),
        **fidelity.told(),
    }
    if other is not None:
        told["what_if"] = {"changed": given.words(), **change.told(most)}
    return told


async def _play(
    log: Log,
    settings: Settings,
    tell: Callable[[Outcome], None],
    named: Settings | None = None,
) -> float:
    """Plays every life to a stage of these settings; how long it took."""
    bundles = load_bundles(settings)
    begun = perf_counter()
    for life in log.lives:
        names = known_names(life, named or settings)
        player = Player(Stage(with_pseudonyms(settings, names), bundles), tell)
        await player.begin(configured=not life.whole)
        for moment, record in life.records():
            try:
                await player.play(moment, record)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                # What is decided about has its own faults: this one is the record's.
                raise Incomplete(
                    f"record {record.get('seq')} cannot be replayed: {error!r}"
                ) from error
        await player.end()
    return perf_counter() - begun


def _check(path: Path, log: Log) -> None:
    if not log.exchanges:
        raise Incomplete(f"{path} holds no exchange")
    if not any(life.replayable for life in log.lives):
        raise Incomplete(
            f"{path} does not hold what a replay takes: set `audit: {{replay: true}}` in the "
            "gateway's configuration and restart it; bodies may be personal data"
        )


def _check_endpoints(base: Settings, other: Settings) -> None:
    if {one.name for one in base.endpoints} != {one.name for one in other.endpoints}:
        raise NoSuchEndpointError(
            "an endpoint's name cannot be changed: nothing was recorded of it"
        )


def _notes(log: Log, base: Settings) -> list[str]:
    """What keeps a replay from being exact, in words."""
    notes = []
    own = digest(base)[:_DIGEST]
    others = {name for life in log.lives for name in life.configurations} - {own}
    if others:
        notes.append(
            f"recorded under configuration {', '.join(sorted(others))} and replayed under {own}: "
            "where they differ, decisions may"
        )
    if not all(life.whole for life in log.lives):
        notes.append(
            "the log begins in the middle of a process: what earlier exchanges left (quotas, "
            "patterns) is missing, and what depends on it may differ"
        )
    if not all(life.replayable for life in log.lives):
        notes.append("part of the log was written without audit.replay, and is taken as recorded")
    if lost := sum(life.lost for life in log.lives):
        notes.append(f"{lost} exchanges were not recorded, as the disk was too slow")
    if base.state != MEMORY:
        notes.append(
            "what other workers and replicas told through the shared state is not recorded: each "
            "worker is replayed alone, and what depended on others may differ"
        )
    if log.torn:
        notes.append("the log ends within a record, as a crash leaves it or a writer at work")
    return notes


def of_capture(path: Path, configuration: Path, given: Amendments) -> dict[str, Any]:
    """Judges the rows of a capture; as JSON has it. Of a capture only that can be told: it holds
    neither order nor moments, so that limits, patterns and bans have nothing to go by.

    Raises:
        Incomplete: if it is no capture, or the bundles cannot judge it.
        SettingsError, BuildError, NoSuchEndpointError, OSError: as :func:`of_log`.
    """
    try:
        sample = Sample.decode(path.read_bytes())
    except SampleError as error:
        raise Incomplete(f"{path} is neither an audit log nor a capture: {error}") from None
    chosen = given.endpoint or sample.endpoint
    base = Amendments().load(configuration)
    was = _flags(load_bundles(base), chosen, sample)
    told: dict[str, Any] = {
        "capture": str(path),
        "endpoint": chosen,
        "rows": len(sample),
        "flagged": {name: int(flags.sum()) for name, flags in was.items()},
    }
    if given:
        would = _flags(load_bundles(given.load(configuration)), chosen, sample)
        told["what_if"] = {
            "changed": given.words(),
            "rules": {name: _compared(was.get(name), flags) for name, flags in would.items()},
            "clients": _by_client(sample, _any(was, sample), _any(would, sample)),
        }
    return told


_Flags = np.ndarray[Any, np.dtype[np.bool_]]


def _flags(bundles: Mapping[str, Bundle], name: str, sample: Sample) -> dict[str, _Flags]:
    """Which rows each kind of verdict flags, by its rule."""
    bundle = bundles.get(name)
    if bundle is None:
        raise Incomplete(f"endpoint {name} has no bundle, or there is none of this name")
    if bundle.features != sample.rows.shape[1] and bundle.embedding is None:
        raise Incomplete(
            f"the bundle scores {bundle.features} features, the capture has {sample.rows.shape[1]}"
        )
    try:
        rows = sample.rows if bundle.embedding is None else bundle.embedding.embed(sample.rows)
        before = bundle.scorer.score(rows)
        found = {"BZ-300": before.flagged}
        if bundle.agreement is not None:
            if bundle.agreement.classes is not None and sample.classes != bundle.agreement.classes:
                raise Incomplete("the capture's classes are not those of the bundle")
            after = bundle.agreement.score(rows, sample.read(), before.merged)
            found["BZ-400"] = after.flagged & ~before.flagged
    except (ScoreFault, ValueError) as error:
        raise Incomplete(f"the capture cannot be judged: {error}") from None
    return found


def _compared(was: _Flags | None, would: _Flags) -> dict[str, int]:
    before = np.zeros_like(would) if was is None else was
    return {
        "was": int(before.sum()),
        "would": int(would.sum()),
        "newly": int((would & ~before).sum()),
        "no_longer": int((before & ~would).sum()),
    }


def _any(flags: Mapping[str, _Flags], sample: Sample) -> _Flags:
    every = np.zeros(len(sample), np.bool_)
    for one in flags.values():
        every |= one
    return every


def _by_client(sample: Sample, was: _Flags, would: _Flags) -> list[dict[str, Any]]:
    """By the client's number in the capture, those of most change first."""
    rows = Counter(sample.clients.tolist())
    newly = Counter(sample.clients[would & ~was].tolist())
    no_longer = Counter(sample.clients[was & ~would].tolist())
    order = sorted(newly | no_longer, key=lambda one: -(newly[one] + no_longer[one]))
    told = []
    for client in order[:20]:
        low, high = wilson(newly[client], rows[client])
        told.append(
            {
                "client": client,
                "rows": rows[client],
                "newly_flagged": newly[client],
                "low": low,
                "high": high,
                "no_longer": no_longer[client],
            }
        )
    return told
