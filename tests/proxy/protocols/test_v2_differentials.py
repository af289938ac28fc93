"""Whatever two parsers or two model servers were seen to read differently is refused.

Each case names the difference; the first is an honest request, of which the others are changes.
"""

import json
import struct

import numpy as np
import pytest

from proxy.protocols.base import InferRequest
from proxy.protocols.contract import Contract
from proxy.protocols.v2 import V2
from proxy.rules import (
    BINARY_FRAMING,
    DATATYPE,
    DUPLICATE_KEY,
    MEDIA_TYPE,
    PARAMETER,
    ROWS_PER_REQUEST,
    SHAPE,
    SHARED_MEMORY,
    SYNTAX,
    TENSOR_NAME,
    VALUE,
    Refusal,
)

LENGTH = b"inference-header-content-length"
SCALARS = {
    "f": ("FP32", 1.5),
    "d": ("FP64", 1.5),
    "h": ("FP16", 1.5),
    "q": ("INT64", 3),
    "b": ("INT8", 3),
    "u": ("UINT64", 3),
    "t": ("BOOL", True),
    "s": ("BYTES", "text"),
}
CONTRACT = Contract.from_config(
    [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    + [
        {"name": name, "datatype": datatype, "shape": [-1, 1], "optional": True}
        for name, (datatype, _) in SCALARS.items()
    ],
    [{"name": "y", "datatype": "FP32", "shape": [-1, 10]}],
)
CODEC = V2("/v2/models/digits", CONTRACT, max_rows=128)
ROUTE = CODEC.route("POST", "/v2/models/digits/infer")
PAIR = struct.pack("<ff", 1, 2)
X = '{"name":"x","shape":[1,2],"datatype":"FP32","data":[1.0,2.0]}'


def decode(body, headers=None):
    body = body.encode() if isinstance(body, str) else body
    return CODEC.decode_request(headers or {}, body, ROUTE)


def request(*inputs, before="", after=""):
    return f'{{{before}"inputs":[{",".join(inputs)}]{after}}}'


def scalar(name, value, shape="[1,1]"):
    return request(
        X,
        f'{{"name":"{name}","shape":{shape},"datatype":"{SCALARS[name][0]}","data":[{value}]}}',
    )


def vector(data, shape="[1,2]", datatype="FP32"):
    return request(f'{{"name":"x","shape":{shape},"datatype":"{datatype}","data":{data}}}')


def framed(size=8, data=PAIR, length=None, extra="", **fields):
    item = {
        "name": "x",
        "shape": [1, 2],
        "datatype": "FP32",
        "parameters": {"binary_data_size": size},
    } | fields
    text = json.dumps({"inputs": [item]}).encode()
    value = str(len(text)) if length is None else length.replace("N", str(len(text)))
    return text + data + extra.encode(), {LENGTH: value.encode()}


def with_own(item, parameters):
    return item[:-1] + f',"parameters":{parameters}}}'


def with_parameters(item, parameters):
    return request(with_own(item, parameters))


def both():
    text = with_parameters(X, '{"binary_data_size":8}').encode()
    return text + PAIR, {LENGTH: str(len(text)).encode()}


def framed_as(datatype, data):
    """Two rows, whose strings or booleans are ``data``."""
    name = {kind: name for name, (kind, _) in SCALARS.items()}[datatype]
    rows = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}
    item = {"name": name, "shape": [2, 1], "datatype": datatype}
    item["parameters"] = {"binary_data_size": len(data)}
    text = json.dumps({"inputs": [item, rows]}).encode()
    return text + data, {LENGTH: str(len(text)).encode()}


