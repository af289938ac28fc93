"""The part of a plan that one process sends, in memory and in a folder."""

from __future__ import annotations

import json
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from loadtest.load.plan import Address, Indices, Part, Plan, Times, Tls, Wire

Message = bytes | memoryview | tuple[Any, Any]

_NOTE: Final = "share-{}.json"
_TIMES: Final = "times-{}.npy"
_WHICH: Final = "which-{}.npy"
_TURNS: Final = "turns-{}.npy"
_MESSAGES: Final = "messages-{}.bin"
_ENDS: Final = "ends-{}.npy"
_METADATA: Final = "metadata-{}.json"


@dataclass(frozen=True, slots=True)
class Group:
    """What one process sends of one part: as ``Part`` and ``Plan``, but for the messages."""

    messages: Sequence[Message]
    connections: int
    queue: int
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """What one process sends; fields are those of the plan.

    Attributes:
        turns: (n,) the index, within its part, of the message that each request is.
    """

    address: Address
    wire: Wire
    tls: Tls | None
    timeout: float
    method: str
    groups: Sequence[Group]
    times: Times
    which: Indices
    turns: Indices


def turns_of(plan: Plan) -> Indices:
    """(n,) the how-manieth of its part each request is."""
    turns = np.zeros(len(plan.times), np.int64)
    for number in range(len(plan.parts)):
        mine = plan.which == number
        turns[mine] = np.arange(int(mine.sum()))
    return turns


def owner_of(plan: Plan) -> Indices:
    """(n,) the process that sends each request: of each part, in turn."""
    return turns_of(plan) % plan.processes


def share_of(plan: Plan, process: int) -> Share:
    """What one of the plan's processes sends."""
    mine = owner_of(plan) == process
    firsts = np.array([part.first for part in plan.parts])
    sizes = np.array([len(part.requests) for part in plan.parts])
    which = plan.which[mine]
    turns = (turns_of(plan)[mine] + firsts[which]) % sizes[which]
    groups = [_group(plan, part, process) for part in plan.parts]
    return Share(
        plan.address, plan.wire, plan.tls, plan.timeout, plan.method, groups,
        plan.times[mine], which, turns,
    )  # fmt: skip


def _group(plan: Plan, part: Part, process: int) -> Group:
    def portion(whole: int) -> int:
        return whole // plan.processes + (process < whole % plan.processes)

    sources = tuple(part.sources or plan.sources)
    if len(sources) >= plan.processes:
        sources = sources[process :: plan.processes]
    return Group(part.requests, portion(plan.connections), portion(plan.queue), sources)


def write(plan: Plan, folder: Path) -> None:
    """Writes every process's share. The messages are written once, and read by all."""
    for number, part in enumerate(plan.parts):
        _write_messages(part, number, folder)
    for process in range(plan.processes):
        share = share_of(plan, process)
        for name, array in ((_TIMES, share.times), (_WHICH, share.which), (_TURNS, share.turns)):
            np.save(folder / name.format(process), array, allow_pickle=False)
        note = {
            "address": share.address, "wire": share.wire,
            "tls": None if share.tls is None else _plain(share.tls),
            "timeout": share.timeout, "method": share.method,
            "groups": [[g.connections, g.queue, g.sources] for g in share.groups],
        }  # fmt: skip
        (folder / _NOTE.format(process)).write_text(json.dumps(note), encoding="utf-8")


def read(folder: Path, process: int) -> Share:
    """One process's share; HTTP messages stay in the file that they are mapped from."""
    note = json.loads((folder / _NOTE.format(process)).read_text(encoding="utf-8"))
    address = note["address"]
    groups = [
        Group(_read_messages(folder, number), connections, queue, tuple(sources))
        for number, (connections, queue, sources) in enumerate(note["groups"])
    ]

    def load(name: str) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.load(folder / name.format(process), allow_pickle=False)
        return array

    return Share(
        address if isinstance(address, str) else (address[0], address[1]),
        note["wire"], None if note["tls"] is None else _tls(note["tls"]),
        note["timeout"], note["method"], groups, load(_TIMES), load(_WHICH), load(_TURNS),
    )  # fmt: skip


def _plain(tls: Tls) -> dict[str, Any]:
    values = {field.name: getattr(tls, field.name) for field in fields(tls)}
    return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}


def _tls(plain: dict[str, Any]) -> Tls:
    files = {
        name: None if plain[name] is None else Path(plain[name])
        for name in ("authority", "certificate", "key")
    }
    return Tls(verify=plain["verify"], name=plain["name"], **files)


def _write_messages(part: Part, number: int, folder: Path) -> None:
    metadata = []
    ends = np.zeros(len(part.requests) + 1, np.int64)
    with (folder / _MESSAGES.format(number)).open("wb") as sink:
        for i, request in enumerate(part.requests):
            body: Any = request
            if isinstance(request, tuple):
                head, body = request
                metadata.append(head)
            ends[i + 1] = ends[i] + sink.write(body)
    np.save(folder / _ENDS.format(number), ends, allow_pickle=False)
    if metadata:
        (folder / _METADATA.format(number)).write_text(json.dumps(metadata), encoding="utf-8")


def _read_messages(folder: Path, number: int) -> list[Message]:
    ends = np.load(folder / _ENDS.format(number), allow_pickle=False).tolist()
    if not ends[-1]:
        return [b""] * (len(ends) - 1)
    with (folder / _MESSAGES.format(number)).open("rb") as source:
        whole = memoryview(mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ))
    spans = pairwise(ends)
    metadata = folder / _METADATA.format(number)
    if metadata.exists():
        heads = json.loads(metadata.read_text(encoding="utf-8"))
        return [
            (tuple((name, value) for name, value in head), bytes(whole[begin:end]))
            for head, (begin, end) in zip(heads, spans, strict=True)
        ]
    return [whole[begin:end] for begin, end in spans]
