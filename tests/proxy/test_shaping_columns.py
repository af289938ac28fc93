"""A column a class: what several outputs say together is shaped as what it is, one answer."""

import numpy as np
import pytest

from proxy.protocols.base import InferRequest, InferResponse
from proxy.shaping import Style, noise_key, shape
from proxy.shaping_columns import alike, distributions, scores
from proxy.shaping_scores import SUMS

KEY = noise_key(b"secret", "digits")
RANDOM = np.random.default_rng(3)
ROWS = 4 * RANDOM.random((200, 16), np.float32)
SHARES = RANDOM.dirichlet(np.ones(4), 200)
NAMES = ("p0", "p1", "p2", "p3")
MODES = ("round", "top_k", "label", "noise")


def shaped(tensors, mode="noise", rows=ROWS, chosen=None, **how):
    options = {} if chosen is None else {"outputs": [{"name": name} for name in chosen]}
    request = InferRequest({"x": rows}, rows, len(rows), options)
    response = InferResponse(dict(tensors), len(rows))
    return shape(response, Style(mode, **{"key": KEY, **how}), request).tensors


def columns(matrix=SHARES, names=NAMES, shape=(-1,)):
    return {name: matrix[:, at].reshape(shape) for at, name in enumerate(names)}


def odds(shares):
    return np.log(shares) - np.log1p(-shares)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
@pytest.mark.parametrize("form", [(-1,), (-1, 1)])
@pytest.mark.parametrize("mode", MODES[:-1])
def test_columns_of_a_distribution_are_shaped_as_the_vector_that_they_are(mode, form, dtype):
    given = SHARES.astype(dtype)
    whole = shaped({"p": given}, mode)["p"]
    found = shaped(columns(given, shape=form), mode)
    assert list(found) == list(NAMES)
    assert all(one.dtype == dtype and one.shape == given[:, 0].reshape(form).shape
               for one in found.values())  # fmt: skip
    assert np.array_equal(np.column_stack([one.reshape(-1) for one in found.values()]), whole)


@pytest.mark.parametrize("form", [(-1,), (-1, 1)])
def test_their_noise_is_that_of_a_vector(form):
    found = shaped(columns(shape=form), keep_best=False)
    together = np.column_stack([one.reshape(-1) for one in found.values()])
    assert np.allclose(together.sum(axis=1), 1)
    moved = np.log(together / SHARES)
    for one, other in ((0, 1), (1, 3)):
        assert 0.85 < (moved[:, one] - moved[:, other]).std() < 1.15


def test_it_goes_by_their_names_and_not_by_their_places():
    """A client may choose in which order they stand: averages over the orders would wear it off."""
    found = shaped(columns(), keep_best=False)
    for order in ((3, 1, 0, 2), (1, 0, 3, 2)):
        names = [NAMES[at] for at in order]
        again = shaped(columns(SHARES[:, order], names), keep_best=False, chosen=names)
        assert all(np.allclose(again[name], found[name], rtol=1e-12) for name in names)


def test_a_class_that_is_out_of_the_question_changes_nothing():
    given = SHARES.copy()
    given[7] = 0.7, 0.0, 0.3, 0.0
    batch = shaped(columns(given))
    alone = shaped(columns(given[7:8]), rows=ROWS[7:8])
    assert np.allclose([alone[name][0] for name in NAMES], [batch[name][7] for name in NAMES])
    assert alone["p1"] == alone["p3"] == 0
    few = shaped(columns(given[7:8]), "top_k", ROWS[7:8])
    assert [few[name][0] for name in NAMES] == [0.7, 0.15, 0.15, 0.0]
    label = {"label": np.zeros(1), **columns(np.array([[0.7, 0.3]]), ("a", "b"))}
    few = shaped(label, "top_k", ROWS[:1])
    assert [few[name][0] for name in label] == [0.0, 0.7, 0.3]


def test_a_row_is_enough():
    """In one row of a batch, two outputs of their own may sum to 1: in most they do not."""
    for mode in MODES:
        batch = shaped(columns(), mode)
        one = shaped(columns(SHARES[7:8]), mode, ROWS[7:8])
        assert np.allclose([one[name][0] for name in NAMES], [batch[name][7] for name in NAMES])