NUMERIC = [name for name in SCALARS if name != "s"]
REFUSED = [
    # duplicate JSON key: the first, the last
    ("duplicate key", vector('[1,2],"data":[3,4]'), DUPLICATE_KEY),
    ("duplicate key", vector('[1,2],"d\\u0061ta":[3,4]'), DUPLICATE_KEY),
    ("duplicate key", vector('[3,4],"shape":[1,2]'), DUPLICATE_KEY),
    ("duplicate key", request(X, after=',"inputs":[' + X + "]"), DUPLICATE_KEY),
    ("duplicate key", request(X, before='"\\u0069nputs":[],'), DUPLICATE_KEY),
    ("duplicate key", request(X, before='"id":"a","id":"a",'), DUPLICATE_KEY),
    ("duplicate key", request(X, before='"id":"a:","id":"b",'), DUPLICATE_KEY),
    (
        "duplicate key",
        request(X, before='"parameters":{"priority":1,"priority":2},'),
        DUPLICATE_KEY,
    ),
    ("duplicate key", request(X, after=',"outputs":[{"name":"y","name":"y"}]'), DUPLICATE_KEY),
    (
        "duplicate key",
        with_parameters(X, '{"content_type":"np","content_type":"np"}'),
        DUPLICATE_KEY,
    ),
    ("duplicate key", scalar("s", '"a:b","data":[],"c":"d"'), SYNTAX),
    # duplicate tensor name
    ("duplicate name", request(X, X), TENSOR_NAME),
    ("duplicate name", request(X, X.replace('"x"', '"\\u0078"')), TENSOR_NAME),
    ("duplicate name", request(X, after=',"outputs":[{"name":"y"},{"name":"y"}]'), TENSOR_NAME),
    ("unknown name", request(X.replace('"x"', '"z"')), TENSOR_NAME),
    ("unknown name", request(X, after=',"outputs":[{"name":"z"}]'), TENSOR_NAME),
    ("missing tensor", scalar("q", 3).replace(X + ",", ""), TENSOR_NAME),
    # INT64 declared, float data: 500, truncated
    *(("float for integer", scalar(name, "1.5"), VALUE) for name in "qbu"),
    *(("float for integer", scalar(name, "1.0"), VALUE) for name in "qbu"),
    *(("float for integer", scalar(name, "1e0"), VALUE) for name in "qbu"),
    ("float for integer", scalar("q", "-0.0"), VALUE),
    # numeric strings: 500, coerced
    *(("numeric string", scalar(name, '"1"'), VALUE) for name in NUMERIC),
    *(("null", scalar(name, "null"), VALUE) for name in SCALARS),
    *(("object", scalar(name, '{"a":1}'), VALUE) for name in NUMERIC if name != "t"),
    *(("number for string", scalar("s", value), VALUE) for value in ("1", "1.5", "true")),
    # bool for int, int for bool
    *(("bool for number", scalar(name, "true"), VALUE) for name in "fdhqbu"),
    *(("bool for number", scalar(name, "false"), VALUE) for name in "fdhqbu"),
    *(("number for bool", scalar("t", value), VALUE) for value in ("0", "1", "1.0", '"true"')),
    ("bool for number", vector("[true,2.0]"), VALUE),
    ("bool for number", vector("[0.5,false]"), VALUE),
    ("bool for number", vector("[[0.5,false]]"), VALUE),
    ("bool for number", vector("[ true , 1 ]").replace('"data"', '"d\\u0061ta"'), VALUE),
    # shape -1: 500, accepted
    *(
        ("shape", vector("[1.0,2.0]", shape), SHAPE)
        for shape in (
            "[-1,2]",
            "[1,-1]",
            "[0,2]",
            "[1,0]",
            "[]",
            "[2]",
            "[2,1]",
            "[1,1,2]",
            "[1.0,2]",
            "[true,2]",
            '["1",2]',
            "[null,2]",
            "null",
            "2",
            "[[1],2]",
            "[1099511627776,64]",
            "[1099511627776,2]",
            "[4294967296,4294967296]",
            "[9223372036854775807,2]",
            "[18446744073709551615,2]",
            "[18446744073709551616,2]",
            "[1" + ",1" * 64 + "]",
        )
    ),
    # ragged data, shape unlike the data
    *(
        ("data unlike the shape", vector(data), SHAPE)
        for data in ("[]", "[1]", "[1,2,3]", "[[1,2],[3,4]]", "[[1],[2]]", "[[1]]", "[[1,2,3]]")
    ),
    *(
        ("ragged", vector(data), SHAPE)
        for data in ("[1,[2]]", "[[1,2],3]", "[[1],2]", "[[[1,2]]]", "[[[1],[2]]]", "[[1,[2]]]")
    ),
    ("ragged", vector("[[1,2],[3]]", "[2,2]"), SHAPE),
    ("ragged", vector("[[1,2],3,4]", "[2,2]"), SHAPE),
    ("ragged", vector("[1,2,[3,4]]", "[2,2]"), SHAPE),
    ("ragged", vector("[[1],[2,3,4]]", "[2,2]"), SHAPE),
    ("rows differ", scalar("q", "3,4", "[2,1]"), SHAPE),
    # NaN, Infinity, 1e400, 2^64, 1e39 as FP32
    *(
        ("not JSON", vector(f"[1.0,{value}]"), SYNTAX)
        for value in ("NaN", "-Infinity", "nan", "inf")
    ),
    *(
        ("not JSON", vector(f"[1.0,{value}]"), SYNTAX)
        for value in ("1e400", "-1e999", "0x1", "1.", "+1")
    ),
    *(
        ("out of range", vector(f"[1.0,{value}]"), VALUE)
        for value in ("1e39", "-1e39", "3.4028236e38")
    ),
    ("out of range", scalar("h", "65520"), VALUE),
    ("out of range", scalar("h", "-1e300"), VALUE),
    ("out of range", scalar("d", "1e39"), VALUE),
    ("out of range", scalar("q", "18446744073709551616"), VALUE),
    ("out of range", scalar("q", "9223372036854775808"), VALUE),
    ("out of range", scalar("q", "-9223372036854775809"), VALUE),
    ("out of range", scalar("u", "18446744073709551616"), VALUE),
    ("out of range", scalar("u", "-1"), VALUE),
    ("out of range", scalar("b", "128"), VALUE),
    ("out of range", scalar("b", "-129"), VALUE),
    ("datatype", vector("[1.0,2.0]", datatype="FP64"), DATATYPE),
    ("datatype", vector("[1,2]", datatype="INT32"), DATATYPE),
    ("datatype", vector("[1,2]", datatype="fp32"), DATATYPE),
    ("datatype", vector("[1,2]", datatype="BF16"), DATATYPE),
    # BOM, UTF-16, lone surrogates, trailing bytes
    ("BOM", b"\xef\xbb\xbf" + request(X).encode(), SYNTAX),
    ("UTF-16", request(X).encode("utf-16"), SYNTAX),
    ("UTF-16", request(X).encode("utf-16-le"), SYNTAX),
    ("UTF-16", request(X).encode("utf-16-be"), SYNTAX),
    ("UTF-32", request(X).encode("utf-32-le"), SYNTAX),
    ("UTF-7", b"+AHs-" + request(X)[1:].encode(), SYNTAX),
    ("surrogate", request(X, before='"id":"\\ud800",'), SYNTAX),
    ("surrogate", scalar("s", '"\\udfaa"'), SYNTAX),
    ("Latin-1", request(X, before='"id":"é",').encode("latin-1"), SYNTAX),
    ("overlong", b'{"id":"\xc0\xaf",' + request(X).encode()[1:], SYNTAX),
    ("trailing bytes", request(X) + "x", SYNTAX),
    ("trailing bytes", request(X) + "\0", SYNTAX),
    ("trailing bytes", request(X) + request(X), SYNTAX),
    ("comment", request(X) + "//", SYNTAX),
    ("trailing comma", vector("[1,2,]"), SYNTAX),
    ("single quotes", request(X).replace('"', "'"), SYNTAX),
    # depth: RecursionError, 50 passes, 120 fails
    *(("depth", vector("[" * n + "1" + "]" * n), SHAPE) for n in (3, 17, 65, 120, 900)),
    *(("depth", vector("[" * n + "1" + "]" * n), SYNTAX) for n in (1100, 100_000)),
    ("depth", vector("[" * 100_000), SYNTAX),
    ("depth", request(X, before='"parameters":{"a":' + "[" * 100 + "]" * 100 + "},"), PARAMETER),
    ("depth", '{"inputs":' * 500 + "1" + "}" * 500, SYNTAX),
    # Triton binary: header length lies, 0 = raw mode, sum of sizes unlike the tail
    *(
        ("header length", framed(length=length), BINARY_FRAMING)
        for length in ("0", "00", "+N", "-1", "0N", " N", "N ", "N0", "0xN", "", "1_0", "N,N", "٣")
    ),
    ("header length", framed(length="9" * 40), BINARY_FRAMING),
    ("header length", framed(length="1"), SYNTAX),
    ("raw mode", (struct.pack("<ff", 1, 2), {LENGTH: b"0"}), BINARY_FRAMING),
    ("sizes", framed(extra="x"), BINARY_FRAMING),
    ("sizes", framed(data=b"1234567"), BINARY_FRAMING),
    ("sizes", framed(data=b""), BINARY_FRAMING),
    *(("sizes", framed(size=size), SHAPE) for size in (0, 4, 7, 9, 12, 2**62, 2**63)),
    *(("sizes", framed(size=size), BINARY_FRAMING) for size in (-8, 8.0, "8", True, [8])),
    ("sizes", framed(size=16, data=struct.pack("<4f", 1, 2, 3, 4)), SHAPE),
    ("sizes", framed(shape=[2**40, 64]), SHAPE),
    ("raw and contents", both(), BINARY_FRAMING),
    ("size without length", framed()[0], SYNTAX),
    ("size without tail", with_parameters(X, '{"binary_data_size":8}'), BINARY_FRAMING),
    *(
        ("binary value", framed(data=struct.pack("<f", 1) + bits), VALUE)
        for bits in (
            b"\0\0\xc0\x7f",
            b"\0\0\x80\x7f",
            b"\0\0\x80\xff",
            b"\1\0\x80\x7f",
            b"\xff" * 4,
        )
    ),
    *(
        ("binary boolean", framed_as("BOOL", bits), VALUE)
        for bits in (b"\2\1", b"\1\xff", b"\x80\0", b"tf")
    ),
    *(
        ("binary string", framed_as("BYTES", data), SHAPE)
        for data in (
            b"",
            b"\0\0\0",
            b"\1\0\0\0",
            b"\0\0\0\0",
            b"\0\0\0\0\0\0\0",
            b"\2\0\0\0ab\0\0\0\0x",
            b"\2\0\0\0ab\0\0\0\0\0\0\0\0",
            b"\xff\xff\xff\xffab\0\0\0\0",
            b"\0\0\0\0\1\0\0\0",
        )
    ),
    # shared memory, and parameters of unknown meaning
    ("shared memory", with_parameters(X, '{"shared_memory_region":"a"}'), SHARED_MEMORY),
    ("shared memory", with_parameters(X, '{"shared_memory_byte_size":8}'), SHARED_MEMORY),
    ("shared memory", with_parameters(X, '{"shared_memory_offset":0}'), SHARED_MEMORY),
    (
        "shared memory",
        request(X, after=',"outputs":[{"name":"y","parameters":{"shared_memory_region":"a"}}]'),
        SHARED_MEMORY,
    ),
    *(
        ("parameter", request(X, before=f'"parameters":{{{parameter}}},'), PARAMETER)
        for parameter in (
            '"sequence_id":1',
            '"sequence_start":true',
            '"headers":{}',
            '"triton_enable_empty_final_response":true',
            '"priority":"1"',
            '"priority":true',
            '"priority":-1',
            '"timeout":1.5',
            '"timeout":18446744073709551616',
            '"binary_data_output":1',
            '"content_type":"base64"',
            '"content_type":"str"',
            '"content_type":null',
            '"anything":1',
        )
    ),
    *(
        ("parameter", with_parameters(X, f'{{"content_type":{value}}}'), PARAMETER)
        for value in ('"base64"', '"str"', '"datetime"', '"npy"', "1", '""')
    ),
    ("parameter", with_parameters(X, '{"binary_data":true}'), PARAMETER),
    (
        "parameter",
        request(X, after=',"outputs":[{"name":"y","parameters":{"classification":-1}}]'),
        PARAMETER,
    ),
    # .npy, pickle and forms are not of this protocol
    ("npy", b"\x93NUMPY\x01\0v\0{'descr': '<f4'}", SYNTAX),
    ("pickle", b"\x80\x04\x95", SYNTAX),
    *(
        ("content type", (request(X), {b"content-type": value}), MEDIA_TYPE)
        for value in (
            b"",
            b"text/plain",
            b"application/x-www-form-urlencoded",
            b"multipart/form-data; boundary=x",
            b"application/json; charset=utf-7",
            b"application/json; charset=utf-16",
            b"application/json; charset=utf-8; charset=utf-16",
            b"application/json, text/plain",
            b"application/json;",
            b"application/octet-stream; charset=utf-8",
            b"application/jsonp",
            b"application/x-npy",
        )
    ),
    # many rows in one request
    ("rows", vector("[" + ",".join(["1"] * 258) + "]", "[129,2]"), ROWS_PER_REQUEST),
    ("rows", vector("[1,2]", "[129,2]"), ROWS_PER_REQUEST),
    # structure
    *(
        ("structure", body, SYNTAX)
        for body in (
            "",
            "null",
            "[]",
            "1",
            '"x"',
            "{}",
            '{"inputs":[]}',
            '{"inputs":{}}',
            '{"inputs":null}',
            '{"inputs":[1]}',
            '{"inputs":[{}]}',
            '{"inputs":[[]]}',
            request(X, before='"model_name":"other",'),
            request(X, before='"raw_input_contents":[],'),
            request(X, before='"instances":[],'),
            request(X, before='"id":1,'),
            request(X, before='"id":null,'),
            request(X, before='"id":"a\\r\\nSet-Cookie: b",'),
            request(X, before='"id":"' + "a" * 300 + '",'),
            request(X, before='"parameters":[],'),
            request(X, before='"parameters":null,'),
            request(X, after=',"outputs":{}'),
            request(X, after=',"outputs":["y"]'),
            request(X, after=',"outputs":[{}]'),
            request(X, after=',"outputs":[{"name":"y","shape":[1]}]'),
            request(X[:-1] + ',"contents":{"fp32_contents":[1,2]}}'),
            request(X.replace('"name":"x"', '"name":["x"]')),
            request(X.replace('"FP32"', '["FP32"]')),
            request(X.replace("[1.0,2.0]", '"[1.0,2.0]"')),
            request(X.replace("[1.0,2.0]", "1.0")),
            request(X.replace("[1.0,2.0]", "null")),
            request(X.replace(',"data":[1.0,2.0]', "")),
            request(X.replace('"shape":[1,2],', "")),
            request(X.replace('"datatype":"FP32",', "")),
            with_parameters(X, "[]"),
        )
    ),
]


