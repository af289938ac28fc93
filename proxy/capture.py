"""A bounded sample of live traffic, kept in memory, from which a bundle can be fitted.

Two parts, since they serve two ends. The *uniform* part is a reservoir over all rows that came:
what is calibrated on it holds for the traffic as it is, but that no client has more than its share.
The *stratified* part holds a few rows of every class that the model answers, however rare: they are
good to learn from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from detectors.base import Rows
from detectors.sample import UNKNOWN, AnswerKind, Sample, class_order
from proxy.decision import Action, Decision
from proxy.identity import Identity
from proxy.protocols.base import InferResponse

BYTES_CAP: Final = 128 << 20
"""Bytes of captured rows and answers, whatever number of rows is configured."""

CONSIDERED: Final = 256
"""Rows of one exchange that may be taken: the loop is held no longer than by these."""

STRATIFIED_SHARE: Final = 0.1
"""Of the rows held: for rare classes."""

CLASS_CAP: Final = 1024
CLIENT_CAP: Final = 65_536
"""Clients and classes that are told apart; rows of others are left out, and counted."""

_ANSWER_CAP: Final = 4096  # numbers in one row's answer
_NAME_CAP: Final = 256  # bytes of a label: a longer text is no class
_FOREIGN: Final = 100  # rows of another make after which that one may be the right one
_LARGEST_LABEL: Final = 2.0**53
_DUST: Final = 1e-3  # by which the probabilities of a row may miss 1


class Dice(Protocol):
    """What the sample is drawn with: ``random.Random`` will do."""

    def random(self) -> float: ...

    def randrange(self, stop: int, /) -> int: ...

    def sample(self, population: range, k: int) -> list[int]: ...


@dataclass(slots=True)
class _Entry:
    row: Rows
    answer: npt.NDArray[np.float64] | bytes
    digest: int
    client: str
    hour: int


@dataclass(slots=True)
class _Client:
    seen: int = 0
    slots: list[int] = field(default_factory=list)


class Capture:
    """The sample of one endpoint. Belongs to one thread, the loop's.

    Args:
        rows: held at most.
        most_bytes: of rows and answers, at most.
        rows_per_client: of one client, at most, in the uniform part.
        anonymise: whether hours are left out of what is handed over, and clients are numbered with
            a salt that nobody knows, so that no number leads back to one.
        salt: of those numbers.
        output: the tensor that holds the answer; None: the first that could.
        kind: what it holds; ``auto``: told by datatype and shape, and whether rows sum to 1.
        classes: in the order of the output's columns; none: their indices.
        dice: what the sample is drawn with.
    """

    def __init__(
        self,
        *,
        rows: int,
        rows_per_client: int,
        anonymise: bool,
        dice: Dice,
        most_bytes: int = BYTES_CAP,
        salt: bytes = b"",
        output: str | None = None,
        kind: str = "auto",
        classes: Sequence[str] = (),
    ) -> None:
        self._most = rows
        self._most_bytes = most_bytes
        self._per_client = rows_per_client
        self._anonymise = anonymise
        self._dice = dice
        self._salt = salt
        self._output = output
        self._kind = kind
        self._classes = tuple(classes)
        self.left_out: Final[Counter[str]] = Counter()
        """Rows that were not eligible, by the reason."""
        self._seen = 0
        self._begin()

    def _begin(self) -> None:
        """Holds nothing, of no make."""
        self._make: tuple[int, str, int] | None = None  # features, form of the answer, its width
        self._limit = self._most
        self._foreign = 0
        self._eligible = 0  # of each client, no more rows than it may have
        self._uniform: list[_Entry] = []
        self._stratified: dict[object, list[_Entry]] = {}
        self._digests: set[int] = set()
        self._clients: dict[str, _Client] = {}

    def offer(
        self,
        identity: Identity,
        rows: Rows,
        response: InferResponse,
        now: float,
        decision: Decision,
    ) -> None:
        """Rows that were answered. Never raises; copies what it keeps.

        Args:
            rows: (n, d) float32, as on the wire.
            now: seconds since the epoch.
            decision: what would have been done about them: only what nothing speaks against is
                taken for honest.
        """
        n = len(rows)
        if decision.action is not Action.ALLOW or decision.reasons:
            self.left_out["found against"] += n
            return
        found = self._answers(response, n)
        if found is None or not rows.shape[1]:
            self.left_out["not understood"] += n
            return
        form, answers = found
        width = 1 if isinstance(answers, list) else answers.shape[1]
        make = rows.shape[1], form, width
        if self._make not in {None, make}:
            self.left_out["of another make"] += n
            self._foreign += n
            # One odd request must not settle for good what the traffic is like.
            if self._foreign < max(_FOREIGN, len(self._uniform)):
                return
            self._begin()
        if self._make is None:
            self._make = make
            held = 4 * rows.shape[1] + 8 * width + 512
            self._limit = max(1, min(self._most, self._most_bytes // held))
        client = self._clients.get(identity.client)
        if client is None:
            if len(self._clients) >= CLIENT_CAP:
                self.left_out["of too many clients"] += n
                return
            client = self._clients[identity.client] = _Client()
        hour = int(now // 3600)
        self._seen += n
        taken: Iterable[int] = range(n)
        if n > CONSIDERED:
            self.left_out["of large requests"] += n - CONSIDERED
            taken = self._dice.sample(range(n), CONSIDERED)
        for index in taken:
            self._consider(rows[index], answers[index], identity.client, client, hour)

    def _consider(
        self,
        row: Rows,
        answer: npt.NDArray[np.float64] | bytes,
        name: str,
        client: _Client,
        hour: int,
    ) -> None:
        client.seen += 1
        self._eligible += client.seen <= self._per_client
        limit = self._limit - int(self._limit * STRATIFIED_SHARE)
        full = len(self._uniform) >= limit
        saturated = len(client.slots) >= self._per_client
        # A client at its cap only renews its own rows, each of which it sent with equal chance.
        chance = self._per_client / client.seen if saturated else 1.0
        if full and not saturated:
            chance = limit / self._eligible
        wanted = chance >= 1 or self._dice.random() < chance
        stratum = self._stratum(answer)
        if not wanted and stratum is None:
            return
        digest = int.from_bytes(blake2b(row.tobytes(), digest_size=8).digest(), "little")
        if digest in self._digests:
            self.left_out["seen before"] += 1
            return
        entry = _Entry(row.copy(), _copied(answer), digest, name, hour)
        self._digests.add(digest)
        if not wanted:
            assert stratum is not None  # or it would have returned
            self._make_room()
            stratum.append(entry)
        elif saturated:
            self._replace(client.slots[self._dice.randrange(len(client.slots))], entry, client)
        elif full:
            self._replace(self._dice.randrange(limit), entry, client)
        else:
            client.slots.append(len(self._uniform))
            self._uniform.append(entry)

    def _replace(self, slot: int, entry: _Entry, client: _Client) -> None:
        old = self._uniform[slot]
        self._digests.discard(old.digest)
        self._clients[old.client].slots.remove(slot)
        client.slots.append(slot)
        self._uniform[slot] = entry

    def _stratum(self, answer: npt.NDArray[np.float64] | bytes) -> list[_Entry] | None:
        """The rows held for the answer's class, if there is room for one more."""
        assert self._make is not None  # set by the first rows
        form = self._make[1]
        if form == "values":
            return None
        label: object = answer if isinstance(answer, bytes) else int(np.argmax(answer))
        if form == "numbers" and not isinstance(answer, bytes):
            label = float(answer[0])
        if form == "chance" and not isinstance(answer, bytes):
            label = bool(answer[0] > (0.0 if self._kind == "logits" else 0.5))
        held = self._stratified.get(label)
        if held is None:
            if len(self._stratified) >= CLASS_CAP:
                return None
            held = self._stratified[label] = []
        room = int(self._limit * STRATIFIED_SHARE) // max(len(self._stratified), 1)
        return held if len(held) < room else None

    def _make_room(self) -> None:
        """Drops the oldest of the best filled stratum, if the strata hold all that they may."""
        if sum(map(len, self._stratified.values())) >= int(self._limit * STRATIFIED_SHARE):
            old = max(self._stratified.values(), key=len).pop(0)
            self._digests.discard(old.digest)

    def _answers(
        self, response: InferResponse, n: int
    ) -> tuple[str, npt.NDArray[np.float64] | list[bytes]] | None:
        """The form of the answer and its n rows; None if it is not understood.

        Forms: ``scores``, ``chance`` (of the second of two classes), ``numbers`` and ``names``
        (labels), ``values``.
        """
        tensors = response.tensors
        names = list(tensors) if self._output is None else [self._output]
        best: tuple[int, str, npt.NDArray[Any]] | None = None
        for name in names:
            tensor = tensors.get(name)
            if tensor is None or not tensor.ndim or len(tensor) != n or not n:
                continue
            flat = tensor.reshape(n, -1)
            rated = self._form(flat)
            if rated is not None and (best is None or rated[0] > best[0]):
                best = (*rated, flat)
        if best is None:
            return None
        _, form, flat = best
        if form == "names":
            labels: list[bytes] = flat[:, 0].tolist()
            return (form, labels) if max(map(len, labels)) <= _NAME_CAP else None
        values = flat.astype(np.float64)
        if form == "numbers" and not bool(
            ((np.rint(values) == values) & (np.abs(values) < _LARGEST_LABEL)).all()
        ):
            return None
        return (form, values) if bool(np.isfinite(values).all()) else None

    def _form(self, flat: npt.NDArray[Any]) -> tuple[int, str] | None:
        kind, dtype, width = self._kind, flat.dtype.kind, flat.shape[1]
        if not 1 <= width <= _ANSWER_CAP:
            return None
        if kind == "values":
            return (3, "values") if dtype in "fiu" else None
        if dtype == "f" and width > 1 and kind != "labels":
            return 3, "scores"
        if width > 1:
            return None
        if dtype == "O":
            return 2, "names"
        if dtype in "iub" or kind == "labels":
            return 2, "numbers"
        if dtype == "f":
            return (3, "chance") if kind in {"probabilities", "logits"} else (1, "values")
        return None

    def status(self) -> dict[str, Any]:
        """What is held, in plain values: rows, clients, and why others were left out."""
        return {
            "rows": len(self._uniform) + sum(map(len, self._stratified.values())),
            "uniform": len(self._uniform),
            "rows_at_most": self._limit,
            "seen": self._seen,
            "clients": sum(bool(client.slots) for client in self._clients.values()),
            "classes": len(self._stratified),
            "left_out": dict(self.left_out),
        }

    def sample(self, endpoint: str, row_shape: Sequence[int] | None = None) -> Sample | None:
        """What is held, as one value; None if that is nothing.

        Args:
            row_shape: of one row on the wire, where it is known; None: flat.
        """
        taken = self.taken()
        return None if taken is None else taken(endpoint, row_shape)

    def taken(self) -> Callable[[str, Sequence[int] | None], Sample] | None:
        """As :meth:`sample`, in two steps: the entries as of now, at once; and a call that makes a
        sample of them, for a thread."""
        if self._make is None or not self._uniform:
            return None
        entries = list(self._uniform)
        count = len(entries)
        for held in self._stratified.values():
            entries += held
        make, kind, classes = self._make, self._kind, self._classes
        plain, salt = not self._anonymise, self._salt if self._anonymise else b""

        def sample(endpoint: str, row_shape: Sequence[int] | None = None) -> Sample:
            named, columns, answers = _told(entries, make[1], kind, classes)
            return Sample(
                endpoint=endpoint,
                kind=named,
                classes=columns,
                row_shape=tuple(row_shape or (make[0],)),
                rows=np.stack([entry.row for entry in entries]),
                answers=answers,
                clients=np.array([_number(entry.client, salt) for entry in entries], np.int32),
                hours=np.array([entry.hour if plain else UNKNOWN for entry in entries], np.int32),
                uniform=np.arange(len(entries)) < count,
                digests=np.array([entry.digest for entry in entries], np.uint64),
            )

        return sample