def test_what_stands_beside_them_stays_what_it_is():
    tensors = {
        "label": SHARES.argmax(1).astype("<f8"),
        "text": np.array([b"a"] * 200, object),
        **columns(),
        "confidence": SHARES.max(axis=1),
    }
    for mode in MODES:
        found = shaped(tensors, mode)
        assert list(found) == list(tensors)
        assert np.array_equal(found["label"], tensors["label"])
        for name, alone in shaped(columns(), mode).items():
            assert np.array_equal(found[name], alone)


def test_two_heads_are_two_distributions():
    other = RANDOM.dirichlet(np.ones(3), 200)
    found = shaped({**columns(), **columns(other, ("q0", "q1", "q2"))}, "label")
    for matrix, names in ((SHARES, NAMES), (other, ("q0", "q1", "q2"))):
        together = np.column_stack([found[name] for name in names])
        assert np.array_equal(together.argmax(1), matrix.argmax(1))
        assert np.array_equal(together.sum(axis=1), np.ones(200))


def test_what_sums_to_1_does_not_give_noise_away():
    """Were all classes moved alike in their log-odds, the sum would tell by how much."""
    found = np.column_stack(list(shaped(columns(), keep_best=False).values()))
    moved = odds(found) - odds(SHARES)
    assert np.median(np.ptp(moved, axis=1)) > 0.5
    # Nor does a row that is not finite, or one that misses 1, part them or make them alike.
    broken = SHARES.copy()
    broken[0] = np.nan
    again = np.column_stack(list(shaped(columns(broken), keep_best=False).values()))
    assert np.array_equal(again[1:], found[1:])
    broken[0] = 0.3
    again = np.column_stack(list(shaped(columns(broken), keep_best=False).values()))
    moved = odds(again[1:]) - odds(SHARES[1:])
    assert np.median(np.ptp(moved, axis=1)) > 0.5


@pytest.mark.parametrize("chosen", [None, ("a", "b")])
def test_outputs_of_their_own_have_noise_of_their_own(chosen):
    """Their difference would be the model's own: of shares in log-odds, and of values."""
    tensors = {"a": RANDOM.uniform(0.1, 0.9, 200), "b": RANDOM.uniform(0.1, 0.9, 200)}
    found = shaped(tensors, keep_best=False, chosen=chosen)
    moved = [odds(found[name]) - odds(tensors[name]) for name in tensors]
    assert abs(np.corrcoef(moved)[0, 1]) < 0.25
    assert all(0.8 < one.std() < 1.2 for one in moved)
    values = {"a": RANDOM.normal(50, 20, 200), "b": RANDOM.normal(50, 20, 200)}
    found = shaped(values, chosen=chosen)
    moved = [found[name] - values[name] for name in values]
    assert abs(np.corrcoef(moved)[0, 1]) < 0.25
    assert all(0.08 < one.std() < 0.12 for one in moved)


def test_an_output_that_is_chosen_alone_has_the_noise_that_it_has_among_others():
    tensors = {"a": RANDOM.uniform(0.1, 0.9, 200), "b": RANDOM.uniform(0.1, 0.9, 200)}
    both = shaped(tensors, chosen=("a", "b"))
    for name, tensor in tensors.items():
        alone = shaped({name: tensor}, chosen=(name,))
        assert np.array_equal(alone[name], both[name])
    lone = {"a": tensors["a"]}
    assert np.array_equal(shaped(lone)["a"], shaped(lone, chosen=("a",))["a"])
    # So asking for one class after the other does not tell what they sum to either.
    classes = {name: shaped({name: tensor}, keep_best=False, chosen=(name,))[name]
               for name, tensor in columns().items()}  # fmt: skip
    moved = odds(np.column_stack(list(classes.values()))) - odds(SHARES)
    assert np.median(np.ptp(moved, axis=1)) > 0.5


def test_the_same_output_twice_is_no_second_look():
    share = RANDOM.uniform(0.1, 0.9, 200)
    tensors = {"a": share, "again": share.astype("<f4")[:, None], "b": RANDOM.uniform(0, 0.9, 200)}
    found = shaped(tensors)
    assert np.allclose(found["again"][:, 0], found["a"], atol=1e-6)


def test_labels_follow_columns_of_scores():
    tensors = {"label": SHARES.argmax(1), **columns()}
    for output in (None, "p2"):
        found = shaped(tensors, keep_best=False, noise=3.0, output=output)
        best = np.column_stack([found[name] for name in NAMES]).argmax(1)
        assert np.array_equal(found["label"], best)
        assert (best != SHARES.argmax(1)).any()


