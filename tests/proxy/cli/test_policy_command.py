"""``bartizan policy test``: the example that ships, and what is said of files that are wrong."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from small_models import classify, draw

from proxy.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A configuration with a bundle of everything, and rows."""
    from detectors.training.fit import fit, write
    from detectors.training.readers import Table

    folder = tmp_path_factory.mktemp("policy")
    rows, labels = draw(1000, 1)
    fitted = fit(
        rows,
        kinds=["mahalanobis"],
        alpha=0.02,
        labels=labels.astype(str),
        answers=classify(rows),
        seen=np.arange(len(rows)) < 400,
        client_alarm_budget=0.05,
    )
    write(fitted, folder / "m.bundle", Table(rows, None, (6,)), created="2026-01-01T00:00:00+00:00")
    said = classify(rows)
    plain = rows[(labels == 0) & (said.probabilities[:, 0] > 0.99)]
    middling = plain[np.argsort(fitted.scorer.score(plain).merged)]
    np.save(folder / "honest.npy", middling[:30])
    np.save(folder / "odd.npy", rows[:3] + 50)
    endpoint = {
        "name": "m",
        "match": "/v2/models/m",
        "upstream": "http://127.0.0.1:9",
        "contract": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 6]}]},
        "bundle": "m.bundle",
        "limits": {"rows_per_request": 100, "rows_per_second": 20, "burst_rows": 100},
    }
    (folder / "bartizan.yaml").write_text(json.dumps({"endpoints": [endpoint]}))
    return folder


def run(folder, text=None, *more):
    path = folder / "tests.yaml"
    if text is not None:
        path.write_text(text)
    return CliRunner().invoke(main, ["policy", "test", str(path), *more])


def steps(*given, **more):
    return json.dumps(
        {
            "configuration": "bartizan.yaml",
            "data": {"honest": "honest.npy", "odd": "odd.npy"},
            "answer": {"output": "y", "row": [0.98, 0.01, 0.01]},
            "tests": [{"name": "a test", "steps": list(given)}],
            **more,
        }
    )


def test_the_example_that_ships_is_as_expected(folder, repository):
    shutil.copy(repository / "config/policy_tests/example.yaml", folder / "tests.yaml")
    done = run(folder)
    assert done.exit_code == 0, done.output
    assert done.output.count("\nok: ") + done.output.startswith("ok: ") == 6
    assert run(folder).output == done.output  # the same every time


