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


def test_fit_in_words(files):
    result = run(
        fit, "--data", files / "x.npy", "--out", files / "words.bundle",
        "--false-positive-budget", 0.05, "--detectors", "pca, knn", "--confidence", 0.9,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for words in ("pca, knn", "7 duplicates dropped", "With confidence 0.9, at most 5 %", "µs"):
        assert words in " ".join(result.output.split())
    assert load_bundle(files / "words.bundle").scorer.names == ("pca", "knn")


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
    words = run(inspect, files / "b.bundle")
    assert words.exit_code == 0
    for word in ("unverified", "mahalanobis", "7 duplicates", "at most 1 %"):
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
