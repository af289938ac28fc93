"""MLflow's scoring server, with the two clients that MLflow ships."""

import io
import json

import pyarrow
import pyarrow.parquet
import pytest
from real_bytes import A, B, Bytes, Probe, dumps
from real_bytes_json import EVERYWHERE, joined, json_probes
from real_guard import LIMITS, Way
from real_mlflow import MLflow
from real_pairs import Pair
from real_servers import COLUMNS

SERVER = MLflow
DECLARED = {"contract": {"columns": [{"name": name, "type": "number"} for name in COLUMNS]}}
WAYS = {
    # The client of deployments builds this path by itself.
    "deployments": Way(
        "invocations",
        "/endpoints/{model}/invocations",
        "/invocations",
        models={"paced": {"limits": {**LIMITS, "rows_per_second": 1.0}}},
        settings=DECLARED,
    ),
    "invocations": Way("invocations", "/{model}/invocations", "/invocations", settings=DECLARED),
}


class MLflowPair(Pair):
    distribution = "mlflow"
    environment = "mlflow"
    program = "mlflow_driver.py"


class TestScoringServerClient(MLflowPair):
    client = "mlflow (scoring server's)"
    way = "invocations"
    shown_way = "MLflow"
    blocked = ("builtins.Exception", None)  # its class says no more; its words do
    limited = ("builtins.Exception", None)

    def ask(self, driver, guarded, rows, model="linear", *, through=True):
        path = f"/{model}" if through else ""
        base = f"http://127.0.0.1:{guarded.port(through)}{path}"
        return driver.ask(base=base, columns=COLUMNS, rows=rows)

    def test_the_words_of_a_block(self, driver, guarded):
        program = driver(self.environment, self.program)
        answer = self.ask(program, guarded, [[1000.0, -1000.0, 1000.0, -1000.0]])
        assert "error code 403" in answer["message"]
        assert "request refused" in answer["message"]


class TestDeployments(MLflowPair):
    client = "mlflow.deployments"
    way = "deployments"
    shown_way = "MLflow"
    blocked = ("requests.exceptions.HTTPError", "403")
    limited = ("requests.exceptions.HTTPError", "429")

    def ask(self, driver, guarded, rows, model="linear", *, through=True, retries=0):
        """Without retries: it would wait as long as Retry-After says, for minutes."""
        columns, split = list(COLUMNS), {}
        split["dataframe_split"] = {"columns": columns, "data": rows}
        base = f"http://127.0.0.1:{guarded.port(through)}"
        return driver.ask(base=base, endpoint=model, inputs=split, retries=retries)

    def direct(self, driver, guarded, rows):
        """The server has no such path: what it answers on its own, by the other client."""
        base = f"http://127.0.0.1:{guarded.server.port}"
        answer = driver.ask(base=base, columns=COLUMNS, rows=rows)
        return {"result": {"predictions": answer["result"]}}

    def test_it_waits_as_long_as_it_is_told(self, driver, guarded):
        """By default it asks up to eight times, after what Retry-After says: here a second."""
        program = driver(self.environment, self.program)
        row = [[0.5, -0.25, 0.125, 0.75]]
        first = self.ask(program, guarded, row, "paced", retries=None)
        assert self.ask(program, guarded, row, "paced", retries=None) == first
        assert "result" in first
        assert guarded.refused("deployments-paced") == 1


def document(rows):
    return {"dataframe_split": {"columns": COLUMNS, "data": rows}}


def parquet(rows):
    saved = io.BytesIO()
    columns = dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
    pyarrow.parquet.write_table(pyarrow.table(columns), saved)
    return saved.getvalue()


ROW = ",".join(map(repr, A))
CSV = (("Content-Type", "text/csv"),)
PROBES = [
    *json_probes(document, joined(dumps(document([A])), dumps(document([B])))),
    Probe(
        "instances and inputs",
        dumps({"instances": [A], "inputs": [B]}),
        readings=(("takes instances", [A]), ("takes inputs", [B])),
    ),
    Probe(
        "column named twice",
        dumps({"dataframe_split": {"columns": [*COLUMNS, "a"], "data": [[*A, 3.0]]}}),
    ),
    Probe("CSV without a header", f"{ROW}\n{ROW}\n".encode(), CSV),
    Probe("CSV in UTF-16", f"a,b,c,d\n{ROW}\n".encode("utf-16"), CSV),
    Probe("parquet", parquet([A]), (("Content-Type", "application/vnd.apache.parquet"),)),
]


class TestBytes(Bytes):
    protocol = "MLflow"
    DIRECT = (
        ("5000 rows in a request", "answers"),
        ("CSV in UTF-16", "400"),
        ("CSV without a header", "400"),
        ("NaN", "NaN"),
        ("UTF-16", "answers"),
        ("byte order mark", "answers"),
        ("column named twice", "400"),
        ("content type absent", "500"),
        ("duplicate JSON key", "last"),
        ("gzip", "400"),
        ("instances and inputs", "400"),
        ("numeric strings", "coerces"),
        ("parquet", "answers"),
    )
    THROUGH = (
        ("numeric strings", "BZ-203"),  # its columns are declared
        ("content type absent", "BZ-113"),
        ("5000 rows in a request", "BZ-120"),
    )
    EVERYWHERE = (
        *EVERYWHERE,
        ("instances and inputs", "BZ-120"),
        ("column named twice", "BZ-200"),
        ("CSV without a header", "BZ-200"),
        ("CSV in UTF-16", "BZ-120"),
        ("parquet", "BZ-113"),
    )

    def extract(self, body):
        return json.loads(body)["predictions"]

    @pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
    def test_bytes(self, guarded, observe, probe):
        self.compare(guarded, observe, probe, "/invocations", "/linear/invocations")