WRONG = {
    "action": ({"rows": "odd[0]", "expect": "allow"}, "BZ-300"),
    "rule": ({"rows": "odd[0]", "expect": {"rule": "BZ-601"}}, "expected rule BZ-601"),
    "status": ({"rows": "honest[0]", "expect": {"status": 403}}, "status 200"),
    "within": (
        {"rows": "honest", "repeat": 9, "expect": {"action": "throttle", "within": 2}},
        "it came with request 4",
    ),
    "at most": (
        {"rows": "honest", "repeat": 9, "expect": {"action": "allow", "at_most": 2}},
        "at most 2 times; came 3 times",
    ),
    "at least": (
        {"rows": "honest", "repeat": 9, "expect": {"action": "allow", "at_least": 4}},
        "at least 4 times; came 3 times",
    ),
    "never": ({"rows": "odd", "expect": {"never": "block"}}, "expected never block; request 1"),
    "all": (
        {"rows": "honest", "repeat": 9, "expect": "allow"},
        "expected action allow; request 4 of 9: throttle",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_as_expected_is_told_with_its_reasons(folder, what):
    step, words = WRONG[what]
    done = run(folder, steps({"advance": "1s"}, {"client": "alice", **step}))
    assert done.exit_code == 1
    assert "FAILED at step 2: a test" in done.output
    assert words in done.output


EXPECTING = {"client": "a", "rows": "odd", "expect": "allow"}
FAULTY = {
    "nothing expected": ({"client": "a", "rows": "odd"}, "expects nothing: it could not fail"),
    "only time": ({"advance": "1d"}, "expects nothing: it could not fail"),
    "never reached": (
        {"client": "a", "rows": "odd", "repeat": 3, "expect": {"action": "block", "within": 500}},
        "only 3 are sent",
    ),
    "at least too many": (
        {"client": "a", "rows": "odd", "expect": {"action": "block", "at_least": 2}},
        "only 1 are sent",
    ),
    "at most all": (
        {"client": "a", "rows": "odd", "repeat": 2, "expect": {"action": "block", "at_most": 2}},
        "holds whatever happens",
    ),
    "at least none": (
        {"client": "a", "rows": "odd", "expect": {"action": "block", "at_least": 0}},
        "greater than or equal to 1",
    ),
    "no such data": (
        {"client": "a", "rows": "honset[0]", "expect": "allow"},
        "no data are named 'honset'",
    ),
    "no such row": (
        {"client": "a", "rows": "odd[7]", "expect": "allow"},
        "odd[7]: there are only 3 rows",
    ),
    "nothing": ({"client": "a"}, "needs one of rows, request, advance, ban, forgive"),
    "no client": ({"rows": "odd"}, "rows are sent by a client"),
    "no rule": ({"client": "a", "rows": "odd", "expect": {"rule": "BZ-1"}}, "is no rule"),
    "no expectation": ({"client": "a", "rows": "odd", "expect": {}}, "expects nothing"),
    "a word": ({"client": "a", "rows": "odd", "expects": "allow"}, "did you mean 'expect'"),
    "a duration": ({"advance": "soon"}, "a number and a unit"),
}


@pytest.mark.parametrize("what", FAULTY)
def test_a_faulty_file_is_refused_with_the_place(folder, what):
    step, words = FAULTY[what]
    done = run(folder, steps(step))
    assert done.exit_code == 3
    assert "tests.yaml:1:" in done.output
    assert words in done.output


def test_two_tests_of_one_name_are_refused(folder):
    told = json.loads(steps(EXPECTING))
    told["tests"] *= 2
    done = run(folder, json.dumps(told))
    assert done.exit_code == 3
    assert "another test has this name" in done.output


def test_what_does_not_fit_the_model_is_said(folder):
    done = run(folder, steps({"client": "a", "rows": [[1.0, 2.0]], "expect": "allow"}))
    assert done.exit_code == 3
    assert "bartizan: " in done.output


def test_a_contract_that_would_be_learnt_is_said(folder):
    told = json.loads((folder / "bartizan.yaml").read_text())
    del told["endpoints"][0]["contract"]
    (folder / "learnt.yaml").write_text(json.dumps(told))
    done = run(folder, steps(EXPECTING, configuration="learnt.yaml"))
    assert done.exit_code == 3
    assert "endpoint m learns its contract" in done.output


def test_the_model_says_what_the_file_says(folder):
    """An answer of another class does not go with an honest row."""
    lie = {"output": "y", "row": [0.01, 0.98, 0.01]}
    told = {"client": "a", "rows": "honest[0]", "answer": lie, "expect": {"rule": "BZ-400"}}
    done = run(folder, steps({"client": "a", "rows": "honest[0]", "expect": "allow"}, told))
    assert done.exit_code == 0, done.output


def test_as_json(folder):
    step = {"client": "alice", "rows": "honest[0:2]", "expect": "block"}
    done = run(folder, steps(step), "--json")
    told = json.loads(done.output)
    assert not told["ok"]
    assert told["tests"][0]["failed"] == 1
    assert "expected action block" in told["tests"][0]["words"]


def test_generated_rows_are_the_same_every_time(folder):
    uniform = {"client": "a", "rows": {"uniform": [-9, 9], "count": 3}, "expect": {"status": 1}}
    between = {"client": "a", "rows": {"between": ["honest[0]", "odd[0]"]}, "repeat": 5}
    text = steps(between, uniform).replace('"status": 1}', '"status": 599}')
    first = run(folder, text).output
    assert "expected status 599" in first
    assert run(folder, text).output == first
