"""Training data in, or a clear word."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from detectors.training.readers import (
    DataError,
    read_answers,
    read_labels,
    read_mask,
    read_table,
    read_targets,
)

ROWS = np.arange(12.0).reshape(4, 3) / 7


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16, np.uint8, bool, np.float16])
def test_npy(tmp_path, dtype):
    path = tmp_path / "x.npy"
    np.save(path, (ROWS * 7).astype(dtype))
    table = read_table(path)
    assert table.rows.dtype == np.float32
    assert table.rows.flags.c_contiguous
    np.testing.assert_array_equal(table.rows, (ROWS * 7).astype(dtype).astype(np.float32))
    assert table.row_shape == (3,)


def test_images_are_flattened_in_c_order(tmp_path):
    images = np.asfortranarray(np.arange(24.0).reshape(2, 3, 4))
    np.save(tmp_path / "x.npy", images)
    table = read_table(tmp_path / "x.npy")
    assert table.row_shape == (3, 4)
    np.testing.assert_array_equal(table.rows, np.arange(24.0).reshape(2, 12))


def test_npz(tmp_path):
    np.savez(tmp_path / "one.npz", anything=ROWS)
    np.savez(tmp_path / "named.npz", X=ROWS, y=np.zeros(4))
    np.savez(tmp_path / "odd.npz", a=ROWS, b=ROWS)
    for name in ("one.npz", "named.npz"):
        np.testing.assert_array_equal(read_table(tmp_path / name).rows, ROWS.astype(np.float32))
    with pytest.raises(DataError, match=r"one named X; got \['a', 'b'\]"):
        read_table(tmp_path / "odd.npz")


@pytest.mark.parametrize("header", [True, False])
def test_csv(tmp_path, header):
    path = tmp_path / "x.csv"
    np.savetxt(path, ROWS, delimiter=",", header="a,b,c" if header else "", comments="")
    table = read_table(path)
    np.testing.assert_allclose(table.rows, ROWS, rtol=1e-6)
    assert table.names == (("a", "b", "c") if header else None)


def test_parquet(tmp_path):
    pq.write_table(pa.table({"a": [1.0, 2.0], "b": [3, 4]}), tmp_path / "x.parquet")
    table = read_table(tmp_path / "x.parquet")
    assert table.names == ("a", "b")
    np.testing.assert_array_equal(table.rows, [[1, 3], [2, 4]])


def saved(array):
    return lambda path: np.save(path, array)


def text(content):
    return lambda path: path.write_bytes(content)


def parquet(**columns):
    return lambda path: pq.write_table(pa.table(columns), path)


BAD = {
    "missing": ("x.npy", lambda path: None, "No such file"),
    "empty file": ("x.csv", text(b""), "the file is empty"),
    "unknown suffix": ("x.xlsx", text(b"a"), r"expected \.npy"),
    "not npy": ("x.npy", text(b"hello world, this is text"), "mixed types|not a readable"),
    "pickle": ("x.npy", text(pickle.dumps([1, 2])), "never loaded|not a readable"),
    "cut npy": ("x.npy", text(b"\x93NUMPY\x01\x00v\x00{'descr'"), "not a readable npy"),
    "not npz": ("x.npz", text(b"PK\x03\x04 nothing"), "not a readable npz"),
    "objects": ("x.npy", saved(np.array([[1, "a"]], dtype=object)), "mixed types"),
    "strings": ("x.npy", saved(np.array([["a", "b"]])), "got text"),
    "complex": ("x.npy", saved(np.ones((2, 2), dtype=complex)), "complex"),
    "records": ("x.npy", saved(np.ones((2, 2), dtype=[("a", "f4")])), "records"),
    "one dimension": ("x.npy", saved(np.arange(5.0)), "expected a table"),
    "no dimension": ("x.npy", saved(np.float64(3)), "expected a table"),
    "no rows": ("x.npy", saved(np.empty((0, 3))), "no rows"),
    "no features": ("x.npy", saved(np.empty((3, 0))), "no rows, or no features"),
    "NaN": ("x.npy", saved(np.array([[1, 2], [3, np.nan]])), "row 1, feature 1"),
    "infinity": ("x.npy", saved(np.array([[1, -np.inf]])), "not finite"),
    "too large": ("x.npy", saved(np.array([[1, 1e300]])), "too large for float32"),
    "csv word": ("x.csv", text(b"1,2\n3,four\n"), "row 1, column 1 is 'four'"),
    "csv blank": ("x.csv", text(b"1,2\n3,\n"), "row 1, column 1 is ''"),
    "csv ragged": ("x.csv", text(b"1,2\n3\n"), "row 1 has 1 cells"),
    "csv NaN": ("x.csv", text(b"a,b\n3,nan\n"), "row 0, feature b"),
    "csv header only": ("x.csv", text(b"a,b\n"), "no rows"),
    "csv bytes": ("x.csv", text(b"\xff\xfe\x00"), "not a readable csv"),
    "csv blank lines": ("x.csv", text(b"\n\n"), "the file is empty"),
    "parquet text": ("x.parquet", parquet(a=["x", "y"]), "column 'a' holds string"),
    "parquet null": ("x.parquet", parquet(a=[1.0, None]), "1 missing values"),
    "parquet list": ("x.parquet", parquet(a=[[1.0], [2.0]]), "column 'a' holds list"),
    "parquet rows": ("x.parquet", parquet(a=pa.array([], pa.float64())), "no rows"),
    "not parquet": ("x.parquet", text(b"PAR1 nothing"), "not a readable parquet"),
}


def test_every_bad_file_is_listed():
    assert len(BAD) == 30


@pytest.mark.parametrize("name", BAD)
def test_bad(tmp_path, name):
    filename, make, word = BAD[name]
    make(tmp_path / filename)
    with pytest.raises(DataError, match=word):
        read_table(tmp_path / filename)


@pytest.mark.parametrize("labels", [np.array([0, 1, 1, 2]), np.array([0.0, 1.0, 1.0, 2.0])])
def test_labels(tmp_path, labels):
    np.save(tmp_path / "y.npy", labels)
    assert sorted(read_labels(tmp_path / "y.npy", 4)) == ["0", "1", "1", "2"]


@pytest.mark.parametrize("content", ["cat\ndog\ncat\ncat\n", '"cat"\n"dog"\n"cat"\n"cat"\n'])
def test_labels_in_words(tmp_path, content):
    (tmp_path / "y.csv").write_text(content)
    assert sorted(read_labels(tmp_path / "y.csv", 4)) == ["cat", "cat", "cat", "dog"]


def test_labels_with_a_heading(tmp_path):
    (tmp_path / "y.csv").write_text("class\n1\n2\n")
    assert sorted(read_labels(tmp_path / "y.csv", 2)) == ["1", "2"]


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (np.arange(3), "3 labels for 4 rows"),
        (np.array([0.5, 1, 1, 1]), "not whole numbers"),
        (np.array([np.nan, 1, 1, 1]), "not whole numbers"),
        (np.zeros((4, 2)), "one label a row"),
        (np.array(["a", "", "b", "c"]), "1 labels are empty"),
        (np.array([1j, 1, 1, 1]), "complex"),
    ],
)
def test_bad_labels(tmp_path, labels, word):
    np.save(tmp_path / "y.npy", labels)
    with pytest.raises(DataError, match=word):
        read_labels(tmp_path / "y.npy", 4)


class TestTargets:
    @pytest.mark.parametrize("values", [[1.5, 2.0, -3.0], [[1, 2], [3, 4], [5, 6]], [True] * 3])
    def test_read(self, tmp_path, values):
        np.save(tmp_path / "t.npy", np.array(values))
        found = read_targets(tmp_path / "t.npy", 3)
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, np.array(values, float).reshape(3, -1))

    @pytest.mark.parametrize(
        ("values", "word"),
        [
            ([1.0, 2.0], "2 values for 3 rows"),
            ([1.0, np.nan, np.inf], "2 values are not finite"),
            (["a", "b", "c"], "text"),
            (np.zeros((3, 1, 1)), "one or more a row"),
            (np.zeros((3, 0)), "one or more a row"),
        ],
    )
    def test_refused(self, tmp_path, values, word):
        np.save(tmp_path / "t.npy", np.array(values))
        with pytest.raises(DataError, match=word):
            read_targets(tmp_path / "t.npy", 3)


class TestMask:
    @pytest.mark.parametrize("values", [[True, False, True], [1, 0, 1], [[1.0], [0.0], [1.0]]])
    def test_read(self, tmp_path, values):
        np.save(tmp_path / "m.npy", np.array(values))
        assert read_mask(tmp_path / "m.npy", 3).tolist() == [True, False, True]

    @pytest.mark.parametrize(
        "values", [[0, 1, 2], [0.5, 1, 1], ["true"] * 3, [[1, 1, 1]], [np.nan, 1, 0], []]
    )
    def test_refused(self, tmp_path, values):
        np.save(tmp_path / "m.npy", np.array(values))
        with pytest.raises(DataError, match=r"true or false|for 3 rows"):
            read_mask(tmp_path / "m.npy", 3)

    def test_of_another_length(self, tmp_path):
        np.save(tmp_path / "m.npy", np.array([True, False]))
        with pytest.raises(DataError, match="2 values for 3 rows"):
            read_mask(tmp_path / "m.npy", 3)


class TestAnswers:
    def test_numbers(self, tmp_path):
        np.save(tmp_path / "a.npy", ROWS)
        array, name = read_answers(tmp_path / "a.npy", 4)
        np.testing.assert_array_equal(array, ROWS)
        assert name == ""

    def test_words(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array(["cat", "d\u00f6g"]))
        assert read_answers(tmp_path / "a.npy", 2)[0].tolist() == [b"cat", "d\u00f6g".encode()]

    def test_the_best_of_a_file_with_names(self, tmp_path):
        np.savez(tmp_path / "a.npz", labels=np.zeros(4, int), probabilities=ROWS, other=ROWS)
        assert read_answers(tmp_path / "a.npz", 4)[1] == "probabilities"
        np.savez(tmp_path / "b.npz", labels=np.zeros(4, int))
        assert read_answers(tmp_path / "b.npz", 4)[1] == "labels"
        np.savez(tmp_path / "c.npz", x=ROWS, y=ROWS)
        with pytest.raises(DataError, match="one named probabilities or logits"):
            read_answers(tmp_path / "c.npz", 4)

    def test_csv(self, tmp_path):
        (tmp_path / "l.csv").write_text("1\n2\n1\n")
        assert read_answers(tmp_path / "l.csv", 3)[0].tolist() == [b"1", b"2", b"1"]
        (tmp_path / "v.csv").write_text("0.5\n2\n1e3\n")
        assert read_answers(tmp_path / "v.csv", 3)[0].tolist() == [0.5, 2.0, 1000.0]
        (tmp_path / "p.csv").write_text("0.5,0.5\n0.25,0.75\n")
        assert read_answers(tmp_path / "p.csv", 2)[0].shape == (2, 2)

    @pytest.mark.parametrize(
        ("values", "word"),
        [
            (np.zeros(3), r"shape \(3,\) for 4 rows"),
            (np.array(1.0), "for 4 rows"),
            (np.array([1.0, np.nan, 2.0, np.inf]), "2 answers are not finite"),
            (np.zeros(4, complex), "complex"),
        ],
    )
    def test_refused(self, tmp_path, values, word):
        np.save(tmp_path / "a.npy", values)
        with pytest.raises(DataError, match=word):
            read_answers(tmp_path / "a.npy", 4)

    def test_pickles_are_never_loaded(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
        with pytest.raises(DataError, match="never loaded"):
            read_answers(tmp_path / "a.npy", 2)
