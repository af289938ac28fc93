"""``fit``, ``inspect`` and ``score``, as typed on a command line."""

import json
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from detectors.bundle import load_bundle
from detectors.container import write_container
from proxy.cli.fit import fit
from proxy.cli.fit_report import few_rows
from proxy.cli.inspect import inspect
from proxy.cli.score import score


def run(command, *arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(600, 4)).astype(np.float32)
    np.save(folder / "x.npy", np.vstack([rows, rows[:7]]))
    np.save(folder / "honest.npy", rows[:3] * 0.1)
    np.save(folder / "mixed.npy", np.vstack([rows[:3] * 0.1, np.full((2, 4), 30.0)]))
    np.save(folder / "y.npy", np.arange(607) % 3)
    np.save(folder / "wide.npy", np.zeros((2, 5)))
    key = Ed25519PrivateKey.generate()
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (folder / "key.pub").write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    result = run(
        fit, "--data", folder / "x.npy", "--labels", folder / "y.npy", "--out", folder / "b.bundle",
        "--false-positive-budget", 0.01, "--sign", folder / "key.pem", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (folder / "fit.json").write_text(result.output)
    return folder


def test_fit_tells_what_it_did(files):
    told = json.loads((files / "fit.json").read_text())
    bundle = load_bundle(files / "b.bundle")
    assert told["digest"] == bundle.digest
    assert told["signed"] is True
    assert told["rows"]["read"] == 607
    assert told["rows"]["duplicates"] == 7
    assert told["classes"] == {"0": 203, "1": 202, "2": 202}
    assert told["threshold"] == bundle.scorer.threshold
    assert told["false_positive_budget"] == 0.01
    assert told["confidence"] == pytest.approx(0.95)
    assert "at most 1 % of honest rows" in told["guarantee"]
    assert told["microseconds_per_row"] > 0
    assert told["patterns"]["client_alarm_budget"] == 0.001
    assert told["patterns"]["rows"] == {"space": 225, "streams": 300}
    assert "outlier" in told["patterns"]["statistics"]
    assert 0 < told["patterns"]["client_bytes"] <= 16 * 1024
    assert bundle.patterns.has_outlier


def test_fit_without_patterns(files):
    result = run(
        fit, "--data", files / "x.npy", "--out", files / "plain.bundle", "--no-patterns",
        "--false-positive-budget", 0.05, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["patterns"] is None
    assert load_bundle(files / "plain.bundle").patterns is None
    told = run(inspect, files / "plain.bundle", "--json")
    assert json.loads(told.output)["patterns"] is None
    assert "patterns none" in " ".join(run(inspect, files / "plain.bundle").output.split())


def test_the_secret_is_drawn_from_the_rows(files, tmp_path):
    """The seed is 0 by default: whoever knows it must still not know the sketch."""
    rows = np.load(files / "x.npy")
    np.save(tmp_path / "other.npy", np.vstack([rows[:-8], rows[-8:] + 1e-3]))
    sketches, keys = [], []
    for data in (files / "x.npy", files / "x.npy", tmp_path / "other.npy"):
        out = tmp_path / "secret.bundle"
        result = run(fit, "--data", data, "--out", out, "--false-positive-budget", 0.05)
        assert result.exit_code == 0, result.output
        patterns = load_bundle(out).patterns
        sketches.append(patterns.sketch)
        keys.append(patterns.keys)
    np.testing.assert_array_equal(sketches[0], sketches[1])
    np.testing.assert_array_equal(keys[0], keys[1])
    assert not np.allclose(sketches[0], sketches[2])
    assert not (keys[0] == keys[2]).any()


def test_fit_in_words(files):
    result = run(
        fit, "--data", files / "x.npy", "--out", files / "words.bundle",
        "--false-positive-budget", 0.05, "--detectors", "pca, knn", "--confidence", 0.9,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for words in (
        "pca, knn", "7 duplicates dropped", "With confidence 0.9, at most 5 %", "µs",
        "0.1 % of honest client-days", "KiB a client", "streams of 300 other rows",
    ):  # fmt: skip
        assert words in " ".join(result.output.split())
    assert load_bundle(files / "words.bundle").scorer.names == ("pca", "knn")


def test_a_threshold_that_hangs_on_single_rows_is_told(files):
    """By fit and by inspect, in words and as JSON; and of a sound one, nothing."""
    weak = files / "weak.bundle"
    few = ["--data", files / "x.npy", "--no-patterns"]
    given = run(fit, *few, "--out", weak, "--false-positive-budget", 0.02, "--json")
    assert given.exit_code == 0, given.output
    told = json.loads(given.output)
    assert (told["rank"], told["rows"]["threshold"]) == (2, 240)
    (note,) = told["notes"]
    for words in ("the second largest of 240 calibration scores (rank 2)", "5 takes 456", "1140"):
        assert words in note
    assert json.loads(run(inspect, weak, "--json").output)["notes"] == [note]
    assert f"note: {note}" in run(inspect, weak).output
    sound = files / "sound.bundle"
    result = run(fit, *few, "--out", sound, "--false-positive-budget", 0.2)
    assert result.exit_code == 0, result.output
    assert "note: " not in result.output + run(inspect, sound).output
    assert json.loads(run(inspect, sound, "--json").output)["notes"] == []


@pytest.mark.parametrize(
    ("rank", "place"), [(1, "the largest"), (2, "the second"), (4, "the fourth")]
)
def test_which_score_the_threshold_is(rank, place):
    (note,) = few_rows(rank, 500, 0.01, 0.05)
    assert place in note and f"(rank {rank})" in note and "rank 5 takes 913" in note
    assert few_rows(5, 1000, 0.01, 0.05) == []


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["--out", "b"], 2, "--data"),
        (["--data", "x.npy", "--out", "none/b.bundle"], 2, "not a directory"),
        (["--data", "x.npy", "--out", "b", "--detectors", "oracle"], 2, "oracle"),
        (["--data", "x.npy", "--out", "b", "--detectors", "pca,pca"], 2, "once"),
        (["--data", "x.npy", "--out", "b", "--false-positive-budget", "0"], 2, "strictly between"),
        (["--data", "x.npy", "--out", "b", "--false-positive-budget", "nan"], 2, "strictly"),
        (["--data", "x.npy", "--out", "b", "--confidence", "1"], 2, "strictly between"),
        (["--data", "x.npy", "--out", "b"], 1, "600 distinct rows, 3145 needed"),
        (["--data", "none.npy", "--out", "b"], 1, "No such file"),
        (["--data", "x.npy", "--out", "b", "--labels", "honest.npy"], 1, "label"),
        (["--data", "x.npy", "--out", "b", "--false-positive-budget", ".05", "--sign", "key.pub"],
         1, "signing key"),
        (["--data", "x.npy", "--out", "b", "--false-positive-budget", ".05",
          "--client-alarm-budget", ".0005"], 1, "takes 600 distinct rows"),
        (["--data", "x.npy", "--out", "b", "--false-positive-budget", ".05",
          "--client-alarm-budget", ".0005"], 1, "there are 450, beside 150 to fit and to merge"),
        (["--data", "x.npy", "--out", "b", "--false-positive-budget", ".05",
          "--client-alarm-budget", ".0005"], 1, "--no-patterns"),
        (["--data", "x.npy", "--out", "b", "--client-alarm-budget", "nan"], 2, "strictly"),
        (["--data", "x.npy", "--out", "b", "--client-alarm-budget", ".01", "--no-patterns"],
         2, "leave out --no-patterns"),
    ],
)  # fmt: skip
def test_fit_refuses(files, monkeypatch, arguments, status, word):
    monkeypatch.chdir(files)
    result = run(fit, *arguments)
    assert result.exit_code == status, result.output
    assert word in result.output
    assert not (files / "b").exists()


