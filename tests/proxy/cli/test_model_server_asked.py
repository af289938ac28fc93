"""Asking a model server about many rows: what is sent, and what is said when it fails."""

import socket

import numpy as np
import pytest
from small_models import classify, draw
from v2_stub import CLASSIFIER, Stub, probabilities, serving

from detectors.training.readers import DataError
from proxy.cli.answers import AskedModel, Reading, joined
from proxy.cli.model_server import ModelError, ModelServer


def metadata(*inputs):
    tensors = [{"name": n, "datatype": kind, "shape": shape} for n, kind, shape in inputs]
    return {**CLASSIFIER, "inputs": tensors}


def ask(stub, rows, **given):
    with serving(stub):
        return list(ModelServer(stub.url, rows.shape[1], **given).ask(rows))


def test_all_rows_in_batches():
    rows = draw(70)[0]
    stub = Stub()
    answers = ask(stub, rows, batch=32)
    assert [n for _, n in answers] == [32, 32, 6]
    assert [shape[0] for shape in stub.asked] == [32, 32, 6]
    said = np.concatenate([answer.tensors["p"] for answer, _ in answers])
    np.testing.assert_allclose(said, classify(rows).probabilities)
    assert stub.targets == ["/v2/models/blobs"] + ["/v2/models/blobs/infer"] * 3


@pytest.mark.parametrize(
    ("tensors", "row_shape", "sent"),
    [
        ([("x", "FP32", [-1, 2, 3])], None, [[4, 2, 3]]),
        ([("x", "FP64", [-1, 2, -1])], None, [[4, 2, 3]]),
        ([("x", "FP32", [-1, -1, -1])], (3, 2), [[4, 3, 2]]),
        ([("x", "FP32", [-1, 2]), ("y", "INT32", [-1, 4])], None, [[4, 2]]),
        ([("x", "FP32", [1, 6])], None, [[1, 6]] * 4),
        ([("x", "FP32", [6])], None, [[6]] * 4),
        ([], None, [[4, 6]]),
    ],
)
def test_rows_in_the_models_own_shape(tensors, row_shape, sent):
    def answer(rows):
        count = 1 if rows.shape[0] == 6 else len(rows)
        return [{"name": "p", "datatype": "FP32", "shape": [count, 2], "data": [0.5] * 2 * count}]

    stub = Stub(metadata(*tensors), answer)
    ask(stub, draw(4)[0], row_shape=row_shape)
    assert stub.asked == sent


def test_two_inputs_share_a_row():
    seen = []

    def answer(rows):
        seen.append(rows)
        return probabilities(rows)

    rows = draw(4)[0]
    ask(Stub(metadata(("x", "FP32", [-1, 2]), ("y", "FP64", [-1, 4])), answer), rows)
    np.testing.assert_array_equal(seen[0], rows)


def test_a_version():
    stub = Stub()
    with serving(stub):
        list(ModelServer(stub.url + "/versions/3/", 6).ask(draw(2)[0]))
    assert stub.targets == [f"/v2/models/blobs/versions/3{end}" for end in ("", "/infer")]


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:80/v2/models/x", "ftp://h/v2/models/x", "http://127.0.0.1:1/", "http:///v2/models/x",
     "http://127.0.0.1:1/v2/models/x/infer", "http://127.0.0.1:99999/v2/models/x",
     "http://127.0.0.1:1/v2/models/x?y=1"],
)  # fmt: skip
def test_what_is_no_model(url):
    with pytest.raises(ModelError, match=r"/v2/models/NAME"):
        ModelServer(url, 6)


def test_nobody_there():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v2/models/x"
        with pytest.raises(ModelError, match="refused"):
            ModelServer(url, 6)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (b"<html>", "model metadata"),
        ({**CLASSIFIER, "name": "other"}, "not that of 'blobs'"),
        (metadata(("x", "FP32", [-1, 7])), "7 features per row, not 6"),
        (metadata(("x", "BYTES", [-1, 1])), "BYTES, which no row holds"),
        (metadata(("x", "FP32", [-1, -1]), ("y", "FP32", [-1, -1])), "--row-shape"),
        (metadata(("x", "FP32", [-1, 4, -1])), "do not fill"),
        (metadata(("x", "FP128", [-1, 6])), "FP128"),
    ],
)
def test_a_model_that_takes_other_rows(given, word):
    stub = Stub()
    stub.metadata = given
    with pytest.raises(ModelError, match=word):
        ask(stub, draw(3)[0])


def test_what_the_server_says_is_passed_on():
    stub = Stub()
    stub.status = 500
    with pytest.raises(ModelError, match=r"was answered 500: .*no <thanks>"):
        ask(stub, draw(3)[0])


@pytest.mark.parametrize("data", [[float("nan")] * 9, [0.5] * 8])
def test_an_answer_that_is_none(data):
    stub = Stub(answer=lambda rows: [{**probabilities(rows)[0], "data": data}])
    with pytest.raises(ModelError, match="blobs"):
        ask(stub, draw(3)[0])


class TestReading:
    def read(self, answer, count=40, classes=None, **given):
        rows = draw(count)[0]
        with serving(Stub(answer=answer)) as stub:
            reading = Reading(classes, **given)
            found = AskedModel(ModelServer(stub.url, 6, batch=16), reading)(rows)
        return found, reading

    def test_probabilities(self):
        found, reading = self.read(probabilities)
        np.testing.assert_allclose(found.probabilities, classify(draw(40)[0]).probabilities)
        assert reading.classes == ("0", "1", "2")

    def test_scores_before_labels(self):
        def answer(rows):
            label = {
                "name": "l",
                "datatype": "INT64",
                "shape": [len(rows)],
                "data": [0] * len(rows),
            }
            return [label, *probabilities(rows)]

        assert self.read(answer)[0].labels.tolist() == classify(draw(40)[0]).labels.tolist()
        named, _ = self.read(answer, classes=("0", "1", "2"), output="l")
        assert set(named.labels.tolist()) == {0}

    def test_words(self):
        def answer(rows):
            words = ["abc"[label] for label in classify(rows).labels]
            return [{"name": "l", "datatype": "BYTES", "shape": [len(rows)], "data": words}]

        found, reading = self.read(answer)
        assert found.labels.tolist() == classify(draw(40)[0]).labels.tolist()
        assert reading.classes == ("a", "b", "c")
        with pytest.raises(DataError, match=r"no known class: 'c'"):
            self.read(answer, classes=("a", "b"))

    def test_values(self):
        def answer(rows):
            return [{"name": "v", "datatype": "FP32", "shape": [len(rows)], "data": rows[:, 0]}]

        found, _ = self.read(answer, regression=True)
        np.testing.assert_allclose(found.values[:, 0], draw(40)[0][:, 0], rtol=1e-6)
        with pytest.raises(DataError, match="--classes"):
            self.read(answer)

    def test_nothing_that_could_be_meant(self):
        with pytest.raises(DataError, match="cannot be read"):
            self.read(probabilities, classes=("a", "b"))
        with pytest.raises(DataError, match="--classes"):
            self.read(probabilities, output="q")
        with pytest.raises(DataError, match="no values"):
            self.read(probabilities, regression=True, output="q")


def test_nothing_joined():
    assert len(joined([])) == 0
