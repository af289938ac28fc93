"""The conformance suite over SageMaker's containers: CSV, JSON, JSON Lines and NPY."""

import csv
import io
import json

import numpy as np
from conformance import CodecConformance
from conformance_bodies import JsonBodies, misfits, with_a_member_twice
from conformance_wire import DTYPES, NUMBERS, Wire, matrices
from plain_json import INFERRED, alone, of_records, records, tensor, written

from proxy.protocols.sagemaker import SageMaker

PATH = "/endpoints/digits/invocations"
MIXED = Wire(
    names=("instances",),
    typed=False,
    shapes=matrices,
    answers=INFERRED,
    answer_names=("predictions",),
)


class OverSageMaker(CodecConformance):
    kind = SageMaker
    wire = MIXED

    def codec(self, contract, **bounds):
        return SageMaker(PATH, contract, **bounds)

    def target(self):
        return PATH


def rows_of(value):
    """Rows, also where one stands for itself."""
    array = tensor(value)
    return array[None] if array.ndim == 1 else array


class TestBareJson(JsonBodies, OverSageMaker):
    def duplicated(self):
        """A list has no members: an object around it has."""
        headers, body = written({"instances": alone(self.pair())})
        for odd in with_a_member_twice(body):
            yield headers, odd

    def write(self, named):
        return written(alone(named))

    def parse(self, headers, body):
        return {"instances": rows_of(json.loads(body))}

    def write_answer(self, named):
        return self.write(named)

    def parse_answer(self, headers, body):
        return {"predictions": tensor(json.loads(body))}


class TestInstances(JsonBodies, OverSageMaker):
    def write(self, named):
        return written({"instances": alone(named)})

    def parse(self, headers, body):
        document = json.loads(body)
        assert list(document) == ["instances"]
        return {"instances": rows_of(document["instances"])}

    def write_answer(self, named):
        return written({"predictions": alone(named)})

    def parse_answer(self, headers, body):
        document = json.loads(body)
        assert list(document) == ["predictions"]
        return {"predictions": tensor(document["predictions"])}


class TestNamedInstances(JsonBodies, OverSageMaker):
    """As the built-in algorithms have them; answers of several values a row."""

    wire = Wire(typed=False, answers=INFERRED)

    def write(self, named):
        return written({"instances": records(named)})

    def parse(self, headers, body):
        return of_records(json.loads(body)["instances"])

    def write_answer(self, named):
        return written({"predictions": records(named)})

    def parse_answer(self, headers, body):
        return of_records(json.loads(body)["predictions"])


LINES = {b"content-type": b"application/jsonlines"}


def lines_of(rows):
    return b"\n".join(json.dumps(row).encode() for row in rows) + b"\n"


class TestJsonLines(JsonBodies, OverSageMaker):
    wire = Wire(typed=False, delimited=False, answers=INFERRED, answer_names=("t0",))

    def duplicated(self):
        headers, body = self.write(self.pair())
        first, second = body.split(b"\n")[:2]
        for odd in with_a_member_twice(second):
            yield headers, first + b"\n" + odd

    def write(self, named):
        return LINES, lines_of(records(named))

    def parse(self, headers, body):
        assert headers == LINES
        return of_records([json.loads(line) for line in body.split(b"\n")])

    def write_answer(self, named):
        return self.write(named)

    def parse_answer(self, headers, body):
        return self.parse(headers, body)


CSV = {b"content-type": b"text/csv"}


class TestCsv(OverSageMaker):
    wire = Wire(
        NUMBERS - {"BOOL"},
        names=("features",),
        typed=False,
        shapes=matrices,
        delimited=False,
        answers={"INT64", "FP64"},
        answer_names=("predictions",),
        answer_shapes=matrices,
    )

    def cells(self, named):
        ((_, array),) = named.values()
        return [list(map(repr, row)) for row in array.tolist()]

    def text(self, cells):
        return CSV, "\n".join(map(",".join, cells)).encode()

    def duplicated(self):
        cells = self.cells(self.pair())
        yield self.text([[row[0], *row] for row in cells])
        yield self.text([cells[0], [*cells[1], cells[1][0]]])

    def wrong(self, datatype):
        for literal in misfits(datatype):
            cells = self.cells(self.wire.example(datatype))
            cells[0][0] = literal
            yield self.text(cells)
            yield self.text([["", *cells[0][1:]]])
            yield self.text([[" 1", *cells[0][1:]]])

    def write(self, named):
        return self.text(self.cells(named))

    def parse(self, headers, body, name="features"):
        assert headers == CSV
        rows = list(csv.reader(io.StringIO(body.decode(), newline=""), strict=True))
        return {name: tensor([[json.loads(cell) for cell in row] for row in rows])}

    def write_answer(self, named):
        return self.write(named)

    def parse_answer(self, headers, body):
        return self.parse(headers, body, "predictions")


NPY = {b"content-type": b"application/x-npy"}
BINARY = {"test_text_that_is_not_plain_utf_8": "the body is no text"}


def saved(array, **how):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **how)
    return file.getvalue()


class TestNpy(OverSageMaker, without=BINARY):
    wire = Wire(
        NUMBERS, names=("features",), answers=NUMBERS, answer_names=("predictions",), rows=4
    )
    how = {"version": (1, 0)}  # noqa: RUF012 - a constant

    def duplicated(self):
        headers, body = self.write(self.pair())
        yield headers, body + body
        for key in (b"'descr': '<f4', ", b"'fortran_order': False, "):
            assert key in body
            yield headers, body.replace(key, key + key).replace(b" " * len(key) + b"\n", b"\n")

    def wrong(self, datatype):
        named = self.wire.example(datatype)
        headers, body = self.write(named)
        ((_, array),) = named.values()
        descr = f"'{array.dtype.str}'".encode()
        assert descr in body
        size = array.dtype.itemsize
        for odd in (b"'|O'", b"'>f4'", f"'|V{size}'".encode(), f"'|S{size}'".encode(), b"'<c8'"):
            gap = len(descr) - len(odd)
            yield headers, body.replace(descr, odd + b" " * gap if gap > 0 else odd)
        if array.dtype.kind == "f":
            for value in (np.nan, np.inf, -np.inf):
                yield headers, saved(np.full(array.shape, value, array.dtype), **self.how)
        if array.dtype.kind == "b":
            yield headers, body[:-1] + b"\2"

    def write(self, named):
        ((datatype, array),) = named.values()
        return NPY, saved(array.astype(DTYPES[datatype]), **self.how)

    def parse(self, headers, body, name="features"):
        assert headers == NPY
        return {name: np.load(io.BytesIO(body), allow_pickle=False)}

    def write_answer(self, named):
        return self.write(named)

    def parse_answer(self, headers, body):
        return self.parse(headers, body, "predictions")


class TestColumnMajorNpy(TestNpy):
    """As numpy saves what a data frame holds; of version 2."""

    how = {"version": (2, 0)}  # noqa: RUF012 - a constant

    def write(self, named):
        ((datatype, array),) = named.values()
        return NPY, saved(np.asfortranarray(array.astype(DTYPES[datatype])), **self.how)

    def wrong(self, datatype):
        for headers, body in super().wrong(datatype):
            yield headers, body.replace(b"'fortran_order': False", b"'fortran_order': True ")

    def duplicated(self):
        headers, body = self.write(self.pair())
        yield headers, body + body