def test_how_many_differences_are_tried():
    assert len(REFUSED) == 294
    assert len({label for label, _, _ in REFUSED}) == 46


@pytest.mark.parametrize(("label", "body", "rule"), REFUSED)
def test_refused(label, body, rule):
    body, headers = body if isinstance(body, tuple) else (body, None)
    with pytest.raises(Refusal) as refusal:
        decode(body, headers)
    assert refusal.value.rule is rule, f"{label}: {refusal.value}"


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (request(X), {}),
        (request(X), {b"content-type": b"application/json"}),
        (request(X), {b"content-type": b"Application/JSON; charset=UTF-8"}),
        (request(X), {b"content-type": b'application/json;charset="utf-8"'}),
        (request(X), {b"content-type": b"application/octet-stream"}),
        (request(X), {LENGTH: str(len(request(X))).encode()}),
        (" \t\r\n" + request(X) + " \n", {}),
        (request(X).replace(":", " : ").replace(",", " , "), {}),
        (vector("[[1.0,2.0]]"), {}),
        (vector("[1,2]"), {}),
        (vector("[10e-1,0.02E+2]"), {}),
        (vector("[1.0,2.0]").replace('"data"', '"d\\u0061t\\u0061"'), {}),
        framed(),
        framed(length="N"),
    ],
)
def test_every_spelling_of_one_request_is_forwarded_as_one(body, headers):
    read = decode(body, headers)
    assert read.rows.tolist() == [[1.0, 2.0]]
    lines, forwarded = CODEC.encode_request(read)
    if "binary" in read.options:
        length = int(lines.split(b": ")[-1])
        item = json.loads(forwarded[:length])["inputs"][0]
        assert forwarded[length:] == struct.pack("<ff", 1, 2)
        assert item["parameters"] == {"binary_data_size": 8}
    else:
        assert lines == b"Content-Type: application/json\r\n"
        assert forwarded == request(X).encode()


