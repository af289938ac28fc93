"""The optional step in front of the detectors: an ONNX model that turns rows into features.

It runs in onnxruntime, on one thread of the processor. What scores then scores in the space that it
maps to. What counts clients' queries keeps to the rows as they came.
"""

from __future__ import annotations

import math
import os
import time
from functools import cache
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from detectors.arrays import Singles, check_rows, frozen
from detectors.base import Rows
from detectors.onnx_graph import check_graph

WIDTH_CAP: Final = 1 << 16
"""Features of a row, and of what it is mapped to."""
_MOST: Final = float(np.finfo(np.float32).max)
MEMORY_CAP: Final = 2 << 30
"""Bytes that all embeddings of a process take together while they run, without their weights."""
_SECONDS_CAP: Final = 1.0
"""Of the processor's time, for a row."""
_CHUNK: Final = 256
_CHUNK_FEATURES: Final = 1 << 18
"""Rows and features at a time: a convolution's temporaries are many times its input."""
_ALIKE: Final = 1e-3
"""How far a row alone and in a batch may differ, relative: kernels round by the batch's size."""


class Embedding:
    """Maps (n, d) rows to (n, e) features. Immutable; any thread.

    The model takes one float tensor, whose first axis is the rows. The other axes are matched with
    ``row_shape``: the same; the same but for axes of length 1; or, for rows of (height, width,
    channels), (channels, height, width), to which they are turned. The axes of the answer behind
    the first are flattened.

    Attributes:
        model: (bytes,) uint8: the model as it was given.
        row_shape: of one row, as the model server takes it.
        features: d.
        outputs: e.
        layout: how a row becomes the model's input: ``as given``, ``reshaped`` or ``channels
            first``.
    """

    def __init__(self, model: npt.NDArray[np.uint8], row_shape: tuple[int, ...]) -> None:
        """Checks the model, loads it, and tries it on made-up rows.

        Raises:
            ImportError: if the ``onnx`` extra is not installed.
            ValueError: if the model is not one that this class serves; says why.
        """
        self.model: Final[npt.NDArray[np.uint8]] = frozen(model, np.uint8, (None,))
        self.row_shape: Final = tuple(int(length) for length in row_shape)
        if not self.row_shape or min(self.row_shape) < 1:
            raise ValueError(f"rows of shape {self.row_shape} cannot be embedded")
        self.features: Final = math.prod(self.row_shape)
        if self.features > WIDTH_CAP:
            raise ValueError(f"rows of more than {WIDTH_CAP} features cannot be embedded")
        data = self.model.tobytes()
        check_graph(data)
        self._session: Final = _session(data)
        try:
            self._input, shape = _input(self._session)
        except UnicodeDecodeError as error:
            raise ValueError("a name in the ONNX model is not UTF-8") from error
        self._single: Final = shape[0] == 1
        layout, self._shape = _layout(self.row_shape, shape[1:])
        self.layout: Final = layout
        outputs = self._session.get_outputs()
        if len(outputs) != 1 or outputs[0].type != "tensor(float)":
            found = ", ".join(f"{output.name}: {output.type}" for output in outputs)
            raise ValueError(f"the embedding must have one output, of floats, and has {found}")
        self.outputs: Final = self._try()

    @classmethod
    def of_parts(cls, scalars: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """What :meth:`parts` took apart.

        Raises:
            ImportError, ValueError: as the constructor; and if the parts are not these.
        """
        shape = scalars.get("row_shape")
        if set(arrays) != {"model"} or not isinstance(shape, list | tuple):
            raise ValueError("these are not the parts of an embedding")
        if not all(isinstance(length, int) for length in shape):
            raise ValueError("the embedding's row shape must be whole numbers")
        made = cls(arrays["model"], tuple(shape))
        for name in ("features", "outputs", "layout"):
            if name in scalars and scalars[name] != getattr(made, name):
                raise ValueError(f"the embedding's {name} is {getattr(made, name)} in truth")
        return made

    def parts(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """(scalars, arrays) that make it again."""
        scalars = {
            "row_shape": list(self.row_shape),
            "features": self.features,
            "outputs": self.outputs,
            "layout": self.layout,
        }
        return scalars, {"model": self.model}

    def embed(self, rows: Rows) -> Singles:
        """(n, d) float32 to (n, e) float32, read by row alone.

        A row that is not finite gives NaN throughout. A finite row that the model cannot represent
        (it overflows) gives the largest float32 throughout: as far from everything as can be.

        Raises:
            ValueError: if ``rows`` is not (n, d) float32, or the model cannot be run on it.
        """
        check_rows(rows, self.features)
        if not len(rows):
            return np.empty((0, self.outputs), np.float32)
        step = max(1, min(_CHUNK, _CHUNK_FEATURES // self.features))
        found = np.concatenate(
            [self._run(rows[start : start + step]) for start in range(0, len(rows), step)]
        )
        if found.shape != (len(rows), self.outputs):
            raise ValueError(f"the embedding gave {found.shape} for {len(rows)} rows")
        if not bool(np.isfinite(found).all() & np.isfinite(rows).all()):
            found[~np.isfinite(found).all(axis=1)] = _MOST
            # A model may drop NaN on the way (a maximum does): the row must not pass for normal.
            found[~np.isfinite(rows).all(axis=1)] = np.nan
        return found

    def _run(self, rows: Rows) -> Singles:
        given = rows.reshape((len(rows), *self.row_shape))
        if self.layout == "channels first":
            given = given.transpose(0, 3, 1, 2)
        given = np.ascontiguousarray(given).reshape((len(rows), *self._shape))
        try:
            if self._single:
                parts = [self._session.run(None, {self._input: row[None]})[0] for row in given]
                found = np.concatenate(parts)
            else:
                found = self._session.run(None, {self._input: given})[0]
        except Exception as error:  # onnxruntime's own types; none of them is public
            raise ValueError(f"the embedding cannot be run: {_first_line(error)}") from error
        return np.array(found, np.float32).reshape(len(given), -1)

    def _try(self) -> int:
        """The number of outputs; refuses a model that is slow, mixes rows or is not repeatable."""
        generator = np.random.default_rng(0)
        rows = generator.random((3, self.features), np.float32)
        try:
            found = self._run(rows)
            start = time.thread_time()
            alone = self._run(rows[1:2])
            seconds = time.thread_time() - start
            again = self._run(rows)
        except ValueError as error:
            raise ValueError(f"{error} (tried on made-up rows of {self.row_shape})") from error
        if seconds > _SECONDS_CAP:
            raise ValueError(f"the embedding takes {seconds:.1f} s of the processor for a row")
        if not 1 <= found.shape[1] <= WIDTH_CAP:
            raise ValueError(f"the embedding gives {found.shape[1]} features for a row")
        if not bool(np.isfinite(found).all()):
            raise ValueError("the embedding of a made-up row between 0 and 1 is not finite")
        scale = _ALIKE * (1.0 + np.abs(found).max())
        if alone.shape[1] != found.shape[1] or float(np.abs(alone - found[1:2]).max()) > scale:
            raise ValueError("the embedding of a row depends on the other rows of the batch")
        if not np.array_equal(found, again):
            raise ValueError("the embedding of a row is not the same twice")
        return int(found.shape[1])


def _runtime() -> Any:
    """onnxruntime, once it is told not to report to its makers.

    Since 1.29 its Linux builds send an identifier of the machine, and what sessions are made of.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # it is read once, as the library is loaded
    try:
        import onnxruntime  # noqa: PLC0415 - an extra, and only where a bundle has an embedding
    except ImportError as error:
        raise ImportError(
            "an embedding needs the extra onnx, pip install '.[onnx]' in a checkout"
        ) from error
    return onnxruntime


def _session(data: bytes) -> Any:
    onnxruntime = _runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # what is wrong is raised
    options.add_session_config_entry("session.use_env_allocators", "1")
    _bound_memory()
    try:
        return onnxruntime.InferenceSession(
            data,
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=0,  # which would print, and try the same again
            # It would compute beside the bounded memory: a few bytes may ask for gigabytes.
            disabled_optimizers=["ConstantFolding"],
        )
    except Exception as error:  # as in _run
        raise ValueError(f"the ONNX model cannot be loaded: {_first_line(error)}") from error


@cache
def _bound_memory() -> None:
    """Once a process: its sessions share one arena, of which a run that needs more is refused."""
    onnxruntime = _runtime()
    kind, memory = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    onnxruntime.create_and_register_allocator(
        onnxruntime.OrtMemoryInfo("Cpu", kind, 0, memory),
        onnxruntime.OrtArenaCfg({"max_mem": MEMORY_CAP}),
    )


def _input(session: Any) -> tuple[str, list[Any]]:
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)":
        found = ", ".join(f"{given.name}: {given.type}" for given in inputs)
        raise ValueError(f"the embedding must take one tensor of floats, and takes {found}")
    shape = list(inputs[0].shape)
    if len(shape) < 2:
        raise ValueError(f"the embedding's input is of shape {shape}: its first axis is the rows")
    if isinstance(shape[0], int) and shape[0] != 1:
        raise ValueError(f"the embedding takes {shape[0]} rows at a time: any number, or 1")
    return inputs[0].name, shape


def _layout(row: tuple[int, ...], wanted: list[Any]) -> tuple[str, tuple[int, ...]]:
    """How rows of this shape become the model's input, and its shape behind the rows.

    A length that the model leaves open fits all.
    """
    if _fits(row, wanted):
        return "as given", row
    if len(row) == 3 and _fits((row[2], row[0], row[1]), wanted):
        return "channels first", (row[2], row[0], row[1])
    if all(isinstance(length, int) for length in wanted) and math.prod(wanted) == math.prod(row):
        longer = [[length for length in shape if length != 1] for shape in (wanted, row)]
        if longer[0] == longer[1] or 1 in (len(wanted), len(row)):
            return "reshaped", tuple(wanted)
    raise ValueError(f"the embedding takes rows of {wanted}, which rows of {list(row)} do not fit")


def _fits(row: tuple[int, ...], wanted: list[Any]) -> bool:
    return len(row) == len(wanted) and all(
        not isinstance(want, int) or want == have for have, want in zip(row, wanted, strict=True)
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
