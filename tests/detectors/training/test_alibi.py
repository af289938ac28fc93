"""What goes wrong between this program and an interpreter that has alibi-detect.

That the two give the same scores is shown where alibi-detect is installed: tests/real.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from detectors.agreement.base import Answers
from detectors.training import alibi_export
from detectors.training.alibi import (
    NAMES,
    OPINION,
    Alibi,
    AlibiError,
    fit_alibi,
    fit_alibi_opinion,
    made_up_probes,
)
from detectors.training.alibi_compile import COMPILERS

ROWS = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)

# Stands in for the export program: the folder is the last argument.
FAKE = """#!{python}
import json, sys
from pathlib import Path
import numpy as np
folder = Path(sys.argv[-1])
request = json.loads((folder / "request.json").read_text())
rows = np.load(folder / "rows.npz", allow_pickle=False)
def answer(arrays, scalars, **more):
    np.savez(folder / "arrays.npz", **{{"0/" + name: array for name, array in arrays.items()}})
    told = {{"version": "0.11.4", "detectors": [scalars]}}
    told["libraries"] = {{"alibi-detect": told["version"]}}
    (folder / "result.json").write_text(json.dumps({{**told, **more}}))
probes = rows["probes"].astype(float)
reference = rows["rows"].astype(float)
gap = ((probes[:, None] - reference) ** 2).sum(2) ** 0.5
scores = np.sort(gap, axis=1)[:, request["detectors"][0]["settings"].get("k", 5) - 1]
{body}
"""


@pytest.fixture
def fake(tmp_path):
    """An interpreter whose export program does this."""

    def make(body):
        path = tmp_path / "python"
        path.write_text(FAKE.format(python=sys.executable, body=body))
        path.chmod(0o755)
        return Alibi(path)

    return make


def fit(alibi, names=("alibi_detect.KNN",), settings=None):
    return fit_alibi(names, ROWS, settings or {}, alibi, seed=0)


GOOD = 'answer({"reference": reference, "scores": scores}, {"k": 5})'


def test_the_exchange(fake):
    """The stand-in is good enough to show that what is refused below is refused for its fault."""
    (trained,) = fit(fake(GOOD))
    assert trained.detector.name == "knn"
    assert trained.fitted_with == {
        "library": "alibi-detect 0.11.4",
        "class": "KNN",
        "max_rows": 200,
    }
    probes = made_up_probes(ROWS, 1)
    gap = ((probes[:, None].astype(float) - ROWS) ** 2).sum(2) ** 0.5
    np.testing.assert_allclose(trained.detector.score(probes), np.sort(gap, axis=1)[:, 4])


BROKEN = {
    "other scores": (
        'scores[7] *= 1.001; answer({"reference": reference, "scores": scores}, {"k": 5})',
        "does not score as the library does",
    ),
    "scores that are not finite": (
        'scores[7] = np.nan; answer({"reference": reference, "scores": scores}, {"k": 5})',
        "not finite",
    ),
    "a missing array": ('answer({"scores": scores}, {"k": 5})', "cannot be compiled.*reference"),
    "a missing scalar": (
        'answer({"reference": reference, "scores": scores}, {})',
        "cannot be compiled",
    ),
    "an array of another dtype": (
        'answer({"reference": reference.astype("f4"), "scores": scores}, {"k": 5})',
        "cannot be compiled",
    ),
    "an array that is not finite": (
        'reference[0, 0] = np.inf; answer({"reference": reference, "scores": scores}, {"k": 5})',
        "cannot be compiled",
    ),
    "a crash": ('raise SystemExit("out of memory")', "out of memory"),
    "no result": ("pass", "failed"),
    "an error": (
        'answer({}, {}, failed="KNN", error="k is too large")',
        "alibi_detect.KNN: k is too large",
    ),
    "not installed": ("answer({}, {}, version=None)", "not installed"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_comes_back_broken(fake, case):
    body, words = BROKEN[case]
    with pytest.raises(AlibiError, match=words):
        fit(fake(body))


def test_nothing_that_comes_back_is_unpickled(fake):
    """An array of objects is a pickle: numpy is told to refuse it."""
    body = """
class Harm:
    def __reduce__(self):
        return print, ("harm",)