@pytest.mark.parametrize("name", ["x", "%", "%s%%b", '"', "\\", "é{}"])
def test_one_tensor_alone_is_written_like_one_of_several(name):
    codec = V2("/v2/models/digits", Contract())
    item = {"name": name, "shape": [1, 2], "datatype": "FP32", "data": [1.5, 2.5]}
    for item["shape"] in ([1, 2], [2, 1], [2]):
        for more in ({}, {"id": "a"}):
            body = json.dumps(more | {"inputs": [item]}).encode()
            read = codec.decode_request({}, body, ROUTE)
            assert json.loads(codec.encode_request(read)[1]) == more | {"inputs": [item]}


def test_what_an_honest_client_adds_is_kept():
    read = decode(
        request(
            with_own(X, '{"content_type":"np"}'),
            before='"id":"a:true\\u003afalse",',
            after=',"parameters":{"binary_data_output":false,"priority":1,"timeout":5,"content_type":"pd"},'
            '"outputs":[{"name":"y","parameters":{"binary_data":true,"classification":3}}]',
        )
    )
    assert json.loads(CODEC.encode_request(read)[1]) == {
        "id": "a:true:false",
        "parameters": {
            "binary_data_output": False,
            "priority": 1,
            "timeout": 5,
            "content_type": "pd",
        },
        "inputs": [
            {
                "name": "x",
                "shape": [1, 2],
                "datatype": "FP32",
                "parameters": {"content_type": "np"},
                "data": [1.0, 2.0],
            }
        ],
        "outputs": [{"name": "y", "parameters": {"binary_data": True, "classification": 3}}],
    }


