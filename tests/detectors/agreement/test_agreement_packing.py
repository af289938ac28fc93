"""What a bundle keeps of agreement detectors, and what it refuses to make them from."""

import copy

import agreement_worlds as made
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.agreement.packing import pack, unpack
from detectors.agreement.space import Space
from detectors.training.agreement import fit_agreement, fit_opinions


@pytest.fixture(scope="module")
def packed():
    rows, _, _ = made.world("image")
    opinions = fit_opinions(
        rows, ["feature_squeezing", "noise_consistency"], row_shape=made.SHAPES["image"]
    )
    return pack(made.fitted("image"), opinions)


def test_shared_views_are_kept_once_and_shared_again(packed):
    parameters, arrays = packed
    assert set(parameters) == {
        "space",
        "gradients",
        "knn_agreement",
        "kernel_agreement",
        "gradient_agreement",
        "noisy_gradient_agreement",
        "class_density",
        "confidence",
        "feature_squeezing",
        "noise_consistency",
    }
    assert sum(name.startswith("space/") for name in arrays) == 2
    detectors, opinions = unpack(*packed)
    by_name = {one.name: one for one in detectors}
    assert by_name["knn_agreement"].space is by_name["kernel_agreement"].space
    assert by_name["gradient_agreement"].space is by_name["noisy_gradient_agreement"].space
    assert [one.name for one in opinions] == ["feature_squeezing", "noise_consistency"]


def test_the_order_is_the_registry_s_whatever_the_order_of_the_keys(packed):
    parameters, arrays = packed
    turned = dict(sorted(parameters.items(), reverse=True))
    names = [[one.name for one in unpack(p, arrays)[0]] for p in (parameters, turned)]
    assert names[0] == names[1] == [one.name for one in made.fitted("image")]


def test_names_and_dtypes_fit_a_bundle(packed):
    parameters, arrays = packed
    for name, array in arrays.items():
        assert name.count("/") == 1
        assert name.replace("/", "").replace("_", "").isalnum() and name.islower()
        assert array.dtype.str in {"<f4", "<f8", "<i8"} and 1 <= array.ndim <= 3
    for scalars in parameters.values():
        assert all(type(value) in (int, float) for value in scalars.values())


def test_two_different_views_of_one_name_are_refused():
    rows, labels, classes = made.world("table")
    one, other = (
        fit_agreement(rows[:count], labels[:count], classes=classes, kinds=[kind])[0]
        for count, kind in ((300, "knn_agreement"), (200, "kernel_agreement"))
    )
    with pytest.raises(ValueError, match="do not share one space"):
        pack([one, other])
    with pytest.raises(ValueError, match="twice"):
        pack([one, one])


def _set(name, value):
    def edit(parameters, arrays):
        kind, field = name.split("/")
        (parameters[kind] if field in parameters[kind] else arrays).update(
            {field if field in parameters[kind] else name: value}
        )

    return edit


def _change(name, change):
    def edit(parameters, arrays):
        arrays[name] = change(arrays[name].copy())

    return edit


def _poisoned(array):
    array.flat[0] = np.nan
    return array


def _shorter(array):
    return array[:-1]


def _wider(array):
    return array.astype(np.float64)


def _negative(array):
    return -np.abs(array) - 1


