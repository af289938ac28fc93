"""``bartizan replay`` as it is typed."""

import json

import pytest
from click.testing import CliRunner
from small_models import draw
from test_recorded_logs import recorded
from test_whatif import sample

from proxy.cli import main


@pytest.fixture
def replay(configuration):
    """Runs the command under a configuration, on the log of that or on what is given."""
    path = configuration()
    log = recorded(path)

    def run(*arguments, recording=log, configuration=path):
        given = ["replay", str(recording), "--configuration", str(configuration), *arguments]
        return CliRunner().invoke(main, given)

    run.log, run.path = log, path
    return run


def test_equal_decisions_end_well(replay):
    done = replay()
    assert done.exit_code == 0, done.output
    count = len([line for line in replay.log.read_text().splitlines() if '"exchange"' in line])
    assert " decisions equal (" in done.output
    assert count > 20


def test_what_would_change_is_told_by_rule_and_client(replay, fitted_bundles):
    done = replay("--bundle", str(fitted_bundles[1]), "--set", "endpoints.m.on_outlier=allow")
    assert done.exit_code == 0, done.output
    for words in ("newly refused: ", "newly passed: ", "By rule", "BZ-", "would have asked"):
        assert words in done.output


def test_as_json(replay):
    told = json.loads(replay("--set", "endpoints.m.mode=monitor", "--json").output)
    assert told["ok"] and told["unequal"] == 0
    assert told["what_if"]["changed"] == ["--set endpoints.m.mode=monitor"]


def test_what_differs_is_listed_and_ends_ill(replay):
    text = replay.log.read_text().replace('"flagged_rows":0', '"flagged_rows":7', 1)
    replay.log.write_text(text)
    done = replay()
    assert done.exit_code == 1
    assert "flagged_rows: was 7, now 0" in done.output
    assert "not intact: audit.jsonl:" in done.output


def test_a_record_that_cannot_be_is_an_error_of_one_line(replay):
    text = replay.log.read_text().replace('"wall":', '"wail":', 1)
    replay.log.write_text(text)
    done = replay()
    assert done.exit_code == 1
    assert "cannot be replayed: KeyError('wall')" in done.output


def test_a_capture_says_what_it_cannot_tell(replay, fitted_bundles, tmp_path):
    capture = sample(draw(60, 4)[0], tmp_path)
    done = replay("--bundle", str(fitted_bundles[1]), recording=capture)
    assert done.exit_code == 0, done.output
    assert "60 rows of endpoint m" in done.output
    assert "cannot be told" in done.output


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--endpoint", "x", "--policy", "POLICY"), 2, "no endpoint is named 'x'"),
        (("--set", "endpoints.m.mood=calm"), 3, "unknown key"),
        (("--policy", "FAULTY"), 3, "must be a mapping"),
    ],
)
def test_what_cannot_be_done(replay, tmp_path, arguments, status, words):
    (tmp_path / "policy.yaml").write_text("mode: monitor\n")
    (tmp_path / "faulty.yaml").write_text("- mode\n")
    paths = {"POLICY": str(tmp_path / "policy.yaml"), "FAULTY": str(tmp_path / "faulty.yaml")}
    done = replay(*(paths.get(one, one) for one in arguments))
    assert done.exit_code == status, done.output
    assert words in done.output


def test_a_log_that_is_nowhere(replay, tmp_path):
    assert replay(recording=tmp_path / "nowhere.jsonl").exit_code == 1
    assert replay(configuration=tmp_path / "nowhere.yaml").exit_code == 3
