"""What settings make of an endpoint's answers, and which configurations could not work."""

from types import SimpleNamespace

import numpy as np
import pytest
from judges import CLASSES, Distance, scorer
from pydantic import ValidationError

from detectors.agreement.base import Answers
from detectors.agreement.scorer import AnswerScorer
from detectors.calibration import Calibration
from proxy.build_answers import answering
from proxy.protocols.base import InferResponse
from proxy.settings.endpoint import Endpoint
from proxy.shaping import noise_key, shape

SECRET = b"a secret of at least sixteen characters"


def endpoint(**keys):
    given = {"name": "m", "match": "/v2/models/m", "upstream": "http://127.0.0.1:1", **keys}
    return Endpoint.model_validate(given)


def bundle(agreement=None, embedding=None):
    return SimpleNamespace(agreement=agreement, embedding=embedding)


def built(agreement=None, *, embedding=None, former=None, **keys):
    keys.setdefault("bundle", "m.bundle")
    return answering(endpoint(**keys), bundle(agreement, embedding), secret=SECRET, former=former)


def regression():
    class Residual(Distance):
        def score(self, rows, answers):
            return np.abs(rows[:, 0] - answers.values[:, 0]).astype(np.float64)

    one = scorer(detector=Distance())
    return AnswerScorer(
        [Residual(outputs=1, name="residual", needs="values")],
        one.tails,
        entry=one.entry,
        total=one.total,
        calibration=Calibration.of(np.linspace(0, 20, 5000), 0.01, 0.05),
        classes=None,
    )


def test_without_a_bundle_nothing_is_judged():
    one = answering(endpoint(), None, secret=SECRET)
    assert (one.judge, one.opinions, one.capture, one.always_shaped) == (None, None, None, False)


def test_of_custom_json_it_must_be_known_where_an_answer_is():
    def made(patterns, **keys):
        one = bundle()
        one.patterns = patterns
        protocol = {"name": "json", "rows": "$.input", **keys.pop("told", {})}
        given = endpoint(match="/predict", protocol=protocol, bundle="m.bundle", **keys)
        return answering(given, one, secret=SECRET)

    with pytest.raises(ValueError, match=r"protocol\.answer: .* judged or shaped"):
        made(object())
    assert made(object(), told={"answer": "$.output"})
    assert made(object(), on_pattern=["block"]) and made(None), "nothing reads an answer"
    with pytest.raises(ValidationError, match=r"protocol\.answer"):
        made(None, capture={})


def test_what_is_configured_arrives():
    one = built(
        scorer(opinions=True),
        answer={"classes": ["eel", "dog", "cat"], "output": "y", "kind": "logits"},
        second_opinion={"when": "sampled", "share": 0.25, "sample": 1.0, "timeout_seconds": 3},
        shaping={"when": "always", "mode": "noise", "noise": 2, "keep_best": False},
        capture={"rows": 500, "rows_per_client": 50, "anonymise": False},
    )
    reader, judge = one.judge
    assert judge.classes == CLASSES
    said = reader.read(InferResponse({"x": np.zeros((1, 3)), "y": np.array([[9.0, 0, 0]])}, 1), 1)
    assert said.labels.tolist() == [2]
    assert (one.opinions.budget.share, one.opinions.seconds, one.opinions.copies) == (0.25, 3, 2)
    assert one.always_shaped
    style = one.style
    assert (style.mode, style.noise, style.keep_best, style.output) == ("noise", 2, False, "y")
    assert style.key == noise_key(SECRET, "m")
    assert style.classes == ("eel", "dog", "cat")
    assert one.capture.status()["rows"] == 0


def test_an_answer_need_not_tell_what_only_a_second_opinion_needs():
    one = scorer(opinions=True)
    one.opinions[0].needs = "probabilities"
    reader, _ = built(one).judge
    assert reader.read(InferResponse({"y": np.array([1])}, 1), 1).labels.tolist() == [1]