answer({"reference": np.array([Harm()], dtype=object), "scores": scores}, {"k": 5})
"""
    with pytest.raises(AlibiError, match="not arrays"):
        fit(fake(body))


def test_how_many_were_broken():
    assert len(BROKEN) == 10


def test_an_interpreter_that_is_not_there(tmp_path):
    with pytest.raises(AlibiError, match="cannot be run"):
        fit(Alibi(tmp_path / "python"))


def test_an_interpreter_without_alibi_detect():
    """The real export program, run by the interpreter of these tests."""
    with pytest.raises(AlibiError, match="not installed"):
        fit(Alibi(Path(sys.executable)))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("alibi_detect.LLR",), "expected some of"),
        (("IForest",), "expected some of"),
        ((OPINION,), "second opinion"),
    ],
)
def test_names_that_are_refused(names, words):
    with pytest.raises(AlibiError, match=words):
        fit(Alibi(Path("never-run")), names)


def test_no_names_start_nothing():
    assert fit(Alibi(Path("never-run")), ()) == []


def test_every_compiler_has_its_export():
    assert len(NAMES) == 8
    assert set(alibi_export.EXPORTS) == {*COMPILERS, OPINION.removeprefix("alibi_detect.")}


def test_an_opinion_is_for_classifiers():
    with pytest.raises(AlibiError, match="classifiers"):
        fit_alibi_opinion(
            ROWS, Answers.of_values(ROWS[:, 0]), 2, {}, Alibi(Path("never-run")), seed=0
        )


LICENCES = [
    ("0.11.4", True),
    ("0.11.3", True),
    ("0.11", True),
    ("0.9.0", True),
    ("0.11.5", False),
    ("0.11.10", False),
    ("0.12.0", False),
    ("0.13.0", False),
    ("1.0", False),
    ("0.11.4.post1", False),
    ("0.11.5rc1", False),
    ("0.11.4+local", False),
    ("", False),
    ("unknown", False),
]


@pytest.mark.parametrize(("version", "free"), LICENCES)
def test_which_release_is_free(version, free):
    assert alibi_export.is_free(version) is free


def _asked(folder, held, version, monkeypatch):
    request = {"seed": 0, "licence_held": held, "detectors": [{"name": "KNN", "settings": {}}]}
    (folder / "request.json").write_text(json.dumps(request))
    np.savez(folder / "rows.npz", **dict.fromkeys(alibi_export.Data._fields[:4], ROWS), bounds=ROWS)
    monkeypatch.setattr(alibi_export.importlib.metadata, "version", lambda _: version)
    return alibi_export.main(folder)


def test_a_licence_that_is_not_held(tmp_path, monkeypatch):
    """Refused before anything of alibi-detect is imported."""
    imported = []
    monkeypatch.setattr("builtins.__import__", _watching(imported))
    told = _asked(tmp_path, False, "0.11.5", monkeypatch)
    assert told == {"version": "0.11.5", "refused": True}
    assert "alibi_detect" not in imported


def test_a_licence_that_is_held(tmp_path, monkeypatch):
    """It goes on, as far as an interpreter without alibi-detect can."""
    told = _asked(tmp_path, True, "0.13.0", monkeypatch)
    assert told["failed"] == "KNN" and "alibi_detect" in told["error"]


_IMPORT = __import__


def _watching(imported):
    def watched(name, *rest, **more):
        imported.append(name.split(".")[0])
        return _IMPORT(name, *rest, **more)

    return watched


def test_the_licence_is_explained(fake):
    body = 'answer({}, {}, version="0.13.0", refused=True)'
    with pytest.raises(AlibiError) as raised:
        fit(fake(body))
    for words in ("0.13.0", "Business Source License", "0.11.4", "--alibi-licence-held"):
        assert words in str(raised.value)


def test_what_is_said_of_the_licence_reaches_the_program(fake):
    alibi = fake('answer({}, {}, failed="KNN", error=str(request["licence_held"]))')
    with pytest.raises(AlibiError, match="False"):
        fit(alibi)
    with pytest.raises(AlibiError, match="True"):
        fit(Alibi(alibi.python, licence_held=True))


@pytest.mark.parametrize(
    ("export", "settings", "words"),
    [
        ("knn", {"k": [3, 5]}, "one whole number"),
        ("knn", {"k": True}, "one whole number"),
        ("knn", {"k": 3, "kernel": "rbf"}, "Euclidean"),
        ("lof", {"k": 2.5}, "one whole number"),
    ],
)
def test_settings_that_cannot_be_exported(export, settings, words, monkeypatch):
    for module in ("alibi_detect.od._knn", "alibi_detect.od._lof"):
        monkeypatch.setitem(sys.modules, module, type(sys)(module))
        sys.modules[module].KNN = sys.modules[module].LOF = None
    data = alibi_export.Data(ROWS, ROWS, ROWS, ROWS, None, ROWS[:2], 0)
    with pytest.raises(ValueError, match=words):
        getattr(alibi_export, export)(data, settings)
