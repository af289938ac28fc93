"""NPY files: what numpy writes is read, what it would be fooled by is refused."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from proxy.protocols.npy import MAGIC, MAX_HEADER, read_npy, write_npy
from proxy.protocols.tensors import DATATYPES
from proxy.rules import DATATYPE, SHAPE, SYNTAX, VALUE, Refusal

NUMERIC = [kind.dtype for kind in DATATYPES.values() if kind.numeric]


def saved(array, **how):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **how)
    return file.getvalue()


def crafted(text, data=b"", version=b"\1\0"):
    size = struct.pack("<H" if version == b"\1\0" else "<I", len(text))
    return MAGIC + version + size + text + data


def head(descr="'<f4'", order="False", shape="(1, 2)"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()


def refused(data):
    with pytest.raises(Refusal) as refusal:
        read_npy("x", data)
    return refusal.value.rule


@given(st.data())
def test_what_numpy_saves_is_read_and_written_for_it(data):
    dtype = data.draw(st.sampled_from(NUMERIC))
    finite = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    shape = arrays.array_shapes(max_dims=4, max_side=3)
    array = data.draw(arrays.arrays(dtype, shape, elements=arrays.from_dtype(dtype, **finite)))
    version = data.draw(st.sampled_from([(1, 0), (2, 0), (3, 0)]))
    if data.draw(st.booleans()):
        array = np.asfortranarray(array)
    tensor = read_npy("x", saved(array, version=version))
    assert tensor.flags.c_contiguous
    assert not tensor.flags.writeable
    assert (tensor.dtype, tensor.shape) == (array.dtype, array.shape)
    assert tensor.tobytes() == array.tobytes("C")
    file = write_npy(tensor)
    again = np.load(io.BytesIO(file), allow_pickle=False)
    assert (again.dtype, again.shape, again.tobytes()) == (
        tensor.dtype,
        tensor.shape,
        tensor.tobytes(),
    )
    assert file.index(b"\n") % 64 == 63
    assert write_npy(read_npy("x", file)) == file


def test_a_header_may_be_spelt_otherwise():
    data = np.array([[1, 2]], "<f4").tobytes()
    spellings = [
        head(),
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2)}",
        b'{"shape":(1,2,),"fortran_order":False,"descr":"<f4"}\n',
        b"{ 'shape' : (1, 2) , 'descr' : '<f4' , 'fortran_order' : False }      \n",
    ]
    for text in spellings:
        assert read_npy("x", crafted(text, data)).tolist() == [[1, 2]], text


@pytest.mark.parametrize(
    ("array", "rule"),
    [
        (np.array([{}], object), DATATYPE),
        (np.array(["a"]), DATATYPE),
        (np.array([b"a"]), DATATYPE),
        (np.array([1], ">f4"), DATATYPE),
        (np.array([1], ">i8"), DATATYPE),
        (np.array([1j]), DATATYPE),
        (np.array(["2020"], "M8[D]"), DATATYPE),
        (np.array([1], "m8[s]"), DATATYPE),
        (np.array([1], np.longdouble), DATATYPE),
        (np.zeros(2, "V4"), DATATYPE),
        (np.zeros(2, [("a", "<f4")]), SYNTAX),
        (np.float32(1), SHAPE),
        (np.zeros((0, 3)), SHAPE),
        (np.zeros((3, 0)), SHAPE),
        (np.array([np.nan]), VALUE),
        (np.array([np.inf], "<f2"), VALUE),
    ],
    ids=lambda value: value.dtype.str if isinstance(value, np.ndarray | np.generic) else value.id,
)
def test_what_numpy_saves_and_no_model_takes(array, rule):
    assert refused(saved(np.asarray(array), allow_pickle=True)) is rule


@pytest.mark.parametrize(
    ("file", "rule"),
    [
        # A hundred bytes that ask for 74.5 GiB; sizes that overflow; elements without bytes.
        (crafted(head(shape="(10000000000, 2)"), b"\0" * 8), SHAPE),
        (crafted(head(shape="(4611686018427387904, 4)")), SHAPE),
        (crafted(head(shape="(18446744073709551617, 1)"), b"\0" * 4), SHAPE),
        (crafted(head("'|V0'", shape="(1000000000000,)")), DATATYPE),
        (crafted(head(), b"\0" * 7), SHAPE),
        (crafted(head(), b"\0" * 9), SHAPE),
        (crafted(head("'|b1'", shape="(2,)"), b"\0\2"), VALUE),
        (crafted(head(shape="(-1, 2)"), b"\0" * 8), SYNTAX),
        (crafted(head(shape="(2)"), b"\0" * 8), SHAPE),
        (crafted(head(shape="(02,)"), b"\0" * 8), SHAPE),
        (crafted(head(shape="(1,,2)"), b"\0" * 8), SHAPE),
        (crafted(head(shape="(1 2)"), b"\0" * 8), SHAPE),
        (crafted(head(shape="()"), b"\0" * 4), SHAPE),
        (crafted(head(shape="(" + "1," * 17 + ")"), b"\0" * 4), SHAPE),
        (crafted(head(shape="(1L, 2L)"), b"\0" * 8), SYNTAX),
        (crafted(head(shape="(1e0, 2)"), b"\0" * 8), SYNTAX),
        (crafted(head(shape="(True, 2)"), b"\0" * 8), SYNTAX),
        (crafted(head(order="0"), b"\0" * 8), SYNTAX),
        (crafted(head(order="(1,)"), b"\0" * 8), SYNTAX),
        (crafted(head("True"), b"\0" * 8), DATATYPE),
        (crafted(head("'=f4'"), b"\0" * 8), DATATYPE),
        (crafted(head("'|f4'"), b"\0" * 8), DATATYPE),
        (crafted(head("'<f4', 'descr': '<f4'"), b"\0" * 8), SYNTAX),
        (crafted(head("'<f4', 'x': 1"), b"\0" * 8), SYNTAX),
        (crafted(head("__import__('os').system('true')"), b"\0" * 8), SYNTAX),
        (crafted(b"{'descr': '<f4', 'shape': (1, 2), }\n", b"\0" * 8), SYNTAX),
        (crafted(head()[1:], b"\0" * 8), SYNTAX),
        (crafted(head() + b"x", b"\0" * 8), SYNTAX),
        (crafted(b"[" * 1000), SYNTAX),
        (crafted(b""), SYNTAX),
        (crafted(head().ljust(MAX_HEADER + 1), b"\0" * 8), SYNTAX),
        (MAGIC + b"\1\0\xff\xff", SYNTAX),
        (MAGIC + b"\2\0\xff\xff\xff\xff" + head(), SYNTAX),
        (crafted(head(), b"\0" * 8, b"\4\0"), SYNTAX),
        (crafted(head(), b"\0" * 8, b"\1\1"), SYNTAX),
        (MAGIC, SYNTAX),
        (b"\x93NUMP", SYNTAX),
        (b"", SYNTAX),
        (b"PK\x03\x04", SYNTAX),
    ],
)
def test_crafted_files(file, rule):
    assert refused(file) is rule


def test_an_answer_may_be_empty():
    assert read_npy("x", saved(np.zeros((0, 3))), smallest=0).shape == (0, 3)


def test_every_prefix_is_refused():
    file = saved(np.arange(6.0).reshape(2, 3))
    assert read_npy("x", file).shape == (2, 3)
    for cut in range(len(file)):
        refused(file[:cut])
