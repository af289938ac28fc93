"""What a wire can carry, and the tensors that it is tried with."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from proxy.protocols.contract import Contract

DTYPES = {
    "BOOL": "?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BYTES": object,
}
EVERY = frozenset(DTYPES)
NUMBERS = EVERY - {"BYTES"}
TEXT = st.text(max_size=6)

# Each codec's class runs the same property: an example that failed one is tried on all.
several = settings(
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)


@st.composite
def shapes(draw, rows):
    """Of a tensor of that many rows, with one to three dimensions."""
    return (rows, *draw(st.lists(st.integers(1, 4), max_size=2)))


def columns(rows):
    """Of a column of a data frame: one dimension."""
    return st.just((rows,))


def matrices(rows):
    """Of rows of numbers: two dimensions."""
    return st.tuples(st.just(rows), st.integers(1, 6))


@dataclass(frozen=True)
class Wire:
    """What one spelling of a protocol can carry. The suite draws nothing else.

    Attributes:
        datatypes: of a request's tensors.
        names: that the codec gives the tensors of a request, in order: as many as it may hold.
        typed: whether the request tells datatypes and shapes. Where it does not, the contract
            declares them: codecs are made with one that does.
        shapes: strategy of a tensor's shape, given its rows.
        shape: one such shape, given the rows: of examples.
        rows: the most rows of one request.
        text: strategy of an element of BYTES, as text.
        delimited: whether a body that lacks its end is always malformed. A line of text less is
            still CSV.
        answers: datatypes of an answer's tensors; none: answers are not read.
        answer_names: as ``names``, of an answer.
        answer_shapes: as ``shapes``, of an answer.
        mutations: how many are tried.
    """

    datatypes: Collection[str] = EVERY
    names: tuple[str, ...] = ("t0", "t1", "t2")
    typed: bool = True
    shapes: Callable[[int], st.SearchStrategy] = shapes
    shape: Callable[[int], tuple[int, ...]] = lambda rows: (rows, 3)
    rows: int = 4
    text: st.SearchStrategy = TEXT
    delimited: bool = True
    answers: Collection[str] = EVERY
    answer_names: tuple[str, ...] = ("t0", "t1", "t2")
    answer_shapes: Callable[[int], st.SearchStrategy] = shapes
    mutations: int = 2000

    @property
    def number(self):
        """The numeric datatype that examples are written in."""
        return _first(self.datatypes, "FP32", "FP64", "INT64", "UINT8")

    def example(self, datatype, rows=1, *, name=0):
        """``{name: (datatype, array)}`` of small values, different where they can be."""
        shape = self.shape(rows)
        count = int(np.prod(shape))
        kinds = {"BOOL": lambda i: i % 2 == 0, "BYTES": lambda i: f"a{i}"}
        values = [kinds.get(datatype, lambda i: i + 1)(i) for i in range(count)]
        return {self.names[name]: (datatype, array_of(datatype, values, shape))}

    def filled(self, datatype, values):
        """Arrays of the example's shape that together hold all the values."""
        shape = self.shape(min(2, self.rows))
        step = int(np.prod(shape))
        for at in range(0, len(values), step):
            yield {self.names[0]: (datatype, np.resize(values[at : at + step], shape))}

    def contract(self, named):
        """The contract under which ``{name: (datatype, array)}`` can be read."""
        if self.typed:
            return Contract()
        return Contract.from_config(
            [
                {"name": name, "datatype": datatype, "shape": (-1, *array.shape[1:])}
                for name, (datatype, array) in named.items()
            ]
        )


def _first(datatypes, *wanted):
    return next(name for name in wanted if name in datatypes)


def same(one, other):
    """Whether two tensors agree bit for bit."""
    if one.dtype == object or other.dtype == object:
        return one.shape == other.shape and one.tolist() == other.tolist()
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def agree(read, tensors, wire):
    """Whether an independent reader found these tensors, and no others.

    Where the wire tells no datatypes, the reader's numbers are taken as the tensor's: which must
    not change them.
    """
    if set(read) != set(tensors):
        return False
    for name, tensor in tensors.items():
        found = np.asarray(read[name])
        if not wire.typed and tensor.dtype != object:
            narrow = found.astype(tensor.dtype)
            if not np.array_equal(narrow, found):
                return False
            found = narrow
        if not same(found, tensor):
            return False
    return True


def array_of(datatype, values, shape):
    """Plain values as a tensor of a datatype; texts become BYTES."""
    if datatype != "BYTES":
        return np.array(values, DTYPES[datatype]).reshape(shape)
    array = np.empty(len(values), object)
    array[:] = [value if isinstance(value, bytes) else value.encode() for value in values]
    return array.reshape(shape)


def elements(datatype, text):
    """Strategy of one finite element."""
    if datatype == "BYTES":
        return text
    dtype = np.dtype(DTYPES[datatype])
    if dtype.kind == "b":
        return st.booleans()
    if dtype.kind == "f":
        # What a float32 row cannot hold is refused, so FP64 is drawn from its range too.
        width = min(32, dtype.itemsize * 8)
        return st.floats(width=width, allow_nan=False, allow_infinity=False)
    info = np.iinfo(dtype)
    return st.integers(int(info.min), int(info.max))


@st.composite
def tensors(draw, datatypes, shape, text):
    """A (datatype, array) pair of one of the datatypes, finite, of the shape."""
    name = draw(st.sampled_from(sorted(datatypes)))
    count = int(np.prod(shape))
    values = draw(st.lists(elements(name, text), min_size=count, max_size=count))
    array = array_of(name, values, shape)
    if name == "FP64" and draw(st.booleans()):
        array = array * np.float64(0.3)  # all 53 bits
    return name, array


@st.composite
def requests(draw, wire):
    """``{name: (datatype, array)}`` that a request on the wire can carry."""
    n = draw(st.integers(1, wire.rows))
    count = draw(st.integers(1, len(wire.names)))
    return {
        name: draw(tensors(wire.datatypes, draw(wire.shapes(n)), wire.text))
        for name in wire.names[:count]
    }


@st.composite
def answers(draw, wire):
    """``{name: (datatype, array)}`` that an answer on the wire can carry."""
    n = draw(st.integers(1, wire.rows))
    count = draw(st.integers(1, len(wire.answer_names)))
    return {
        name: draw(tensors(wire.answers, draw(wire.answer_shapes(n)), wire.text))
        for name in wire.answer_names[:count]
    }


def extremes(datatype):
    """A one-dimensional array of a datatype's edges."""
    dtype = np.dtype(DTYPES[datatype])
    if dtype.hasobject:
        return array_of("BYTES", ["", "é中\U0001f600", '"\\:{[', "a, b"], (4,))
    if dtype.kind == "f":
        info = np.finfo(np.float32 if datatype == "FP64" else dtype)
        small = np.finfo(dtype).smallest_subnormal
        return np.array([info.max, info.min, small, -small, -0.0, 0.0, 1 / 3, info.eps], dtype)
    if dtype.kind == "b":
        return np.array([True, False])
    info = np.iinfo(dtype)
    return np.array([info.min, info.max, 0, 1], dtype)


def arrays_of(named):
    """The arrays alone."""
    return {name: array for name, (_, array) in named.items()}


def head_of(lines):
    """The headers that header lines make, by lower-case name."""
    pairs = [line.split(b": ", 1) for line in lines.split(b"\r\n") if line]
    return {name.lower(): value for name, value in pairs}