def test_a_vouched_parameter_passes_as_a_scalar_only():
    codec = V2("/v2/models/digits", CONTRACT, parameters=["temperature"])

    def ask(value):
        body = request(X, before=f'"parameters":{{"temperature":{value}}},').encode()
        return codec.decode_request({}, body, ROUTE)

    assert ask("0.5").options["parameters"] == {"temperature": 0.5}
    assert ask('"warm"').options["parameters"] == {"temperature": "warm"}
    for value in ("null", "[]", "{}", '"a\\n"'):
        with pytest.raises(Refusal) as refusal:
            ask(value)
        assert refusal.value.rule is PARAMETER


@pytest.mark.parametrize("value", ["-0", "-0.0", "0", "1e-400", "1e-46", "5e-324"])
def test_zeros_and_underflow_are_numbers(value):
    read = decode(vector(f"[1.0,{value}]"))
    assert read.rows[0, 1] == 0
    assert np.isfinite(read.rows).all()


def test_text_is_read_twice_rounded_and_forwarded_unambiguously():
    """7.038531e-26: a reader of FP32 text and one that narrows a double get different values."""
    read = decode(vector("[7.038531e-26,1.0]"))
    forwarded = json.loads(CODEC.encode_request(read)[1])["inputs"][0]["data"][0]
    assert forwarded == float(read.rows[0, 0]) == float(np.float32(7.038531e-26))