def test_inspect(files):
    result = run(inspect, files / "b.bundle", "--trust", files / "key.pub", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    assert told["signature"] == "verified"
    assert told["manifest"]["calibration"]["alpha"] == 0.01
    assert told["patterns"] == json.loads((files / "fit.json").read_text())["patterns"]
    words = run(inspect, files / "b.bundle")
    assert words.exit_code == 0
    for word in ("unverified", "mahalanobis", "7 duplicates", "at most 1 %", "shared_near"):
        assert word in " ".join(words.output.split())


def test_inspect_refuses(files):
    data = bytearray((files / "b.bundle").read_bytes())
    data[len(data) // 2] ^= 1
    (files / "damaged.bundle").write_bytes(data)
    result = run(inspect, files / "damaged.bundle")
    assert result.exit_code == 1
    assert "damaged.bundle:" in result.output
    assert run(inspect, files / "none.bundle").exit_code == 2
    stranger = Ed25519PrivateKey.generate().public_key()
    (files / "other.pub").write_bytes(
        stranger.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    result = run(inspect, files / "b.bundle", "--trust", files / "other.pub")
    assert result.exit_code == 1
    assert "not by a trusted key" in result.output


@pytest.mark.parametrize("command", [inspect, score])
def test_a_key_to_trust_demands_a_signature(files, tmp_path, command):
    with zipfile.ZipFile(files / "b.bundle") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    del parts["manifest.sig"]
    write_container(tmp_path / "unsigned.bundle", parts)
    data = [files / "mixed.npy"] if command is score else []
    result = run(command, tmp_path / "unsigned.bundle", *data, "--trust", files / "key.pub")
    assert result.exit_code == 1
    assert "not signed" in result.output


def test_score_says_what_the_gateway_decides(files):
    result = run(score, files / "b.bundle", files / "mixed.npy", "--json")
    assert result.exit_code == 1, result.output  # a finding
    told = json.loads(result.output)
    scorer = load_bundle(files / "b.bundle").scorer
    rows = np.load(files / "mixed.npy").astype(np.float32)
    assert (told["rows"], told["flagged"], told["threshold"]) == (5, 2, scorer.threshold)
    for verdict, row in zip(told["verdicts"], rows, strict=True):
        merged, p_value, flagged = scorer.score_row(row[None])
        assert verdict["score"] == pytest.approx(merged)
        assert (verdict["p_value"], verdict["flagged"]) == (p_value, flagged)
        assert verdict["detectors"] == pytest.approx(scorer.row_p_values())


def test_score_of_honest_rows(files):
    result = run(score, files / "b.bundle", files / "honest.npy")
    assert result.exit_code == 0, result.output
    assert "0 of 3 rows flagged" in result.output


def test_score_under_another_budget(files):
    arguments = (files / "b.bundle", files / "honest.npy", "--json", "--false-positive-budget")
    lax = json.loads(run(score, *arguments, 0.2).output)
    assert lax["false_positive_budget"] == 0.2
    assert lax["threshold"] < load_bundle(files / "b.bundle").scorer.threshold
    strict = run(score, *arguments, 0.001)
    assert strict.exit_code == 1
    assert "takes 2995 calibration rows" in strict.output


def test_score_refuses(files):
    result = run(score, files / "b.bundle", files / "wide.npy")
    assert result.exit_code == 1
    assert "expected rows of 4 features" in result.output
