"""The benchmark's parts, and a small run of it over a peer that needs nothing but Python."""

import json
from collections import Counter

import numpy as np
import pytest

from loadtest import bench, peers
from loadtest.artefacts import code_digest, kept
from loadtest.comparison import Sample
from loadtest.load.closed import Result
from loadtest.peers import PEERS, Aiohttp, Lab
from loadtest.report import Run, machine, markdown


def sample(peer, case, round_, rate=100.0, fault=""):
    return Sample(peer, case, round_, rate, 1e-5, 0.9, 0.1, 1e-4, 2e-4, fault)


def run(samples, **changes):
    values = {
        "command": "python -m loadtest.bench",
        "date": "2030-01-02",
        "machine": machine({0}, {1}),
        "peers": {"bartizan": "ours", "envoy": "theirs"},
        "versions": {"envoy": "Envoy 1.2.3"},
        "cases": {"64-json": "64 features, JSON"},
        "skipped": {"nginx": "not found"},
        "notes": ["a note"],
        "samples": samples,
    }
    return Run(**(values | changes))


@pytest.mark.parametrize("case", bench.CASES)
def test_every_case_has_a_pool_of_different_requests_of_its_form(case):
    features, binary = bench.parse_case(case)
    pool = bench.build_pool(case, bench.honest_rows(features, bench.POOL, seed=3))
    assert len(set(pool)) == bench.POOL
    # More rows a client than the firewall remembers to tell a retry.
    assert bench.POOL > 256 * peers.CLIENTS
    assert all((b"Inference-Header-Content-Length" in request) is binary for request in pool)
    assert all(f"POST /v2/models/f{features}/infer ".encode() in request for request in pool)


def test_there_are_six_cases():
    assert len(bench.CASES) == 6


def test_honest_rows_are_reproducible_finite_and_hang_together():
    rows = bench.honest_rows(64, 500, seed=1)
    assert np.array_equal(rows, bench.honest_rows(64, 500, seed=1))
    assert not np.array_equal(rows, bench.honest_rows(64, 500, seed=2))
    assert np.isfinite(rows).all()
    values = np.linalg.eigvalsh(np.cov(rows.T))
    assert values[-16:].sum() / values.sum() > 0.8
    # Rows of different seeds are of one distribution: what is fitted on one holds for the other.
    other = bench.honest_rows(64, 500, seed=2)
    assert np.abs(np.cov(rows.T) - np.cov(other.T)).mean() < 0.1


def test_any_answer_but_200_is_a_fault_that_is_named():
    result = Result(1.0, np.array([1.0]), Counter({200: 5, 503: 2}), Counter(reset=1))
    assert not result.clean
    assert bench.fault_of(result) == "statuses {503: 2}, errors {'reset': 1}, 7 answers"


def test_a_run_of_which_most_rounds_fail_is_not_believed():
    samples = [sample("bartizan", "64-json", r) for r in (1, 2, 3)]
    samples += [sample("envoy", "64-json", 1)]
    samples += [sample("envoy", "64-json", r, fault="503") for r in (2, 3)]
    assert bench.unbelievable(run(samples)) == ["envoy 64-json"]
    assert bench.unbelievable(run([])) == ["bartizan 64-json", "envoy 64-json"]


def test_the_page_tells_medians_ratios_targets_and_what_was_left_out():
    samples = [sample("bartizan", "64-json", r, 300.0 * r) for r in (1, 2, 3)]
    samples += [sample("envoy", "64-json", r, 200.0 * r) for r in (1, 2)]
    samples += [sample("envoy", "64-json", 3, 1.0, fault="503")]
    page = markdown(run(samples))
    verdict = "64 features, JSON | at least 1 | 1.50 (1.50 to 1.50) | met |"
    assert f"| throughput against bare Envoy | {verdict}" in page
    assert "| `bartizan` | 600 (300 to 900) |" in page
    assert "2 (1 discarded)" in page
    assert "- `nginx` was skipped: not found" in page
    assert "Envoy 1.2.3" in page
    assert page.count("not measured") == 2


def test_the_page_names_no_host():
    import socket

    assert socket.gethostname() not in markdown(run([]))


def test_json_holds_every_sample():
    samples = [sample("envoy", "64-json", 1, fault="x")]
    document = json.loads(json.dumps(run(samples).as_json()))
    assert document["samples"][0]["fault"] == "x"
    assert document["command"] == "python -m loadtest.bench"


@pytest.mark.parametrize(
    "arguments",
    [["--peers", "caddy"], ["--cases", "5-json"], ["--rounds", "-1"], ["--seconds", "-1"]],
)
def test_usage_errors_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        bench.main(arguments)
    assert end.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_a_quick_run_over_real_processes(tmp_path, capsys):
    page = tmp_path / "b.md"
    arguments = ["--peers", "aiohttp,nginx", "--nginx", "no-such-nginx", "--cases", "4-json",
                 "--seconds", "0.1", "--rounds", "2", "--json", "--out", str(page)]  # fmt: skip
    assert bench.main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    samples = document["samples"]
    assert [(s["peer"], s["round"]) for s in samples] == [
        ("direct", 1), ("aiohttp", 1), ("direct", 2), ("aiohttp", 2)
    ]  # fmt: skip
    assert all(s["rate"] > 0 and s["p50"] > 0 and not s["fault"] for s in samples)
    assert "no-such-nginx not found" in document["skipped"]["nginx"]
    assert "aiohttp" in page.read_text()


def test_a_peer_that_cannot_start_is_an_error_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Aiohttp, "arguments", lambda self, lab: ["--no-such-option"])
    assert bench.main(["--quick", "--peers", "aiohttp", "--cases", "4-json"]) == 1
    assert "no-such-option" in capsys.readouterr().err


def test_every_peer_has_a_name_of_its_own():
    assert len({peer.name for peer in PEERS}) == len(PEERS) == 5


def test_what_the_firewall_is_given_enforces_and_never_limits(tmp_path):
    lab = Lab(("127.0.0.1", 9), tmp_path, None, {}, {"f64": tmp_path / "f64.bundle"}, "", "")
    firewall = next(peer for peer in PEERS if peer.name == "bartizan")
    (endpoint,) = firewall.configuration(lab, 1, 2)["endpoints"]
    assert endpoint["mode"] == "enforce"
    assert endpoint["match"] == "/v2/models/f64"
    assert min(endpoint["limits"].values()) >= 1e7
    assert "path" in firewall.configuration(lab, 1, 2)["audit"]


def test_an_artefact_is_made_once_per_key_and_never_in_part(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []

    def make(folder):
        made.append(folder)
        (folder / "x").write_text("y")

    def fail(folder):
        (folder / "half").write_text("")
        raise ZeroDivisionError

    first, was_kept = kept("thing", code_digest("1"), make)
    again = kept("thing", code_digest("1"), make)
    other = kept("thing", code_digest("2"), make)[0]
    assert (was_kept, again) == (False, (first, True))
    assert len(made) == 2
    assert other != first
    with pytest.raises(ZeroDivisionError):
        kept("thing", code_digest("3"), fail)
    assert sorted(p.name for p in (tmp_path / "bartizan").iterdir()) == sorted(
        [first.name, other.name]
    )


def test_what_nobody_used_for_a_day_goes(tmp_path, monkeypatch):
    import os

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    old, _ = kept("thing", "a", lambda folder: None)
    other_kind, _ = kept("other", "a", lambda folder: None)
    for folder in (old, other_kind):
        os.utime(folder, (0, 0))
    new, _ = kept("thing", "b", lambda folder: None)
    assert (old.exists(), other_kind.exists(), new.exists()) == (False, True, True)