def test_frames_are_told_from_strings_that_look_like_them():
    """An array is never taken out of a string, nor put into another place."""
    texts = ['"data":[1,2]', '\\"data":[', "data", '"data":[', "]", "[]", '"data":[]', "a:true"]
    for text in texts:
        quoted = json.dumps(text)
        read = decode(scalar("s", quoted))
        assert read.tensors["s"].tolist() == [[text.encode()]]
        assert read.rows.tolist() == [[1.0, 2.0]]
        read = decode(request(X, before=f'"id":{quoted},'))
        assert read.options["id"] == text
    swapped = (
        '{"name":"x","shape":[1,2],"datatype":"FP32","d\\u0061ta":[%s]},'
        '{"name":"f","shape":[1,1],"datatype":"FP32","data":[%s]}'
    )
    read = decode(request(swapped % ("1,2", "3")))
    assert read.tensors["x"].tolist() == [[1, 2]]
    assert read.tensors["f"].tolist() == [[3]]
    for first, second in (("", "3"), ("1,2", ""), ("", "")):
        with pytest.raises(Refusal) as refusal:
            decode(request(swapped % (first, second)))
        assert refusal.value.rule is SHAPE


def test_a_remembered_frame_does_not_vouch_for_other_data():
    good, bad = vector("[1.0,2.0]"), vector("[1.0,true]")
    for _ in range(3):
        assert isinstance(decode(good), InferRequest)
        for body in (bad, vector('["1",2]'), vector("[1e39,1]"), vector("[1]"), vector("[null,1]")):
            with pytest.raises(Refusal):
                decode(body)
    body, headers = framed()
    nan = framed(data=b"\xff" * 8)[0]
    for _ in range(3):
        assert isinstance(decode(body, headers), InferRequest)
        for other in (nan, body + b"x", body[:-1]):
            with pytest.raises(Refusal):
                decode(other, headers)


def test_options_cannot_be_altered_by_whoever_shares_them():
    with pytest.raises(TypeError):
        decode(request(X)).options["id"] = "x"


def test_a_model_name_in_the_body_is_that_of_the_path_and_goes_no_further():
    lines, plain = CODEC.encode_request(decode(request(X)))
    assert CODEC.encode_request(decode(request(X, before='"model_name":"digits",'))) == (
        lines,
        plain,
    )
    for other in ('"other"', '""', "null", '["digits"]'):
        with pytest.raises(Refusal) as refusal:
            decode(request(X, before=f'"model_name":{other},'))
        assert refusal.value.rule is SYNTAX
    with pytest.raises(Refusal) as refusal:
        decode(request(X, before='"model_name":"digits","model_name":"digits",'))
    assert refusal.value.rule is DUPLICATE_KEY
