"""The conformance suite over MLflow's ``/invocations``: each form of a body, tensors and frames."""

import csv
import io
import json
from dataclasses import dataclass

from conformance import CodecConformance
from conformance_bodies import JsonBodies
from conformance_wire import Wire, columns
from plain_json import (
    INFERRED,
    alone,
    of_columns,
    of_records,
    records,
    tensor,
    written,
)
from plain_json import columns as listed

from proxy.protocols.columns import columns_contract
from proxy.protocols.invocations import Invocations

TYPES = {"FP64": "number", "INT64": "integer", "BOOL": "boolean", "BYTES": "string"}


@dataclass(frozen=True)
class FrameWire(Wire):
    """A data frame: its columns are declared as such."""

    def contract(self, named):
        return columns_contract(
            [{"name": name, "type": TYPES[datatype]} for name, (datatype, _) in named.items()]
        )


def frame(**options):
    options = {"datatypes": INFERRED, "answers": INFERRED, "typed": False} | options
    options |= {"mutations": 1000}
    return FrameWire(shapes=columns, shape=lambda rows: (rows,), **options)


def split(named):
    """``{name: (datatype, array)}`` as pandas' split orient, with its index."""
    lists = listed(named)
    rows = [list(row) for row in zip(*lists.values(), strict=True)]
    return {"index": list(range(len(rows))), "columns": list(lists), "data": rows}


def of_split(value):
    assert list(value) == ["columns", "data"]
    return {
        name: tensor([row[place] for row in value["data"]])
        for place, name in enumerate(value["columns"])
    }


class OverMlflow(JsonBodies, CodecConformance):
    kind = Invocations
    wire = Wire(typed=False, answers=INFERRED, mutations=500)

    def codec(self, contract, **bounds):
        return Invocations("/gateway/digits/invocations", contract, **bounds)

    def target(self):
        return "/gateway/digits/invocations"

    def parse(self, headers, body):
        document = json.loads(body)
        assert list(document) == ["dataframe_split"]
        return of_split(document["dataframe_split"])

    def write_answer(self, named):
        return written({"predictions": records(named)})

    def parse_answer(self, headers, body):
        return of_records(json.loads(body)["predictions"])


class TestSplitOfTensors(OverMlflow):
    def write(self, named):
        return written({"dataframe_split": split(named)})


class TestRecordsOfTensors(OverMlflow):
    def write(self, named):
        return written({"dataframe_records": records(named)})


class TestSplitWithoutNames(OverMlflow):
    wire = Wire(
        names=("dataframe_split",), typed=False, answers=INFERRED, answer_names=("predictions",)
    )

    def write(self, named):
        return written({"dataframe_split": {"data": alone(named)}})

    def parse(self, headers, body):
        return {"dataframe_split": tensor(json.loads(body)["dataframe_split"]["data"])}

    def write_answer(self, named):
        return written({"predictions": alone(named)})

    def parse_answer(self, headers, body):
        return {"predictions": tensor(json.loads(body)["predictions"])}


class TestInstances(TestSplitWithoutNames):
    wire = Wire(names=("instances",), typed=False, answers=INFERRED, answer_names=("predictions",))

    def write(self, named):
        return written({"instances": alone(named)})

    def parse(self, headers, body):
        return {"instances": tensor(json.loads(body)["instances"])}


class TestNamedInstances(OverMlflow):
    def write(self, named):
        return written({"instances": records(named)})

    def parse(self, headers, body):
        return of_records(json.loads(body)["instances"])


class TestNamedInputs(OverMlflow):
    def write(self, named):
        return written({"inputs": listed(named)})

    def parse(self, headers, body):
        return of_columns(json.loads(body)["inputs"])

    def write_answer(self, named):
        return written({"predictions": listed(named)})

    def parse_answer(self, headers, body):
        return of_columns(json.loads(body)["predictions"])


class TestSplit(OverMlflow):
    wire = frame()

    def write(self, named):
        return written({"dataframe_split": split(named)})


class TestRecords(OverMlflow):
    wire = frame()

    def write(self, named):
        return written({"dataframe_records": records(named)})


class TestTable(OverMlflow):
    wire = frame(datatypes={"FP64", "INT64"})

    def write(self, named):
        return written({"instances": split(named)["data"]})

    def parse(self, headers, body):
        rows = json.loads(body)["instances"]
        names = self.wire.names[: len(rows[0])]
        return {name: tensor([row[place] for row in rows]) for place, name in enumerate(names)}


class TestInputsOfColumns(TestNamedInputs):
    wire = frame()


CSV = {b"content-type": b"text/csv; charset=UTF-8"}
CELLS = {
    "BOOL": ["0", "TRUE", "yes", " true", "", "true "],
    "INT64": ["1.0", "1e0", "+1", " 1", "", "0x1", "1_0", "9" * 19, "9" * 30, "true", "nan", "01"],
    "FP64": ["nan", "inf", "-Infinity", "1e999", "", "+1", " 1", "1.", ".5", "1_0", "0x1", "true"],
}


class TestCsv(OverMlflow):
    wire = frame(datatypes={"BOOL", "INT64", "FP64"}, delimited=False)

    def write(self, named):
        return CSV, self.text(listed(named))

    def duplicated(self):
        lists = listed(self.pair())
        first, second = lists
        twice = self.text(lists).replace(second.encode(), first.encode(), 1)
        yield CSV, twice
        rows = [[*row, row[0]] for row in zip(*lists.values(), strict=True)]
        yield CSV, self.lines([[*lists, first], *rows])

    def wrong(self, datatype):
        lists = listed(self.wire.example(datatype))
        (values,) = lists.values()
        for cell in CELLS[datatype]:
            yield CSV, self.lines([list(lists), [cell], *([value] for value in values[1:])])

    def text(self, lists):
        return self.lines([list(lists), *zip(*lists.values(), strict=True)])

    def lines(self, rows):
        file = io.StringIO()
        csv.writer(file).writerows(rows)
        return file.getvalue().encode()