def test_a_regression_is_shaped_as_values():
    one = built(regression(), shaping={"when": "always"})
    assert one.style.kind == "values"
    answer = InferResponse({"y": np.array([[0.26, 0.74]])}, 1)
    assert shape(answer, one.style).tensors["y"].tolist() == [[0.3, 0.7]]
    said = one.judge[0].read(InferResponse({"y": np.array([0.25])}, 1), 1)
    assert isinstance(said, Answers) and said.values.tolist() == [[0.25]]


def test_monitor_mode_shapes_nothing():
    assert not built(scorer(), mode="monitor", shaping={"when": "always"}).always_shaped


IMPOSSIBLE = {
    "classes of another model": ({"answer": {"classes": ["cat", "dog", "fox"]}}, "answer: "),
    "a class too few": ({"answer": {"classes": ["cat", "dog"]}}, "answer: "),
    "values of a classifier": ({"answer": {"kind": "values"}}, "answer: "),
    "no second opinions": ({"second_opinion": {"when": "suspicious"}}, "no second opinions"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_does_not_fit_the_bundle_is_refused(name):
    keys, why = IMPOSSIBLE[name]
    with pytest.raises(ValueError, match=why):
        built(scorer(), **keys)


def test_there_is_no_way_back_from_an_embedding():
    with pytest.raises(ValueError, match="embedding"):
        built(scorer(opinions=True), embedding=object(), second_opinion={"when": "suspicious"})


IDLE = {
    "on_disagreement": {"on_disagreement": "shape"},
    "second_opinion": {"second_opinion": {"when": "suspicious"}},
    "answer": {"answer": {"output": "y"}},
    r"rules\.BZ-400": {"rules": {"BZ-400": {"mode": "monitor"}}},
}


@pytest.mark.parametrize("key", IDLE)
def test_what_would_do_nothing_without_agreement_is_refused(key):
    with pytest.raises(ValueError, match=f"fitted without agreement.*{key}"):
        built(None, **IDLE[key])
    if key != "second_opinion":
        assert built(scorer(), **IDLE[key]).judge is not None


def test_how_an_answer_is_read_may_serve_shaping_and_the_sample_alone():
    answer = {"output": "y", "kind": "probabilities"}
    assert built(None, answer=answer, shaping={"when": "always"}).style.output == "y"
    assert built(None, answer=answer, capture={}).capture is not None
    assert answering(endpoint(answer=answer, capture={}), None, secret=SECRET).capture is not None


def test_a_label_of_a_regression_is_refused():
    with pytest.raises(ValueError, match="shaping: "):
        built(regression(), shaping={"when": "always", "mode": "label"})
    with pytest.raises(ValidationError):
        endpoint(bundle="b", shaping={"mode": "label"}, answer={"kind": "values"})


ODD = [
    {"second_opinion": {"when": "suspicious", "sample": 0.5}},
    {"second_opinion": {"share": 0.5}},
    {"second_opinion": {"timeout_seconds": 0.5}},
    {"second_opinion": {"when": "suspicious", "timeout_seconds": 61}},
]


@pytest.mark.parametrize("keys", ODD)
def test_a_contradiction_is_refused(keys):
    with pytest.raises(ValidationError):
        endpoint(bundle="b", **keys)


@pytest.mark.parametrize(
    "keys", [{"shaping": {"mode": "label"}}, {"answer": {}}, {"rules": {"BZ-400": {}}}]
)
def test_what_would_do_nothing_without_a_bundle_is_refused(keys):
    with pytest.raises(ValidationError):
        endpoint(**keys)


def test_the_sample_goes_on_over_a_reload_that_does_not_concern_it():
    keys = {"bundle": "m.bundle", "capture": {"rows": 500, "rows_per_client": 50}}
    first = built(scorer(), **keys)
    before = endpoint(**keys), first.capture
    assert built(scorer(), former=before, **keys).capture is first.capture
    others = {**keys, "capture": {"rows": 600}}
    assert built(scorer(), former=before, **others).capture is not first.capture
    others = {**keys, "answer": {"output": "y"}}
    assert built(scorer(), former=before, **others).capture is not first.capture
    assert built(scorer(), former=before, bundle="m.bundle").capture is None
