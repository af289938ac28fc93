"""An embedding in a bundle: rows as on the wire go in, and what is scored are its features."""

import sys

import numpy as np
import onnx_models as build
import pytest
from bundle_edits import at, members_of, put, put_key, rebuilder
from click.testing import CliRunner
from small_models import classify, draw

from detectors.bundle import BundleError, load_bundle
from detectors.embedding import Embedding
from detectors.training.fit import fit, write
from detectors.training.readers import Table
from proxy.cli.fit import fit as fit_command
from proxy.cli.score import score

pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")

GENERATOR = np.random.default_rng(0)
MODEL = build.dense(GENERATOR.normal(size=(6, 4)), np.full(4, 5.0))
ROWS = draw(500)[0]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("embedding") / "e.bundle"
    fitted = fit(
        ROWS,
        kinds=("mahalanobis",),
        alpha=0.05,
        engine="numpy",
        answers=classify(ROWS),
        embedding=Embedding(np.frombuffer(MODEL, np.uint8), (2, 3)),
        row_shape=(2, 3),
        client_alarm_budget=0.01,
        keep_examples=3,
    )
    write(fitted, path, Table(ROWS, None, (6,)), created="2026-01-01T00:00:00+00:00")
    return path


@pytest.fixture(scope="module")
def members(path):
    return members_of(path)


@pytest.fixture
def rebuild(tmp_path, members):
    return rebuilder(tmp_path / "variant.bundle", members)


def test_round_trip(path):
    loaded = load_bundle(path, engine="numpy")
    assert (loaded.features, loaded.row_shape) == (6, (2, 3))
    assert loaded.scorer.features == loaded.agreement.features == loaded.embedding.outputs == 4
    assert loaded.patterns.features == loaded.examples.rows.shape[1] == 6
    fresh = draw(100, seed=3)[0]
    seen = loaded.embedding.embed(fresh)
    merged = loaded.scorer.score(seen)
    assert merged.flagged.mean() < 0.2
    joint = loaded.agreement.score(seen, classify(fresh), merged.merged)
    assert joint.flagged.mean() < 0.2
    assert loaded.with_budget(0.1, 0.05).embedding is loaded.embedding
    assert "onnxruntime" in loaded.manifest.libraries


EDITS = {
    "left out": (lambda m, _: m.pop("embedding"), "another number of features"),
    "outputs": (put_key("embedding.outputs", 5), "of the size"),
    "features": (put_key("features", 7), "layout"),
    "kind": (put_key("embedding.kind", "pickle"), "kind"),
    "row shape": (put_key("embedding.parameters.row_shape", [3, 3]), "."),
    "row shape of words": (put_key("embedding.parameters.row_shape", "six"), "."),
    "weights changed": (put("embedding/model", at(200, 7)), "."),
    "model cut": (put("embedding/model", lambda a: a[:-9]), "."),
    "model empty": (put("embedding/model", lambda a: a[:0]), "."),
    "golden rows": (put("golden/raw", lambda a: a[:0]), "golden"),
    "golden embedded": (put("golden/embedded", lambda a: a * np.float32(1.01)), "golden"),
    "golden embedded NaN": (put("golden/embedded", at(0, np.nan)), "golden"),
}


def test_every_edit_is_listed():
    assert len(EDITS) == 12


@pytest.mark.parametrize("name", EDITS)
def test_a_tampered_bundle_is_refused(rebuild, name):
    edit, word = EDITS[name]
    with pytest.raises(BundleError, match=word):
        load_bundle(rebuild(edit), engine="numpy")


def test_without_the_extra_the_bundle_says_so(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BundleError, match=r"\.\[onnx\]"):
        load_bundle(path)


def test_second_opinions_go_without():
    with pytest.raises(ValueError, match="without an embedding"):
        fit(
            ROWS,
            answers=classify(ROWS),
            ask=classify,
            opinions=("noise_consistency",),
            embedding=Embedding(np.frombuffer(MODEL, np.uint8), (6,)),
        )


def test_by_the_command_line(tmp_path):
    np.save(tmp_path / "x.npy", ROWS)
    np.save(tmp_path / "p.npy", classify(ROWS).probabilities)
    (tmp_path / "m.onnx").write_bytes(MODEL)
    given = ["--data", "x.npy", "--answers", "p.npy", "--embedding", "m.onnx", "--out", "b.bundle"]
    given = [str(tmp_path / one) if "." in one else one for one in given]
    told = CliRunner().invoke(
        fit_command, [*given, "--false-positive-budget", "0.05", "--no-patterns"]
    )
    assert told.exit_code == 0, told.output
    assert "embedded in 4, in which rows are scored" in " ".join(told.output.split())
    found = CliRunner().invoke(score, [given[-1], given[1], "--answers", given[3]])
    assert found.exit_code in {0, 1}, found.output
    assert "of 500 rows flagged" in found.output
