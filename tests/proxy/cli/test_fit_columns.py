"""``fit --columns`` and ``score --columns``: a table is encoded as the gateway encodes requests."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from detectors.bundle import load_bundle
from detectors.sample import Sample
from detectors.training.readers import DataError
from proxy.cli.column_data import read_columns, read_encoded
from proxy.cli.fit import fit
from proxy.cli.score import score
from proxy.protocols.columns import feature_names
from proxy.protocols.invocations import Invocations

COLUMNS = """\
columns:
  - {name: age, type: integer, min: 0}
  - {name: income, missing: 0}
  - name: colour
    type: category
    values: [red, green, "no"]
    encoding: one_hot
    missing: red
  - {name: note, type: string, missing: ""}
"""
NAMES = ["age", "income", "colour=red", "colour=green", "colour=no"]


def run(command, *arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("columns")
    (folder / "columns.yaml").write_text(COLUMNS)
    rng = np.random.default_rng(0)
    table = {
        "note": ["x, y" if i % 3 else "" for i in range(600)],
        "income": [round(value, 3) for value in rng.normal(size=600).tolist()],
        "colour": rng.choice(["red", "green", "no"], 600).tolist(),
        "age": rng.integers(20, 60, 600).tolist(),
    }
    with (folder / "x.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    table["note"] = [word or None for word in table["note"]]
    pq.write_table(pa.table(table), folder / "x.parquet")
    return folder


def test_csv_parquet_and_requests_are_scored_alike(folder):
    contract = read_columns(folder / "columns.yaml")
    table = read_encoded(folder / "x.csv", contract)
    assert table.names == tuple(NAMES) == feature_names(contract)
    assert table.rows.shape == (600, 5)
    other = read_encoded(folder / "x.parquet", contract)
    assert np.array_equal(table.rows, other.rows)
    head = {b"content-type": b"text/csv"}
    body = (folder / "x.csv").read_bytes().removeprefix(b"\xef\xbb\xbf")
    codec = Invocations("/invocations", contract, max_rows=600)
    request = codec.decode_request(head, body, codec.route("POST", "/invocations"))
    assert np.array_equal(table.rows, request.rows)


def test_a_bundle_knows_its_features(folder):
    out = folder / "b.bundle"
    result = run(
        fit, "--data", folder / "x.csv", "--columns", folder / "columns.yaml", "--out", out,
        "--false-positive-budget", 0.05, "--no-patterns", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert load_bundle(out).manifest.feature_names == NAMES
    result = run(score, out, folder / "x.parquet", "--columns", folder / "columns.yaml", "--json")
    assert result.exit_code in (0, 1), result.output
    assert json.loads(result.output)["rows"] == 600

    (folder / "shuffled.yaml").write_text(COLUMNS.replace("[red, green", "[green, red"))
    result = run(score, out, folder / "x.csv", "--columns", folder / "shuffled.yaml")
    assert result.exit_code == 1
    assert "feature 2 of the columns is 'colour=green', that of the bundle" in result.output


def test_captured_features_get_their_names(folder):
    rng = np.random.default_rng(1)
    n = 600
    rows = rng.normal(size=(n, 5)).astype(np.float32)
    sample = Sample(
        "houses", "values", (), (5,), rows, rows[:, :1].astype(np.float64),
        np.full(n, -1, np.int32), np.full(n, -1, np.int32), np.ones(n, bool),
        np.arange(n, dtype=np.uint64),
    )  # fmt: skip
    (folder / "captured").write_bytes(sample.encode())
    (folder / "one.yaml").write_text("columns: [{name: a}]\n")
    command = ["--from-capture", folder / "captured", "--out", folder / "c.bundle"]
    command += ["--false-positive-budget", 0.05, "--no-patterns", "--no-agreement"]
    result = run(fit, *command, "--columns", folder / "columns.yaml")
    assert result.exit_code == 0, result.output
    assert load_bundle(folder / "c.bundle").manifest.feature_names == NAMES
    result = run(fit, *command, "--columns", folder / "one.yaml")
    assert result.exit_code == 1
    assert "make up 1 features, captured were 5" in result.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("[]", "columns.yaml"),
        ("columns: []", "columns"),
        ("columns: [{name: a}, {name: a}]", "twice"),
        ("columns: [{name: a, type: category}]", "needs 1 to"),
        ("columns: [{name: a, tpye: number}]", "tpye"),
        ("columns: [{name: a, name: b}]", "name"),
        ("inputs: []", "columns"),
        ("columns: [{name: a, min: '1'}]", "min"),
    ],
)
def test_a_declaration_that_cannot_be_used(tmp_path, text, words):
    path = tmp_path / "columns.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_columns(path)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.npy", "", "csv or .parquet"),
        ("x.csv", "", "line 1 of the CSV is empty"),
        ("x.csv", "a,b\n", "no rows"),
        ("x.csv", "a,c\n1,2\n", "the column 'b' is missing"),
        ("x.csv", "a,b,c\n1,x,2\n", "the column 'c' is not one"),
        ("x.csv", "a,b\n1,z\n", "b has a category that is not declared"),
        ("x.csv", "a,b\nnan,x\n", "a has an element that is not a number"),
        ("x.csv", "a,b\n,x\n", "a has an element that is missing"),
        ("missing.csv", None, "No such file"),
        ("x.parquet", "a,b\n", "not a readable parquet file"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path, name, text, words):
    (tmp_path / "columns.yaml").write_text(
        "columns: [{name: a}, {name: b, type: category, values: [x, y]}]"
    )
    contract = read_columns(tmp_path / "columns.yaml")
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        read_encoded(tmp_path / name, contract)


def test_a_model_is_not_asked_for_columns(folder):
    result = run(
        fit, "--data", folder / "x.csv", "--columns", folder / "columns.yaml",
        "--model", "http://127.0.0.1:1/v2/models/m", "--out", folder / "d.bundle",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "--answers" in result.output


def test_what_does_not_fit_is_named_with_its_row(folder, tmp_path):
    contract = read_columns(folder / "columns.yaml")
    lines = (folder / "x.csv").read_text(encoding="utf-8-sig").splitlines()
    for row in (0, 7, len(lines) - 2):
        wrong = list(lines)
        wrong[row + 1] = '"",1,blue,30'
        (tmp_path / "wrong.csv").write_text("\n".join(wrong))
        with pytest.raises(DataError, match=rf"category that is not declared \(row {row}\)$"):
            read_encoded(tmp_path / "wrong.csv", contract)
    (tmp_path / "wrong.csv").write_text("\n".join(["note,income,colour", "x,1,red"]))
    with pytest.raises(DataError, match=r"'age' is missing$"):
        read_encoded(tmp_path / "wrong.csv", contract)