ARRAYS = [
    "space/weights",
    "space/offset",
    "gradients/weights",
    "gradients/offset",
    "knn_agreement/bank",
    "kernel_agreement/centres",
    "kernel_agreement/weights",
    "kernel_agreement/biases",
    "gradient_agreement/centres",
    "class_density/factors",
    "class_density/means",
    "class_density/offsets",
    "noise_consistency/noise",
    "feature_squeezing/low",
]
EDITS = {
    **{f"{name} holds NaN": _change(name, _poisoned) for name in ARRAYS},
    **{f"{name} is too short": _change(name, _shorter) for name in ARRAYS[:-2]},
    "single as double": _change("knn_agreement/bank", _wider),
    "counts that do not add up": _change("knn_agreement/counts", lambda a: a + 1),
    "negative counts": _change("knn_agreement/counts", _negative),
    "too many neighbours": _set("knn_agreement/neighbours", 10**6),
    "a boolean": _set("knn_agreement/neighbours", True),
    "a float for a whole number": _set("knn_agreement/classes", 3.0),
    "other classes": _set("kernel_agreement/classes", 4),
    "no classes": _set("confidence/classes", 0),
    "an infinite scale": _set("kernel_agreement/scale", float("inf")),
    "a negative scale": _set("kernel_agreement/scale", -1.0),
    "gamma not a number": _set("kernel_agreement/gamma", float("nan")),
    "a cell larger than the image": _set("gradients/cell_height", 100),
    "another image": _set("gradients/height", 7),
    "a huge image": _set("gradients/width", 10**9),
    "a unit of nothing": _set("gradients/unit", 0.0),
    "squeezing an image of another size": _set("feature_squeezing/height", 5),
    "low above high": _change("feature_squeezing/low", lambda a: a + 9),
    "an array for a scalar": _set("kernel_agreement/gamma", np.ones(3)),
    "text for a scalar": _set("kernel_agreement/gamma", "1"),
    "a scalar is missing": lambda p, a: p["kernel_agreement"].pop("gamma"),
    "an array is missing": lambda p, a: a.pop("kernel_agreement/weights"),
    "a view is missing": lambda p, a: p.pop("space"),
    "an unknown kind": lambda p, a: p.update(oracle={}),
    "an unknown parameter": lambda p, a: p["confidence"].update(mood=1),
    "an array that belongs to nothing": lambda p, a: a.update({"oracle/bank": np.zeros(3)}),
    "a view that nothing uses": lambda p, a: (
        [p.pop(k) for k in list(p) if k.endswith("gradient_agreement")]
        and [a.pop(k) for k in list(a) if "gradient_agreement/" in k]
    ),
    "too large": lambda p, a: a.update({"oracle/bank": np.zeros((1 << 20) * 9)}),
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_is_wrong_is_refused_in_words(packed, edit):
    parameters, arrays = copy.deepcopy(packed)
    EDITS[edit](parameters, arrays)
    with pytest.raises(ValueError, match=r"\w"):
        unpack(parameters, arrays)


def test_how_many_edits_ran():
    assert len(EDITS) == 14 + 12 + 27


SHAPES = st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple)
STRANGE = st.one_of(
    st.builds(
        lambda shape, dtype, value: np.full(shape, value).astype(dtype),
        SHAPES,
        st.sampled_from(["f8", "f4", "i8", "u1", "f2"]),
        st.sampled_from([0, 1, 3, 200]),
    ),
    st.sampled_from([0, 1, 7, -1, 2**40, 10**400, 0.0, 1e-300, 1e300, float("nan"), True, "x"]),
)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_whatever_is_put_in_it_is_refused_or_it_scores(packed, data):
    parameters, arrays = {kind: dict(scalars) for kind, scalars in packed[0].items()}, {**packed[1]}
    places = sorted(arrays) + sorted(f"{k}/{f}" for k in parameters for f in parameters[k])
    name = data.draw(st.sampled_from(places))
    value = data.draw(STRANGE)
    kind, field = name.split("/")
    if isinstance(value, np.ndarray):
        parameters[kind].pop(field, None)
        arrays[name] = value
    else:
        arrays.pop(name, None)
        parameters[kind][field] = value
    try:
        detectors, _ = unpack(parameters, arrays)
    except ValueError as error:
        assert str(error)
        return
    rows, labels, classes = made.world("image")
    answers = made.told(labels[:3], classes)
    for detector in detectors:
        try:
            assert detector.score(rows[:3], answers).shape == (3,)
        except ValueError as error:  # of another width, or other classes
            assert str(error)


def test_a_space_refuses_more_components_than_features():
    with pytest.raises(ValueError, match="components"):
        Space(np.zeros((3, 2), np.float32), np.zeros(3))
