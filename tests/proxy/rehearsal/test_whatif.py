"""What another bundle, budget or policy would have decided."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from live_gateway import body_of, serving
from small_models import classify, draw

from detectors.sample import Sample
from proxy.build import BuildError, load_bundles
from proxy.rehearsal.amendments import Amendments, NoSuchEndpointError
from proxy.rehearsal.recorded import read_log
from proxy.rehearsal.replay import Player
from proxy.rehearsal.stage import Stage
from proxy.rehearsal.tally import wilson
from proxy.rehearsal.whatif import Incomplete, of_capture, of_log
from proxy.settings.problems import SettingsError


@pytest.fixture
def log(configuration):
    """A configuration, and the log of some clients' rows, honest and less so."""
    path = configuration()
    rows, _ = draw(120, 8)
    rows[100:] *= np.linspace(1.0, 3.0, 20, dtype=np.float32)[:, None]

    async def run():
        async with serving(path) as live:
            for index, row in enumerate(rows):
                live.now += 60.0
                await live.ask(f"10.0.0.{index % 7}", body_of(row))
            return live.settings.audit.path

    return path, asyncio.run(run())


def flagged(path, log, given):
    """Which exchanges are outliers."""
    settings = given.load(path)
    found = {}

    async def run():
        for life in read_log(log).lives:
            player = Player(Stage(settings, load_bundles(settings)), tell)
            await player.begin()
            for moment, record in life.records():
                await player.play(moment, record)
            await player.end()

    def tell(outcome):
        rules = {reason["rule"] for reason in outcome.now["reasons"]}
        found[outcome.was["id"]] = "BZ-300" in rules

    asyncio.run(run())
    return {name for name, is_outlier in found.items() if is_outlier}


def test_a_lower_budget_flags_fewer_of_the_same(log):
    path, audit = log
    before = flagged(path, audit, Amendments())
    for budget in (0.015, 0.01):
        change = f"endpoints.m.false_positive_budget={budget}"
        after = flagged(path, audit, Amendments(changes=(change,)))
        assert after <= before
        before = after
    assert before


def test_another_bundle_is_compared(log, fitted_bundles):
    path, audit = log
    told = asyncio.run(of_log(audit, path, Amendments(bundle=fitted_bundles[1]), 3))
    assert told["ok"] and told["equal"] == 120
    change = told["what_if"]
    assert change["exchanges"] == 120
    assert sum(one["exchanges"] for one in change["actions"]) == 120
    refused = sum(one["exchanges"] for one in change["actions"] if one["was"] == "block")
    assert change["newly_passed"]["of"] == refused
    assert change["newly_refused"]["of"] == 120 - refused
    for one in change["rules"].values():
        assert one["would"] - one["was"] == one["newly"] - one["no_longer"]
    assert len(change["clients"]["most_changed"]) <= 3


def test_the_same_again_changes_nothing(log, fitted_bundles):
    path, audit = log
    told = asyncio.run(of_log(audit, path, Amendments(bundle=fitted_bundles[0]), 3))["what_if"]
    assert told["newly_refused"]["exchanges"] == told["newly_passed"]["exchanges"] == 0
    assert told["clients"]["changed"] == 0


def test_a_policy_that_lets_all_pass(log, tmp_path):
    path, audit = log
    policy = tmp_path / "policy.yaml"
    policy.write_text("on_outlier: allow\non_disagreement: allow\non_pattern: []\n")
    told = asyncio.run(of_log(audit, path, Amendments(policy=policy), 3))["what_if"]
    assert {one["would"] for one in told["actions"]} == {"allow"}
    assert told["newly_passed"]["exchanges"] == told["newly_passed"]["of"] > 0
    assert told["rules"]["BZ-300"]["no_longer"] == 0  # it is still found


def test_quotas_that_would_have_been(log):
    path, audit = log
    changes = ("endpoints.m.limits.rows_per_day=10", "endpoints.m.limits.rows_per_request=10")
    told = asyncio.run(of_log(audit, path, Amendments(changes=changes), 3))["what_if"]
    assert told["rules"]["BZ-602"]["newly"] == 120 - 7 * 10
    assert told["newly_refused"]["exchanges"] > 0


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"endpoint": "x", "bundle": Path("x")}, NoSuchEndpointError, "no endpoint is named 'x'"),
        ({"changes": ("endpoints.x.mode=monitor",)}, NoSuchEndpointError, "there are: m"),
        ({"changes": ("mode",)}, NoSuchEndpointError, "KEY=VALUE"),
        ({"changes": ("endpoints.m.mood=monitor",)}, SettingsError, r"endpoints\[0\]\.mood"),
        ({"changes": ("endpoints.m.name=n",)}, NoSuchEndpointError, "name"),
        ({"changes": ("endpoints.m.false_positive_budget=1e-9",)}, BuildError, "budget"),
    ],
)
def test_what_cannot_be_asked_is_said(log, given, error, words):
    path, audit = log
    with pytest.raises(error, match=words):
        asyncio.run(of_log(audit, path, Amendments(**given), 3))


def test_what_is_wrong_in_a_policy_is_told_by_its_key(configuration, tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text("on_outlier: throttle\n")
    with pytest.raises(SettingsError, match=r"endpoints\[0\]\.on_outlier: must be"):
        Amendments(policy=policy).load(configuration())


def sample(rows, tmp_path):
    said = classify(rows).probabilities
    n = len(rows)
    made = Sample(
        endpoint="m",
        kind="probabilities",
        classes=("0", "1", "2"),
        row_shape=(6,),
        rows=rows,
        answers=said,
        clients=np.arange(n, dtype=np.int32) % 4,
        hours=np.zeros(n, np.int32),
        uniform=np.ones(n, np.bool_),
        digests=np.arange(n, dtype=np.uint64),
    )
    path = tmp_path / "m.capture"
    path.write_bytes(made.encode())
    return path


def test_of_a_capture_rows_can_be_judged(configuration, fitted_bundles, tmp_path):
    rows, _ = draw(200, 4)
    rows[:20] += 30
    path = sample(rows, tmp_path)
    told = of_capture(path, configuration(), Amendments(bundle=fitted_bundles[1]))
    assert told["rows"] == 200
    assert told["flagged"]["BZ-300"] >= 20
    change = told["what_if"]["rules"]["BZ-300"]
    assert change["was"] == told["flagged"]["BZ-300"]
    assert change["would"] >= 20


def test_what_is_no_recording_is_said(configuration, tmp_path):
    path = tmp_path / "m.capture"
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(Incomplete, match="neither an audit log nor a capture"):
        of_capture(path, configuration(), Amendments())


def test_shares_have_wilsons_interval():
    low, high = wilson(0, 120)
    assert low == 0.0 and high == pytest.approx(0.0310, abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)
