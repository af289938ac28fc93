"""A sample of live traffic: rows with the model's answers, in one file that cannot run code.

A gateway draws it, ``bartizan record`` writes it, ``bartizan fit --from-capture`` reads it. The
file is a container as a bundle is: ``sample.json`` and ``.npy`` members whose headers are compared
with what the manifest calls for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Self, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from detectors.agreement.base import Answers
from detectors.arrays import Floats, Singles
from detectors.container import ContainerError, npy_header, pack_members, unpack_members

MANIFEST: Final = "sample.json"
VERSION: Final = 1
ROW_CAP: Final = 1 << 24
WIDTH_CAP: Final = 1 << 16

AnswerKind: TypeAlias = Literal["probabilities", "logits", "labels", "values"]

_DTYPES: Final = {
    "rows": "<f4",
    "answers": "<f8",
    "clients": "<i4",
    "hours": "<i4",
    "uniform": "|u1",
    "digests": "<u8",
}
UNKNOWN: Final = -1


class SampleError(ValueError):
    """The sample is damaged or does not hold together. Says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """n rows with their answers.

    Attributes:
        endpoint: where they were captured.
        kind: what the answers are.
        classes: the names of the classes, in the order of the answers' columns, or of the indices
            that they are if they are labels; empty for values.
        row_shape: of one row on the wire.
        rows: (n, d) float32.
        answers: (n, m) float64: scores of m classes, one index of a class, or m values.
        clients: (n,) int32: a number of the client, the same for all its rows; -1: left out.
        hours: (n,) int32: hours since the epoch; -1: left out.
        uniform: (n,) bool: drawn uniformly from all that came. The others are of rare classes: they
            are good to learn from, and must not calibrate.
        digests: (n,) uint64 of the rows' bytes, by which equal rows are told.
    """

    endpoint: str
    kind: AnswerKind
    classes: tuple[str, ...]
    row_shape: tuple[int, ...]
    rows: Singles
    answers: Floats
    clients: npt.NDArray[np.int32]
    hours: npt.NDArray[np.int32]
    uniform: npt.NDArray[np.bool_]
    digests: npt.NDArray[np.uint64]

    def __post_init__(self) -> None:
        n = len(self.rows)
        columns = (self.clients, self.hours, self.uniform, self.digests)
        if self.rows.ndim != 2 or self.answers.ndim != 2:
            raise SampleError("rows and answers must be tables")
        if len(self.answers) != n or any(column.shape != (n,) for column in columns):
            raise SampleError("there are not as many answers, clients or times as rows")
        if int(np.prod(self.row_shape)) != self.rows.shape[1]:
            raise SampleError("the rows are not of the shape that the sample says")
        if not bool(np.isfinite(self.rows).all() and np.isfinite(self.answers).all()):
            raise SampleError("a row or an answer is not finite")
        width = self.answers.shape[1]
        if self.kind == "labels":
            known = (self.answers >= 0) & (self.answers < len(self.classes))
            if width != 1 or not bool((known & (self.answers == np.rint(self.answers))).all()):
                raise SampleError("a label is of no known class")
        elif self.kind != "values" and (width != len(self.classes) or width < 2):
            raise SampleError("the answers do not have a column for each class")

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: npt.NDArray[Any]) -> Self:
        """The sample of some of the rows: positions, or a mask."""
        return replace(
            self,
            rows=self.rows[rows],
            answers=self.answers[rows],
            clients=self.clients[rows],
            hours=self.hours[rows],
            uniform=self.uniform[rows],
            digests=self.digests[rows],
        )

    def read(self) -> Answers:
        """The answers in the detectors' words, the classes in the order of :attr:`classes`."""
        if self.kind == "values":
            return Answers.of_values(self.answers)
        if self.kind == "labels":
            return Answers.of_labels(self.answers[:, 0].astype(np.int64))
        if self.kind == "logits":
            return Answers.of_logits(self.answers)
        return Answers.of_probabilities(self.answers)

    @classmethod
    def joined(cls, samples: Sequence[Self]) -> Self:
        """Several samples of one endpoint as one; of equal rows the first stays, a uniform one
        before others. Classes of labels are united.

        Raises:
            SampleError: if they are not of one kind, or there is none.
        """
        if not samples:
            raise SampleError("there is no sample")
        first = samples[0]
        for other in samples[1:]:
            same = (other.kind, other.row_shape) == (first.kind, first.row_shape)
            if not same or (first.kind != "labels" and other.classes != first.classes):
                raise SampleError("the samples differ in their rows or in what is answered")
        classes = first.classes
        answers = [sample.answers for sample in samples]
        if first.kind == "labels":
            classes = _united([sample.classes for sample in samples])
            place = {name: index for index, name in enumerate(classes)}
            answers = [
                np.array([[place[sample.classes[int(label)]]] for label in sample.answers[:, 0]])
                .reshape(-1, 1)
                .astype(np.float64)
                for sample in samples
            ]
        every = replace(
            first,
            classes=classes,
            rows=np.concatenate([sample.rows for sample in samples]),
            answers=np.concatenate(answers),
            clients=np.concatenate([sample.clients for sample in samples]),
            hours=np.concatenate([sample.hours for sample in samples]),
            uniform=np.concatenate([sample.uniform for sample in samples]),
            digests=np.concatenate([sample.digests for sample in samples]),
        )
        order = np.argsort(~every.uniform, kind="stable")
        _, kept = np.unique(every.digests[order], return_index=True)
        return every.take(np.sort(order[kept]))

    def within(self, most_bytes: int) -> Self:
        """All of it, or as many of its rows, evenly taken, as a file of so many bytes holds."""
        each = self.rows.itemsize * self.rows.shape[1] + 8 * self.answers.shape[1] + 32
        room = max(most_bytes // each, 1)
        if len(self) <= room:
            return self
        return self.take(np.linspace(0, len(self) - 1, room).round().astype(np.int64))

    def encode(self) -> bytes:
        """The file's bytes."""
        return pack_members(self.members())

    def members(self) -> dict[str, bytes]:
        """What the file holds, by name."""
        arrays = {name: getattr(self, name) for name in _DTYPES}
        manifest = {
            "version": VERSION,
            "endpoint": self.endpoint,
            "kind": self.kind,
            "classes": list(self.classes),
            "row_shape": list(self.row_shape),
            "shapes": {name: list(array.shape) for name, array in arrays.items()},
        }
        members = {MANIFEST: json.dumps(manifest).encode()}
        for name, array in arrays.items():
            data = np.ascontiguousarray(array).astype(_DTYPES[name]).tobytes()
            members[f"{name}.npy"] = npy_header(_DTYPES[name], array.shape) + data
        return members

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Reads a file's bytes strictly.

        Raises:
            SampleError: and nothing else, whatever the bytes.
        """
        try:
            members = unpack_members(data)
            manifest = json.loads(members.pop(MANIFEST))
            return cls._of(manifest, members)
        except SampleError:
            raise
        except ContainerError as error:
            raise SampleError(str(error)) from error
        except (
            *(ValueError, KeyError, TypeError, AttributeError),
            *(RecursionError, OverflowError),
        ) as error:
            raise SampleError(f"this is no sample: {error}") from error

    @classmethod
    def _of(cls, manifest: Any, members: dict[str, bytes]) -> Self:
        if manifest["version"] != VERSION:
            raise SampleError(f"version {manifest['version']!r}: this program reads {VERSION}")
        if manifest["kind"] not in get_args(AnswerKind):
            raise SampleError(f"answers of kind {manifest['kind']!r} are not known")
        if set(members) != {f"{name}.npy" for name in _DTYPES}:
            raise SampleError("an array is missing, or is one too many")
        names = [manifest["endpoint"], *manifest["classes"]]
        sizes = [size for shape in manifest["shapes"].values() for size in shape]
        if len(set(manifest["classes"])) != len(manifest["classes"]):
            raise SampleError("a class is named twice")
        if not all(isinstance(name, str) and _encodes(name) for name in names) or not all(
            type(size) is int and 0 <= size <= ROW_CAP for size in (*sizes, *manifest["row_shape"])
        ):
            raise SampleError("the manifest does not hold together")
        arrays = {}
        for name, dtype in _DTYPES.items():
            shape = tuple(manifest["shapes"][name])
            data, header = members[f"{name}.npy"], npy_header(dtype, shape)
            if not data.startswith(header):
                raise SampleError(f"{name} is not of the shape that the manifest says")
            arrays[name] = np.frombuffer(data, dtype, offset=len(header)).reshape(shape)
        uniform = arrays.pop("uniform").astype(np.bool_)
        return cls(
            endpoint=manifest["endpoint"],
            kind=manifest["kind"],
            classes=tuple(manifest["classes"]),
            row_shape=tuple(manifest["row_shape"]),
            uniform=uniform,
            **arrays,
        )


def _encodes(name: str) -> bool:
    """Whether it is text: a lone surrogate is none."""
    return name.encode(errors="replace").decode() == name


def _united(orders: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """All names: numbers by value, before words."""
    names = {name for order in orders for name in order}
    return tuple(sorted(names, key=class_order))


def class_order(name: str) -> tuple[int, float, str]:
    """What names of classes are sorted by: numbers by value, before words."""
    if name.removeprefix("-").isdecimal():
        return 0, float(name), name
    return 1, 0.0, name
