"""The study of the generator's accuracy: what is compared, and what its page says."""

import json
import sys

import numpy as np
import pytest

from loadtest import accuracy, generators
from loadtest.accuracy import Driven, Found, Row, Study, exact, markdown, nearest_ranks
from loadtest.evidence.results import LoadResult
from loadtest.generators import GeneratorError, Target, Told

STUDY = Study(400, 30, 4, 7, 0, 1, "wrk", "k6", print)
TARGET = Target(("127.0.0.1", 80), "/infer", '{"a": "b\'%"}')


def row(name, factor=1.0, failed=0):
    truth = {"50": 0.03, "90": 0.2, "99": 0.7, "99.9": 0.9}
    told = {percent: value * factor for percent, value in truth.items()}
    return Row(name, Told(1000, 400.0, told, failed, 3), truth, 0.0001)


def test_percentiles_by_nearest_rank():
    values = np.arange(1000, 0, -1) / 1000
    assert nearest_ranks(values) == {"50": 0.5, "90": 0.9, "99": 0.99, "99.9": 0.999}


def test_a_row_is_as_far_off_as_its_worst_percentile():
    assert row("x", 1.5).worst == pytest.approx(0.5)
    assert row("x", 0.6).worst == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("rows", "believed"),
    [
        ([row("bartizan, open", 1.019), row("wrk", 0.1)], True),
        ([row("bartizan, open", 1.021)], False),
        ([row("bartizan, open", float("nan"))], False),
        ([row("bartizan, open", 1.0, failed=1)], False),
        ([row("bartizan, open"), row("bartizan, 2", 0.9)], False),
        ([row("wrk")], False),
        ([], False),
    ],
)
def test_what_counts_as_exact(rows, believed):
    assert exact(Found(rows, [], {}, {})) is believed


def test_the_page_tells_who_is_off_and_who_was_left_out():
    found = Found(
        [row("bartizan, open, one process", 1.01), row("wrk, closed", 0.5)],
        [Driven("bartizan, closed", 20_000, 0.5), Driven("wrk, closed", 40_000, 1.0)],
        {"k6": "k6 is not installed (there)"},
        {"wrk": "wrk 4"},
    )
    text = markdown(found, STUDY, "python -m loadtest.accuracy")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert "30.3 of 30.0 (+1.0%)" in lines[2]
    assert lines[2].endswith("| yes |")
    assert "450.0 of 900.0 (-50.0%)" in lines[3]
    assert lines[3].endswith("| **no** |")
    assert lines[-1] == "| wrk, closed | 40,000 | 2.00 | 100% |"
    assert "- k6 was skipped: k6 is not installed (there)" in text
    assert json.loads(json.dumps(accuracy.as_json(found)))["off"]["wrk, closed"]["90"] == -0.5


def test_a_result_of_ours_as_the_others_report():
    result = LoadResult(
        "l", "p", "honest", "direct", "Poisson", 0, 2.0, 12, 10, late=1, dropped=2,
        statuses={"200": 9}, said={"answered": 9}, errors={"timeout": 1}, good=9,
        percentiles={"50": 0.1},
    )  # fmt: skip
    told = accuracy.told_of(result)
    assert (told.requests, told.rate, told.failed) == (10, 4.5, 1)
    assert (told.late, told.dropped) == (1, 2)
    assert told.percentiles["50"] == 0.1
    assert np.isnan(told.percentiles["99"])


def program(tmp_path, text):
    """A stand-in for a generator: a script that writes what one would."""
    path = tmp_path / "program"
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_wrk_is_asked_and_read(tmp_path):
    name = program(tmp_path, """import sys, pathlib
script = pathlib.Path(sys.argv[sys.argv.index("-s") + 1]).read_text()
assert '"{\\\\"a\\\\": \\\\"b\\'%\\\\"}"' in script, script
assert sys.argv[-1] == "http://127.0.0.1:80/infer" and "-d2s" in sys.argv
print("Running")
print('TOLD {"requests": 10, "seconds": 2.0, "failed": 1, "50": 0.1, "90": 1, "99": 2, "99.9": 3}')
""")  # fmt: skip
    told = generators.wrk(name, TARGET, 2, tmp_path, None)
    assert told == Told(10, 5.0, {"50": 0.1, "90": 1, "99": 2, "99.9": 3}, 1)


@pytest.mark.parametrize(
    ("rate", "executor"), [(None, "constant-vus"), (9, "constant-arrival-rate")]
)
def test_k6_is_asked_and_read(tmp_path, rate, executor):
    name = program(tmp_path, f"""import sys, pathlib, json
assert '"executor": "{executor}"' in pathlib.Path(sys.argv[-1]).read_text()
out = pathlib.Path(sys.argv[sys.argv.index("--summary-export") + 1])
trend = {{"p(50)": 100, "p(90)": 1000, "p(99)": 2000, "p(99.9)": 3000}}
out.write_text(json.dumps({{"metrics": {{
    "http_req_duration": trend, "http_reqs": {{"count": 10, "rate": 5.0}},
    "http_req_failed": {{"passes": 1}}, "dropped_iterations": {{"count": 4}}}}}}))
""")  # fmt: skip
    told = generators.k6(name, TARGET, 2, tmp_path, None, rate=rate)
    assert told == Told(10, 5.0, {"50": 0.1, "90": 1, "99": 2, "99.9": 3}, 1, dropped=4)


def test_a_generator_that_fails_is_an_error(tmp_path):
    broken = program(tmp_path, "raise SystemExit('no such thing')")
    for drive in (generators.wrk, generators.k6):
        with pytest.raises(GeneratorError, match=r"status 1: .*no such thing"):
            drive(broken, TARGET, 2, tmp_path, None)
    silent = program(tmp_path, "")
    for drive in (generators.wrk, generators.k6):
        with pytest.raises(GeneratorError, match=r"nothing|no summary"):
            drive(silent, TARGET, 2, tmp_path, None)


def test_a_missing_generator_is_said():
    assert generators.missing(sys.executable, "x") == ""
    assert "not installed (x)" in generators.missing("no-such-program", "x")


@pytest.mark.parametrize(
    "bad", [["--out", "no-such-page.md"], ["--rate", "nan"], ["--seconds", "0"]]
)
def test_what_cannot_be_measured_is_said_before_it_is(bad, capsys):
    with pytest.raises(SystemExit) as ended:
        accuracy.main(bad)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err
