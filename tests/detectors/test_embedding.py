"""An ONNX model in front of the detectors."""

import os
import subprocess
import sys
import threading

import numpy as np
import onnx_models as build
import pytest

from detectors import embedding
from detectors.embedding import Embedding

pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")

GENERATOR = np.random.default_rng(0)
WEIGHTS = GENERATOR.normal(size=(6, 4)).astype(np.float32)
BIAS = GENERATOR.normal(size=4).astype(np.float32)
ROWS = GENERATOR.normal(size=(300, 6)).astype(np.float32)
MOST = np.finfo(np.float32).max


def make(data, shape=(6,)):
    return Embedding(np.frombuffer(data, np.uint8), shape)


@pytest.fixture(scope="module")
def dense():
    return make(build.dense(WEIGHTS, BIAS))


def test_features(dense):
    assert (dense.features, dense.outputs, dense.layout) == (6, 4, "as given")
    found = dense.embed(ROWS)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_allclose(found, np.maximum(ROWS @ WEIGHTS + BIAS, 0), rtol=1e-5, atol=1e-5)


def test_no_rows(dense):
    found = dense.embed(ROWS[:0])
    assert found.shape == (0, 4) and found.dtype == np.float32


def test_rows_are_independent_and_left_alone(dense):
    rows = ROWS.copy()
    together = dense.embed(rows)
    alone = np.concatenate([dense.embed(row[None]) for row in rows[:20]])
    np.testing.assert_allclose(alone, together[:20], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(rows, ROWS)
    strided = np.zeros((300, 12), np.float32)
    strided[:, ::2] = ROWS
    np.testing.assert_array_equal(dense.embed(strided[:, ::2]), together)


def test_one_row_at_a_time():
    single = make(build.dense(WEIGHTS, BIAS, rows=1))
    expected = np.maximum(ROWS @ WEIGHTS + BIAS, 0)
    np.testing.assert_allclose(single.embed(ROWS), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_never_passes(dense, value):
    """The model's last operator turns NaN to a number; the row must not pass for normal."""
    rows = ROWS[:5].copy()
    rows[2, 5] = value
    found = dense.embed(rows)
    assert np.isnan(found[2]).all()
    np.testing.assert_array_equal(found[[0, 1, 3, 4]], dense.embed(ROWS[[0, 1, 3, 4]]))


def test_overflow_is_as_far_as_can_be(dense):
    rows = np.vstack([ROWS[:1], np.full((1, 6), MOST), ROWS[1:2]])
    found = dense.embed(rows)
    assert (found[1] == MOST).all()
    assert np.isfinite(found).all()


@pytest.mark.parametrize("rows", [ROWS[:, :5], ROWS[0], ROWS.astype(np.float64)])
def test_wrong_rows(dense, rows):
    with pytest.raises(ValueError, match="expected rows"):
        dense.embed(rows)


def test_channels():
    """(height, width, channels) rows for a model of (channels, height, width)."""
    kernels = GENERATOR.normal(size=(2, 3, 3, 3)).astype(np.float32)
    data = build.convolution(kernels, 4, 5)
    images = GENERATOR.normal(size=(7, 3, 4, 5)).astype(np.float32)
    given = make(data, (3, 4, 5))
    moved = make(data, (4, 5, 3))
    flat = make(data, (60,))
    assert (given.layout, moved.layout, flat.layout) == ("as given", "channels first", "reshaped")
    expected = np.einsum(
        "nchwij,kcij->nkhw",
        np.lib.stride_tricks.sliding_window_view(images, (3, 3), (2, 3)),
        kernels,
    ).reshape(7, -1)
    last = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).reshape(7, -1)
    for one, rows in ((given, images.reshape(7, -1)), (flat, images.reshape(7, -1)), (moved, last)):
        assert one.outputs == 12
        np.testing.assert_allclose(one.embed(rows), expected, rtol=1e-4, atol=1e-4)


def test_a_grey_image_gets_its_channel():
    data = build.convolution(np.ones((1, 1, 3, 3)), 4, 4)
    assert make(data, (4, 4)).layout == "reshaped"
    assert make(data, (4, 4, 1)).layout == "channels first"


def _model(nodes, inputs=None, outputs=None, tensors=()):
    return build.model(
        nodes,
        inputs or [build.value("x", ["n", 6])],
        outputs or [build.value("y", ["n", 6])],
        tensors,
    )


MEAN = build.node("ReduceMean", ["x"], ["m"], {"axes": [0], "keepdims": 1})
REFUSED = {
    "mixes rows": (_model([MEAN, build.node("Sub", ["x", "m"], ["y"])]), (6,), "other rows"),
    "rows that do not fit": (build.dense(WEIGHTS, BIAS), (7,), "do not fit"),
    "images that do not fit": (build.convolution(np.ones((1, 1, 3, 3)), 4, 4), (4, 5), "not fit"),
    "a fixed batch": (build.dense(WEIGHTS, BIAS, rows=8), (6,), "8 rows at a time"),
    "another dtype": (
        _model(
            [build.node("Identity", ["x"], ["y"])],
            [build.value("x", ["n", 6], build.INT64)],
            [build.value("y", ["n", 6], build.INT64)],
        ),
        (6,),
        "one tensor of floats",
    ),
    "two inputs": (
        _model(
            [build.node("Add", ["x", "z"], ["y"])],
            [build.value("x", ["n", 6]), build.value("z", ["n", 6])],
        ),
        (6,),
        "one tensor of floats",
    ),
    "two outputs": (
        _model(
            [build.node("Relu", ["x"], ["y"]), build.node("Neg", ["x"], ["z"])],
            outputs=[build.value("y", ["n", 6]), build.value("z", ["n", 6])],
        ),
        (6,),
        "one output",
    ),
    "not finite": (
        _model([build.node("Sub", ["x", "x"], ["o"]), build.node("Div", ["x", "o"], ["y"])]),
        (6,),
        "not finite",
    ),
    "an unknown operator": (
        _model([build.node("Nonsense", ["x"], ["y"])]),
        (6,),
        "cannot be loaded",
    ),
    "a missing input": (_model([build.node("Add", ["x", "w"], ["y"])]), (6,), "cannot be loaded"),
    "weights of the wrong shape": (
        _model(
            [build.node("MatMul", ["x", "w"], ["y"])],
            [build.value("x", ["n", "d"])],
            tensors=[build.tensor("w", WEIGHTS[:3])],
        ),
        (6,),
        "cannot be run|cannot be loaded",
    ),
    "a huge output": (
        _model(
            [build.node("Tile", ["x", "t"], ["y"])],
            outputs=[build.value("y", ["n", "e"])],
            tensors=[build.tensor("t", np.array([1, 20000]))],
        ),
        (6,),
        "120000 features",
    ),
    "a constant of 4 GiB": (
        _model(
            [
                build.node("ConstantOfShape", ["s"], ["c"]),
                build.node("ReduceSum", ["c"], ["r"], {"keepdims": 0}),
                build.node("Add", ["x", "r"], ["y"]),
            ],
            tensors=[build.tensor("s", np.array([1 << 30]))],
        ),
        (6,),
        "cannot be run",
    ),
    "a row made 4 GiB": (
        _model(
            [
                build.node("Expand", ["x", "s"], ["c"]),
                build.node("ReduceSum", ["c", "a"], ["y"], {"keepdims": 0}),
            ],
            tensors=[
                build.tensor("s", np.array([1 << 26, 3, 6])),
                build.tensor("a", np.array([0])),
            ],
        ),
        (6,),
        "cannot be run",
    ),
    "no model": (b"\x80\x04K.", (6,), "ONNX model"),
    "no shape": (build.dense(WEIGHTS, BIAS), (), "cannot be embedded"),
    "a shape of nothing": (build.dense(WEIGHTS, BIAS), (0,), "cannot be embedded"),
    "a huge shape": (build.dense(WEIGHTS, BIAS), (1 << 20,), "cannot be embedded"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    data, shape, words = REFUSED[case]
    with pytest.raises(ValueError, match=words):
        make(data, shape)


def test_how_many_were_refused():
    assert len(REFUSED) == 18


def test_a_slow_model_is_refused(monkeypatch):
    monkeypatch.setattr(embedding, "_SECONDS_CAP", 0.0)
    with pytest.raises(ValueError, match="of the processor for a row"):
        make(build.dense(WEIGHTS, BIAS))


def test_wide_rows_are_embedded_a_few_at_a_time(dense, monkeypatch):
    sizes = []

    def run(given, rows):
        sizes.append(len(rows))
        return whole(given, rows)

    whole = Embedding._run
    together = dense.embed(ROWS)
    monkeypatch.setattr(Embedding, "_run", run)
    monkeypatch.setattr(embedding, "_CHUNK_FEATURES", 6 * 40 + 5)
    np.testing.assert_allclose(dense.embed(ROWS), together, rtol=1e-5, atol=1e-5)
    assert sizes == [40] * 7 + [20]
    monkeypatch.setattr(embedding, "_CHUNK_FEATURES", 5)
    sizes.clear()
    dense.embed(ROWS[:2])
    assert sizes == [1, 1]


def test_parts(dense):
    scalars, arrays = dense.parts()
    again = Embedding.of_parts(scalars, arrays)
    np.testing.assert_array_equal(again.embed(ROWS), dense.embed(ROWS))
    wrong = [
        ({**scalars, "outputs": 5}, arrays),
        ({**scalars, "layout": "channels first"}, arrays),
        ({**scalars, "row_shape": [6.0]}, arrays),
        ({**scalars, "row_shape": None}, arrays),
        (scalars, {}),
        (scalars, {**arrays, "more": arrays["model"]}),
        (scalars, {"model": arrays["model"].astype(np.int64)}),
    ]
    for pair in wrong:
        with pytest.raises(ValueError):
            Embedding.of_parts(*pair)


def test_the_model_cannot_be_changed(dense):
    with pytest.raises(ValueError):
        dense.model.setflags(write=True)


def test_any_thread(dense):
    expected, found = dense.embed(ROWS), {}

    def work(k):
        found[k] = all(np.array_equal(dense.embed(ROWS), expected) for _ in range(20))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), True)


def test_one_thread_on_the_processor_alone(monkeypatch):
    import onnxruntime

    seen = {}
    session = onnxruntime.InferenceSession

    def watched(data, options, providers, **more):
        seen.update(
            threads=(options.intra_op_num_threads, options.inter_op_num_threads),
            providers=providers,
            kind=type(data),
        )
        return session(data, options, providers=providers, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    make(build.dense(WEIGHTS, BIAS))
    assert seen == {"threads": (1, 1), "providers": ["CPUExecutionProvider"], "kind": bytes}


def test_the_runtime_reports_to_nobody(tmp_path):
    """It would leave its identifier of the machine, and what it is to send, at home."""
    (tmp_path / "model.onnx").write_bytes(build.dense(WEIGHTS, BIAS))
    program = (
        "import numpy, detectors.embedding as e\n"
        "e.Embedding(numpy.fromfile('model.onnx', numpy.uint8), (6,))"
    )
    silenced = {"CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}
    kept = {name: value for name, value in os.environ.items() if name not in silenced}
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**kept, "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"\.\[onnx\]"):
        make(build.dense(WEIGHTS, BIAS))