def _number(client: str, salt: bytes) -> int:
    """A client's number, the same in every worker unless they salt it differently."""
    digest = blake2b(client.encode(), digest_size=4, key=salt).digest()
    return int.from_bytes(digest, "little") >> 1


def _copied(answer: npt.NDArray[np.float64] | bytes) -> npt.NDArray[np.float64] | bytes:
    return answer if isinstance(answer, bytes) else answer.copy()


def _told(
    entries: Sequence[_Entry], form: str, kind: str, classes: tuple[str, ...]
) -> tuple[AnswerKind, tuple[str, ...], npt.NDArray[np.float64]]:
    """The answers of a sample: what they are, the classes, and (n, m) numbers."""
    if form == "names":
        texts = [bytes(entry.answer).decode("utf-8", "replace") for entry in entries]
        return _labels(texts, classes)
    answers = np.stack([np.asarray(entry.answer, np.float64) for entry in entries])
    if form == "values":
        return "values", (), answers
    if form == "numbers":
        indices = answers[:, 0].astype(np.int64).tolist()
        inside = classes and all(0 <= index < len(classes) for index in indices)
        return _labels([classes[i] if inside else str(i) for i in indices], classes)
    if form == "chance":
        second = answers
        scores = np.hstack([np.zeros_like(second), second])
        if kind != "logits":
            scores = np.hstack([1 - second, second])
        return ("logits" if kind == "logits" else "probabilities"), classes or ("0", "1"), scores
    columns = classes or tuple(map(str, range(answers.shape[1])))
    if kind in {"probabilities", "logits"}:
        return ("logits" if kind == "logits" else "probabilities"), columns, answers
    chances = bool((answers >= 0).all()) and bool(
        (np.abs(answers.sum(axis=1) - 1) <= _DUST * answers.shape[1]).all()
    )
    return ("probabilities" if chances else "logits"), columns, answers


def _labels(
    texts: Sequence[str], classes: tuple[str, ...]
) -> tuple[AnswerKind, tuple[str, ...], npt.NDArray[np.float64]]:
    names = tuple(sorted({*texts, *classes}, key=class_order))
    place = {name: float(index) for index, name in enumerate(names)}
    return "labels", names, np.array([[place[text]] for text in texts])
