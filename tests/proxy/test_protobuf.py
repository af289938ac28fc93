from __future__ import annotations

import pytest
from google.protobuf import unknown_fields
from grpc_messages import MESSAGES, ModelInferRequest, written
from hypothesis import given
from hypothesis import strategies as st

from proxy import protobuf
from proxy.protobuf import FIXED64, SPAN, VARINT, Scalar, Span, TooManyFieldsError, WireError

Tensor = MESSAGES["InferInputTensor"]
Parameter = MESSAGES["InferParameter"]


def test_the_fields_of_a_message():
    data = written(ModelInferRequest(model_name="m" * 200, id="i", raw_input_contents=[b""]))
    first, second, third = protobuf.spans(data, 0, len(data), 3)
    assert first == Span(1, 3, 203)
    assert data[slice(*second[1:])] == b"i"
    assert third == Span(7, len(data), len(data))
    assert protobuf.spans(b"", 0, 0, 0) == []
    with pytest.raises(TooManyFieldsError):
        protobuf.spans(data, 0, len(data), 2)


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",  # no length
        b"\x0a\x01",  # no payload
        b"\x0a\x80",  # half a length
        b"\x0a\x81",
        b"\x08\x01",  # a varint
        b"\x0d\0\0\0\0",  # fixed32
        b"\x09" + b"\0" * 8,  # fixed64
        b"\x0b\x0c",  # a group
        b"\x02\x00",  # field 0
        b"\x82\x01\x00",  # field 16
        b"\x0a" + b"\x80" * 9 + b"\x02",  # a length of more than 64 bits
        b"\x0a" + b"\x80" * 10 + b"\x00",
        b"\x0a" + b"\xff" * 9 + b"\x01",  # a length of 2**64 - 1
    ],
)
def test_what_is_no_message(data):
    with pytest.raises(WireError):
        protobuf.spans(data, 0, len(data), 10)


def test_a_field_ends_with_its_message():
    with pytest.raises(WireError):
        protobuf.spans(b"\x0a\x02ab", 0, 3, 10)
    with pytest.raises(WireError):
        protobuf.numbers(b"\x80\x01", 0, 1, 10)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=16))
def test_shapes(shape):
    data = written(Tensor(shape=shape))
    if shape:
        ((_, start, stop),) = protobuf.spans(data, 0, len(data), 1)
        assert protobuf.numbers(data, start, stop, len(shape)) == shape
        assert data[start:stop] == b"".join(map(protobuf.varint, shape))
        with pytest.raises(WireError):
            protobuf.numbers(data, start, stop, len(shape) - 1)
        with pytest.raises(WireError):
            protobuf.numbers(data[:-1] + b"\x80", start, stop, len(shape))


@given(
    st.one_of(
        st.booleans().map(lambda value: ("bool_param", VARINT, value)),
        st.integers(-(2**63), 2**63 - 1).map(lambda value: ("int64_param", VARINT, value)),
        st.integers(0, 2**64 - 1).map(lambda value: ("uint64_param", VARINT, value)),
        st.floats(allow_nan=False).map(lambda value: ("double_param", FIXED64, value)),
        st.text().map(lambda value: ("string_param", SPAN, value)),
    )
)
def test_scalars(choice):
    name, kind, value = choice
    data = written(Parameter(**{name: value}))
    read = protobuf.scalar(data)
    number = Parameter.DESCRIPTOR.fields_by_name[name].number
    if kind is SPAN:
        assert protobuf.text(read.value) == value
        assert protobuf.span(number, value.encode()) == data
    elif kind is FIXED64:
        assert read == Scalar(number, kind, value)
        assert protobuf.double(number, value) == data
    else:
        assert protobuf.signed(read.value) == value if value < 0 else read.value == value
        assert protobuf.integer(number, value) == data
    for odd in (data + data, data + b"\0", data[:-1]):
        with pytest.raises(WireError):
            protobuf.scalar(odd)


def test_what_is_no_scalar():
    for odd in (b"", b"\x08", b"\x88\x01\x01", b"\x0d\0\0\0\0", b"\x0b", b"\x1a\x02a", b"\x00\x01"):
        with pytest.raises(WireError):
            protobuf.scalar(odd)
    with pytest.raises(WireError):
        protobuf.text(b"\xff")


@given(st.binary(max_size=40))
def test_what_is_read_is_what_a_general_reader_reads(data):
    """Or it is refused: never is a field seen that the other does not see, or overlooked."""
    try:
        fields = protobuf.spans(data, 0, len(data), 40)
    except WireError:
        return
    other = MESSAGES["ServerLiveResponse"]  # knows field 1 as a boolean only: all is unknown
    found = list(unknown_fields.UnknownFieldSet(other.FromString(data)))
    assert [(one.field_number, one.data) for one in found] == [
        (number, data[start:stop]) for number, start, stop in fields
    ]