@pytest.mark.parametrize("kind", ["values", "logits", "labels"])
def test_the_operator_s_word_counts(kind):
    mode = "noise" if kind == "labels" else "round"
    found = shaped(columns(), mode, kind=kind)
    for name, tensor in columns().items():
        assert np.array_equal(found[name], shaped({name: tensor}, mode, kind=kind)[name])
    found = shaped(columns(), "round", kind="values", output="p0")
    assert np.array_equal(found["p0"], np.round(SHARES[:, 0], 1))


def views(**tensors):
    return {name: np.array(values).reshape(-1, 1, 1) for name, values in tensors.items()}


@pytest.mark.parametrize(
    ("given", "groups"),
    [
        ({"a": [0.25], "b": [0.75]}, [("a", "b")]),
        ({"a": [0.25], "b": [0.5]}, []),
        ({"a": [0.5]}, []),
        ({"a": [1.25], "b": [-0.25]}, []),
        ({"x": [0.125], "a": [0.25], "b": [0.75], "y": [0.5]}, [("a", "b")]),
        ({"a": [0.25, 0.5], "b": [0.75, 0.25], "c": [0.0, 0.25]}, [("a", "b", "c")]),
        ({"a": [0.25], "b": [0.75], "c": [0.5], "d": [0.5]}, [("a", "b"), ("c", "d")]),
        ({"a": [np.nan], "b": [np.nan]}, []),
        ({"a": [np.inf, 0.5], "b": [0.5, 0.5]}, [("a", "b")]),
        (
            {"a": [-9.0], "b": [0.25], "c": [0.75], "d": [2.0], "e": [0.5], "f": [0.5]},
            [("b", "c"), ("e", "f")],
        ),
        ({"a": [-1e17], "b": [0.25], "c": [0.75]}, [("b", "c")]),
        ({"a": [0.0], "b": [0.5], "c": [0.5], "d": [0.0]}, [("b", "c")]),
        ({"a": [0.5], "b": [0.0], "c": [0.5]}, [("a", "b", "c")]),
        ({"a": [0.0], "b": [1.0], "c": [0.0]}, []),
        ({}, []),
    ],
)
def test_which_columns_are_distributions(given, groups):
    assert distributions(views(**given), list(given)) == groups


def test_the_longest_run_from_the_first_column_on():
    """As a look at every run finds it."""
    found = 0
    for seed in range(300):
        draw = np.random.default_rng(seed)
        n = int(draw.integers(1, 4))
        parts = [draw.random((n, 1)), draw.normal(size=(n, 1)), np.zeros((n, 1))]
        parts += [np.round(draw.dirichlet(np.ones(3), n), 3) * scale for scale in (1, 1.004, 1.02)]
        draw.shuffle(parts)
        matrix = np.concatenate(parts, axis=1)
        every = [f"c{at}" for at in range(matrix.shape[1])]
        expected, start = [], 0
        while start < len(every):
            stops = [stop for stop in range(start + 2, len(every) + 1)
                     if matrix[:, start:stop].min() >= 0 and matrix[:, start:stop].max() <= 1
                     and (abs(matrix[:, start:stop].sum(axis=1) - 1) <= SUMS).all()]  # fmt: skip
            stop = stops[-1] if stops and matrix[:, start].any() else start + 1
            while stop > start + 1 and not matrix[:, stop - 1].any():
                stop -= 1
            if stop > start + 1:
                expected.append(tuple(every[start:stop]))
            start = stop
        given = {name: matrix[:, at].reshape(-1, 1, 1) for at, name in enumerate(every)}
        assert distributions(given, every) == expected
        found += len(expected)
    assert found > 400


def test_which_outputs_are_scores_of_one_column():
    given = views(a=[0.5, 1.0], label=[1.0, 2.0], count=[1, 2])
    given |= {"wide": np.ones((2, 1, 3)) / 3, "many": np.ones((2, 3, 1)) / 3}
    given |= {"text": np.array([[[b"x"]], [[b"y"]]], object), "none": np.empty((0, 1, 1))}
    assert scores({**given, "zero": np.zeros((2, 1, 1))}) == ["a", "zero"]
    given = views(a=[0.5, 0.25], b=[0.5, 0.2501], c=[0.4, 0.25])
    assert alike(given, list(given)) == {"a": "a", "b": "a", "c": "c"}
