"""``fit``, ``inspect`` and ``score`` with the model's answers: files, the model, captures."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from small_models import classify, draw, regress
from v2_stub import Stub, serving

from detectors.bundle import load_bundle
from detectors.sample import Sample
from proxy.cli.fit import fit
from proxy.cli.inspect import inspect
from proxy.cli.score import score

NO_PATTERNS = ("--no-patterns", "--false-positive-budget", 0.05, "--detectors", "mahalanobis")


def run(command, *arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def told(command, *arguments, status=0):
    result = run(command, *arguments, "--json")
    assert result.exit_code == status, result.output
    return json.loads(result.output)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """600 honest rows of three classes, a third of them seen by the model, and 40 fresh ones of
    which the even ones get a wrong answer."""
    folder = tmp_path_factory.mktemp("answers")
    rows, labels = draw(600)
    np.save(folder / "x.npy", rows)
    np.save(folder / "images.npy", rows.reshape(600, 2, 3))
    np.save(folder / "y.npy", np.array(["abc"[label] for label in labels]))
    np.save(folder / "seen.npy", np.arange(600) % 3 == 0)
    np.save(folder / "p.npy", classify(rows).probabilities)
    np.save(folder / "targets.npy", rows[:, :2] * 2.0 + 1.0)
    np.save(folder / "values.npy", regress(rows).values)
    fresh = draw(40, seed=7)[0] * np.float32(0.95)
    said = classify(fresh).probabilities.copy()
    said[::2] = np.roll(said[::2], 1, axis=1)
    np.save(folder / "fresh.npy", fresh)
    np.save(folder / "doubtful.npy", said)
    np.save(folder / "honest.npy", classify(fresh).probabilities)
    result = run(
        fit, "--data", folder / "x.npy", "--labels", folder / "y.npy", "--row-shape", "2,3",
        "--seen", folder / "seen.npy", "--answers", folder / "p.npy", "--out", folder / "b.bundle",
        "--keep-examples", 5, *NO_PATTERNS, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (folder / "fit.json").write_text(result.output)
    return folder


def test_fit_tells_what_it_did(files):
    result = json.loads((files / "fit.json").read_text())
    bundle = load_bundle(files / "b.bundle")
    agreement = result["agreement"]
    assert agreement["classes"] == ["a", "b", "c"]
    assert agreement["detectors"] == list(bundle.agreement.names)
    assert (agreement["labels"], agreement["seen"]) == ("given", 200)
    assert agreement["fitted_on"] == result["rows"]["train"]
    assert agreement["model_accuracy"] > 0.9
    assert 0 <= agreement["mistakes"] < 0.1
    assert agreement["accuracy"]["knn_agreement"] > 0.9
    assert agreement["threshold"] == bundle.agreement.threshold
    assert agreement["microseconds_per_answer"] > 0
    assert result["threshold"] == agreement["input_threshold"] == bundle.scorer.threshold
    assert "before or after they are answered" in result["guarantee"]
    assert (result["row_shape"], bundle.row_shape) == ([2, 3], (2, 3))
    assert result["examples"] == len(bundle.examples.rows) == 5
    assert result["notes"] == []


def test_inspect_tells_the_same(files):
    result = json.loads((files / "fit.json").read_text())["agreement"]
    del result["microseconds_per_answer"]
    assert told(inspect, files / "b.bundle")["agreement"] == result
    words = " ".join(run(inspect, files / "b.bundle").output.split())
    for word in (
        "rows of 2 by 3", "200 rows that were for fitting only", "the labels that came with them",
        "right on rows new to it", "of the calibration rows are its mistakes", "nats with the",
        "before or after they are answered", "5 honest rows, as they were", "knn_agreement",
    ):  # fmt: skip
        assert word in words


def test_in_words_and_with_a_note(files):
    result = run(
        fit, "--data", files / "images.npy", "--answers", files / "p.npy", "--out",
        files / "words.bundle", *NO_PATTERNS,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    for word in (
        "the model's own answers", "note: every row counts as new to the model",
        "note: without --labels", "flattened from 2 by 3", "cost of an answer",
    ):  # fmt: skip
        assert word in words
    bundle = load_bundle(files / "words.bundle")
    assert bundle.agreement.classes == ("0", "1", "2")
    assert bundle.row_shape == (2, 3)


def test_no_agreement(files):
    result = told(
        fit, "--data", files / "x.npy", "--answers", files / "p.npy", "--out",
        files / "none.bundle", "--no-agreement", *NO_PATTERNS,
    )  # fmt: skip
    assert result["agreement"] is None
    assert load_bundle(files / "none.bundle").agreement is None
    assert told(inspect, files / "none.bundle")["agreement"] is None
    assert "agreement none" in " ".join(run(inspect, files / "none.bundle").output.split())


def test_a_regression_model(files):
    result = told(
        fit, "--data", files / "x.npy", "--labels", files / "targets.npy", "--task", "values",
        "--answers", files / "values.npy", "--out", files / "v.bundle", *NO_PATTERNS,
    )  # fmt: skip
    assert result["agreement"]["kind"] == "values"
    assert result["agreement"]["model_accuracy"] == pytest.approx(1.0)
    assert result["classes"] is None
    far = np.load(files / "values.npy")[:3].copy()
    far[0] += 50.0
    np.save(files / "far.npy", far)
    np.save(files / "three.npy", np.load(files / "x.npy")[:3])
    found = told(
        score, files / "v.bundle", files / "three.npy", "--answers", files / "far.npy", status=1
    )
    assert [row["answer"]["flagged"] for row in found["verdicts"]] == [True, False, False]
    assert found["verdicts"][1]["answer"]["label"].count(",") == 1


def test_fit_asks_the_model(files):
    stub = Stub()
    with serving(stub):
        result = told(
            fit, "--data", files / "x.npy", "--labels", files / "y.npy", "--model", stub.url,
            "--second-opinion", "noise_consistency,feature_squeezing", "--out", files / "m.bundle",
            *NO_PATTERNS,
        )  # fmt: skip
        assert result["agreement"]["second_opinions"] == ["feature_squeezing", "noise_consistency"]
        bundle = load_bundle(files / "m.bundle")
        copies = sum(one.copies for one in bundle.agreement.opinions)
        calibrated = result["rows"]["merge"] + result["rows"]["threshold"]
        assert sum(shape[0] for shape in stub.asked) == 600 + copies * calibrated
        stub.asked.clear()
        found = told(score, files / "m.bundle", files / "fresh.npy", "--model", stub.url)
        assert found["flagged"] == 0
        assert sum(shape[0] for shape in stub.asked) == 40 + copies * found["asked_again"]
    asked, filed = (load_bundle(files / f"{name}.bundle").agreement.classes for name in ("m", "b"))
    assert asked == filed == ("a", "b", "c")


def test_the_models_answers_are_those_in_the_file(files):
    """Asked or read, the same fit."""
    arguments = ("--data", files / "x.npy", "--labels", files / "y.npy", *NO_PATTERNS)
    with serving(Stub()) as stub:
        asked = told(fit, *arguments, "--model", stub.url, "--out", files / "1.bundle")
    read = told(fit, *arguments, "--answers", files / "p.npy", "--out", files / "2.bundle")
    assert asked["agreement"]["threshold"] == pytest.approx(read["agreement"]["threshold"])
    assert asked["agreement"]["accuracy"] == read["agreement"]["accuracy"]


def sample(rows, answers, kind="probabilities", classes=("a", "b", "c"), **changed):
    count = len(rows)
    given = {
        "clients": np.arange(count, dtype=np.int32) % 40,
        "hours": np.full(count, -1, np.int32),
        "uniform": np.ones(count, bool),
        "digests": np.arange(count, dtype=np.uint64),
        **changed,
    }
    return Sample("digits", kind, classes, (2, 3), rows, answers, **given)


def test_fit_from_a_capture(files):
    rows = np.load(files / "x.npy")
    uniform = np.arange(600) % 10 > 0
    whole = sample(rows, np.load(files / "p.npy"), uniform=uniform)
    (files / "live.capture").write_bytes(whole.encode())
    result = told(
        fit, "--from-capture", files / "live.capture", "--out", files / "c.bundle", *NO_PATTERNS
    )
    agreement = result["agreement"]
    assert agreement["classes"] == ["a", "b", "c"]
    assert agreement["labels"] == "answers"
    assert agreement["model_accuracy"] is None
    assert 10 < agreement["clients"] < 30
    assert agreement["seen"] == result["rows"]["train"] > 60
    assert load_bundle(files / "c.bundle").row_shape == (2, 3)
    words = run(
        fit, "--from-capture", files / "live.capture", "--out", files / "c.bundle", *NO_PATTERNS
    )
    assert f"those of {agreement['clients']} clients among them" in " ".join(words.output.split())


def test_fit_from_a_capture_without_clients(files):
    labels = classify(np.load(files / "x.npy")).labels.astype(float)[:, None]
    unknown = sample(
        np.load(files / "x.npy"),
        labels,
        "labels",
        clients=np.full(600, -1, np.int32),
        uniform=np.arange(600) % 3 > 0,
    )
    (files / "blind.capture").write_bytes(unknown.encode())
    result = told(
        fit, "--from-capture", files / "blind.capture", "--out", files / "d.bundle", *NO_PATTERNS
    )
    # What was kept because its class is rare calibrates nothing.
    assert (result["agreement"]["clients"], result["agreement"]["seen"]) == (0, 200)
    assert "confidence" not in result["agreement"]["detectors"]


def test_score_with_answers(files):
    given = (files / "b.bundle", files / "fresh.npy")
    before = told(score, *given)
    assert before["flagged"] == 0
    assert "answer" not in before["verdicts"][0]
    found = told(score, *given, "--answers", files / "doubtful.npy", status=1)
    after = [row["answer"]["flagged"] for row in found["verdicts"]]
    assert sum(after[::2]) >= 18
    assert sum(after[1::2]) <= 1
    assert [row["flagged"] for row in found["verdicts"]] == after
    assert found["flagged"] == sum(after)
    bundle = load_bundle(files / "b.bundle")
    assert found["answer_threshold"] == bundle.agreement.threshold
    assert set(found["verdicts"][0]["answer"]["detectors"]) == set(bundle.agreement.names)
    assert found["verdicts"][1]["answer"]["label"] in "abc"
    lax = told(
        score, *given, "--answers", files / "doubtful.npy", "--false-positive-budget", 0.3, status=1
    )
    assert lax["answer_threshold"] < found["answer_threshold"]
    assert lax["threshold"] < found["threshold"]


def test_score_in_words(files):
    given = (files / "b.bundle", files / "fresh.npy")
    words = run(score, *given)
    assert "Before the model answers: --answers or --model" in words.output
    words = run(score, *given, "--answers", files / "doubtful.npy")
    assert words.exit_code == 1
    for word in ("with the answer", "against it", "_agreement"):
        assert word in words.output


def test_answers_in_another_order(files):
    np.save(files / "turned.npy", np.load(files / "honest.npy")[:, [2, 0, 1]])
    given = (files / "b.bundle", files / "fresh.npy", "--answers", files / "turned.npy")
    found = told(score, *given, "--classes", "c,a,b")
    assert found["flagged"] == 0
    assert told(score, *given, status=1)["flagged"] > 30
    same = told(
        fit, "--data", files / "x.npy", "--labels", files / "y.npy", "--answers", files / "p.npy",
        "--classes", "c,a,b", "--out", files / "wrong.bundle", *NO_PATTERNS,
    )  # fmt: skip
    assert same["agreement"]["model_accuracy"] < 0.1
    words = run(inspect, files / "wrong.bundle")
    assert "is the order of the classes right" in words.output


REFUSED = [
    ([], 2, "either --data or --from-capture"),
    (["--data", "x.npy", "--from-capture", "live.capture"], 2, "either --data or --from-capture"),
    (["--from-capture", "live.capture", "--labels", "y.npy"], 2, "a capture has its own"),
    (["--from-capture", "x.npy"], 1, "x.npy: this is neither a bundle nor a capture"),
    (["--from-capture", "gone"], 1, "No such file"),
    (["--data", "x.npy", "--seen", "seen.npy"], 2, "name --answers"),
    (["--data", "x.npy", "--output", "p"], 2, "goes with --answers or --model"),
    (["--data", "x.npy", "--agreement", "confidence"], 2, "needs the model's answers"),
    (["--data", "x.npy", "--answers", "p.npy", "--agreement", "oracle"], 2, "'oracle': expected"),
    (["--data", "x.npy", "--answers", "p.npy", "--agreement", "confidence", "--no-agreement"],
     2, "excludes --agreement"),
    (["--data", "x.npy", "--answers", "p.npy", "--second-opinion", "noise_consistency"],
     2, "with --model"),
    (["--data", "x.npy", "--answers", "gone.npy"], 1, "gone.npy: No such file"),
    (["--data", "x.npy", "--answers", "fresh.npy"], 1, "shape (40, 6) for 600 rows"),
    (["--data", "x.npy", "--answers", "x.npy", "--labels", "y.npy"], 1, "x.npy: the model"),
    (["--data", "x.npy", "--answers", "p.npy", "--answer-kind", "values"], 1, "does not fit"),
    (["--data", "x.npy", "--answers", "p.npy", "--seen", "y.npy"], 1, "true or false"),
    (["--data", "x.npy", "--answers", "p.npy", "--classes", "a,b"], 1, "no output holds 600"),
    (["--data", "x.npy", "--answers", "p.npy", "--classes", "a,,b"], 2, "each once"),
    (["--data", "x.npy", "--row-shape", "2,4"], 1, "2 by 4 is not that of 6 features"),
    (["--data", "x.npy", "--row-shape", "2,0"], 2, "such as 28,28"),
    (["--data", "x.npy", "--row-shape", "two"], 2, "such as 28,28"),
    (["--data", "x.npy", "--model", "http://127.0.0.1:9/"], 1, "is not the URL of a model"),
    (["--data", "x.npy", "--task", "values", "--labels", "y.npy", "--answers", "values.npy"],
     1, "text"),
    (["--data", "x.npy", "--settings", "x.npy"], 2, "settings"),
    (["--data", "x.npy", "--detectors", "alibi_detect.IForest"], 2, "--alibi-python"),
    (["--data", "x.npy", "--embedding", "x.npy"], 1, ""),
]  # fmt: skip


def test_every_refusal_is_listed():
    assert len(REFUSED) == 26


@pytest.mark.parametrize(("arguments", "status", "word"), REFUSED)
def test_fit_refuses(files, monkeypatch, arguments, status, word):
    monkeypatch.chdir(files)
    kinds = () if "--detectors" in arguments else ("--detectors", "mahalanobis")
    result = run(
        fit,
        *arguments,
        "--out",
        "refused",
        "--no-patterns",
        "--false-positive-budget",
        0.05,
        *kinds,
    )
    assert result.exit_code == status, result.output
    assert word in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not (files / "refused").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["none.bundle", "fresh.npy", "--answers", "honest.npy"], "without the model's answers"),
        (["b.bundle", "fresh.npy", "--answers", "p.npy"], "for 40 rows"),
        (["b.bundle", "fresh.npy", "--answers", "honest.npy", "--classes", "x,y,z"],
         "not those of the bundle"),
        (["b.bundle", "fresh.npy", "--answers", "honest.npy", "--answer-kind", "values"], "values"),
        (["sure.bundle", "fresh.npy", "--answers", "labels.npz"], "needs probabilities"),
        (["b.bundle", "fresh.npy", "--model", "nowhere"], "expected http://"),
    ],
)  # fmt: skip
def test_score_refuses(files, monkeypatch, arguments, word):
    monkeypatch.chdir(files)
    if not (files / "none.bundle").exists():
        test_no_agreement(files)
    if not (files / "sure.bundle").exists():
        told(
            fit, "--data", "x.npy", "--labels", "y.npy", "--answers", "p.npy", "--agreement",
            "knn_agreement,confidence", "--out", "sure.bundle", *NO_PATTERNS,
        )  # fmt: skip
    np.savez(files / "labels.npz", labels=np.array(["a"] * 40))
    result = run(score, *arguments)
    assert result.exit_code == 1, result.output
    assert word in result.output
