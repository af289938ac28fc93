"""The demonstration's traffic is what its names say, and its parts share no image."""

import gzip
import json

import numpy as np
import pytest

from loadtest.demo import traffic
from loadtest.wire import body_span

pytest.importorskip("sklearn")

from loadtest.demo import digits

KEY = ("X-API-Key", "k")


@pytest.fixture(scope="module")
def data():
    return digits.load()


@pytest.fixture(scope="module")
def model(data):
    return digits.train(data.model, data.model_labels)


def test_the_parts_share_no_image_and_leave_none_out(data):
    parts = [data.model, data.fit, data.test]
    assert [len(part) for part in parts] == [450, 997, 350]
    together = np.concatenate(parts)
    assert len(np.unique(together, axis=0)) == len(together) == 1797
    assert together.dtype == np.float32
    assert (together.min(), together.max()) == (0, 1)


def test_the_model_is_good_on_images_that_it_never_saw(data, model):
    predicted = model.probabilities(data.test).argmax(axis=1)
    assert (predicted == data.test_labels).mean() > 0.9


def test_the_compiled_model_is_the_trained_one(data):
    from sklearn.neural_network import MLPClassifier

    ours = digits.train(data.model[:100], data.model_labels[:100])
    theirs = MLPClassifier((64,), alpha=1e-3, max_iter=1000, random_state=0)
    theirs.fit(data.model[:100], data.model_labels[:100])
    np.testing.assert_allclose(
        ours.probabilities(data.test), theirs.predict_proba(data.test), atol=1e-4
    )


def test_outliers_are_of_three_kinds_and_stay_in_the_range_of_pixels(data):
    kinds = traffic.outliers(data.test[:20], seed=1)
    assert len(kinds) == 3
    for rows in kinds.values():
        assert rows.shape == (20, 64)
        assert rows.dtype == np.float32
        assert 0 <= rows.min() <= rows.max() <= 1
        assert not (rows == data.test[:20]).all(axis=1).any()
    shuffled = np.sort(kinds["pixels shuffled"], axis=1)
    assert np.array_equal(shuffled, np.sort(data.test[:20], axis=1))


def test_adversarial_images_all_fool_the_model_and_stay_close(data, model):
    crafted = traffic.adversarial(model, data.test, data.test_labels, 0.1)
    assert 0 < len(crafted) < len(data.test)
    distances = np.abs(crafted[:, None] - data.test[None]).max(axis=2).min(axis=1)
    assert distances.max() <= 0.1 + 1e-6
    # An image that was misread already shows nothing about the attack.
    misread = model.probabilities(data.test).argmax(axis=1) != data.test_labels
    alone = traffic.adversarial(model, data.test[misread], data.test_labels[misread], 0.1)
    assert misread.any()
    assert len(alone) == 0


@pytest.fixture(scope="module")
def bad(data):
    return {m.name: m for m in traffic.malformed(data.test[:1], "digits", "h:1", KEY, 64)}


def test_every_way_of_being_wrong_is_there_once(bad):
    assert len(bad) == 15
    assert len({m.request for m in bad.values()}) == 15
    assert all(m.refused_by for m in bad.values())
    assert all(400 <= rule.status < 500 for m in bad.values() for rule in m.refused_by)
    assert all(b"X-API-Key: k\r\n" in m.request for m in bad.values())


def _body(request):
    head_end = request.index(b"\r\n\r\n")
    start, end = body_span(request, head_end)
    assert end == len(request)
    return request[start:end]


def test_the_malformed_are_wrong_in_the_way_that_they_are_named(bad):
    with pytest.raises(json.JSONDecodeError):
        json.loads(_body(bad["JSON cut short"].request))
    assert b"NaN" in _body(bad["NaN in JSON"].request)
    assert _body(bad["a key given twice"].request).count(b'"inputs"') == 2
    assert json.loads(_body(bad["wrong shape"].request))["inputs"][0]["shape"] == [1, 65]
    assert json.loads(_body(bad["2^40 rows"].request))["inputs"][0]["shape"][0] == 1 << 40
    assert json.loads(_body(bad["too many rows"].request))["inputs"][0]["shape"] == [65, 64]
    assert bad["control path"].request.startswith(b"POST /v2/repository/models/digits/load ")
    assert bad["encoded path"].request.startswith(b"POST /v2/models/%64igits/infer ")
    assert bad["smuggling: two CLs"].request.lower().count(b"content-length:") == 2
    bomb = _body(bad["gzip bomb"].request)
    assert len(gzip.decompress(bomb)) > 500 * len(bomb)
    json.loads(gzip.decompress(bomb))  # well-formed, or it would be refused for something else


def test_the_smuggled_request_would_be_one_to_a_server_that_reads_chunks(bad):
    request = bad["smuggling: CL and TE"].request
    body = request[request.index(b"\r\n\r\n") + 4 :]
    assert body.startswith(b"0\r\n\r\nPOST /v2/repository/")
    assert f"Content-Length: {len(body)}\r\n".encode() in request


def test_a_black_box_attack_closes_in_on_a_point_between_two_images(data):
    one, other = data.test[:2]
    queries = traffic.probes(one, other, 60, seed=1)
    assert queries.shape == (60, 64) and queries.dtype == np.float32
    assert len(np.unique(queries, axis=0)) == 60
    assert (queries.min(), queries.max()) >= (0, 0) and queries.max() <= 1
    steps = np.linalg.norm(queries[8:] - queries[7], axis=1)
    assert 0 < steps.max() <= 0.1001
    np.testing.assert_array_equal(queries, traffic.probes(one, other, 60, seed=1))
