from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from grpc_messages import ModelInferRequest, ModelInferResponse, ModelMetadataResponse, written

from proxy.protocols.base import Call
from proxy.protocols.contract import Contract, ContractError
from proxy.protocols.grpc_v2 import GrpcV2
from proxy.protocols.grpc_v2_paths import SERVICE, Paths
from proxy.protocols.v2_inputs import FREE_STRINGS
from proxy.rules import (
    BINARY_FRAMING,
    CONTROL_PATH,
    DATATYPE,
    DUPLICATE_KEY,
    METHOD,
    NO_ROUTE,
    PARAMETER,
    SHAPE,
    SHARED_MEMORY,
    SYNTAX,
    TENSOR_NAME,
    UPSTREAM_INVALID,
    VALUE,
    Refusal,
)

PLACE = f"{SERVICE}/digits"


def codec(contract=None, **arguments):
    return GrpcV2(PLACE, contract or Contract(), **arguments)


def declared(**keys):
    return Contract.from_config([{"name": "x", "datatype": "FP32", "shape": (-1, 2)} | keys])


def message(rows=((1, 2),), datatype="FP32", *, name="x", dtype="<f4", **fields):
    """A request with one raw tensor."""
    array = np.array(rows, dtype)
    made = ModelInferRequest(model_name="digits", **fields)
    made.inputs.add(name=name, datatype=datatype, shape=array.shape)
    made.raw_input_contents.append(array.tobytes())
    return made


def decode(made, over=None, version=""):
    over = over or codec()
    body = made if type(made) is bytes else written(made)
    at = f"{PLACE}{version and f'/{version}'}/ModelInfer"
    return over.decode_request({}, body, over.route("RPC", at))


def refused(made, over=None):
    with pytest.raises(Refusal) as caught:
        decode(made, over)
    return caught.value.rule


def again(made, over=None, version=""):
    """What goes upstream for a request, read by the other library."""
    over = over or codec()
    lines, body = over.encode_request(decode(made, over, version))
    assert lines == b""
    return ModelInferRequest.FromString(body)


# Routes.


@pytest.mark.parametrize(
    ("target", "call", "sent"),
    [
        ("/digits/ModelInfer", Call.INFER, "/digits/ModelInfer"),
        ("/digits/7/ModelInfer", Call.INFER, "/digits/7/ModelInfer"),
        ("/digits/ModelStreamInfer", Call.INFER, "/digits/ModelInfer"),
        ("/digits/ModelReady", Call.HEALTH, "/digits/ModelReady"),
        ("/digits/7/ModelMetadata", Call.METADATA, "/digits/7/ModelMetadata"),
        ("/ServerLive", Call.HEALTH, "/ServerLive"),
        ("/ServerReady", Call.HEALTH, "/ServerReady"),
        ("/ServerMetadata", Call.METADATA, "/ServerMetadata"),
    ],
)
def test_routes(target, call, sent):
    route = codec().route("RPC", SERVICE + target)
    assert (route.call, route.method, route.target.decode()) == (call, "RPC", SERVICE + sent)
    assert route.model == ("digits" if "digits" in target else "")
    assert route.version == ("7" if "7" in target else "")


@pytest.mark.parametrize(
    ("target", "rule"),
    [
        ("/digits", NO_ROUTE),
        ("/digits/", NO_ROUTE),
        ("/digits2/ModelInfer", NO_ROUTE),
        ("/other/ModelInfer", NO_ROUTE),
        ("/digits/1/2/ModelInfer", NO_ROUTE),
        ("/digits/a b/ModelInfer", NO_ROUTE),
        ("/digits/ModelInfer/", NO_ROUTE),
        ("/digits/ModelConfig", NO_ROUTE),
        ("/ModelInfer", NO_ROUTE),
        ("", NO_ROUTE),
        ("/ModelConfig", CONTROL_PATH),
        ("/RepositoryModelLoad", CONTROL_PATH),
        ("/CudaSharedMemoryRegister", CONTROL_PATH),
        ("/TraceSetting", CONTROL_PATH),
    ],
)
def test_what_does_not_pass(target, rule):
    with pytest.raises(Refusal) as caught:
        codec().route("RPC", SERVICE + target)
    assert caught.value.rule is rule


def test_another_wire_is_not_understood():
    with pytest.raises(Refusal) as caught:
        codec().route("POST", f"{PLACE}/ModelInfer")
    assert caught.value.rule is METHOD


def test_streams_are_refused_where_that_is_configured():
    over = codec(stream=False)
    assert over.route("RPC", f"{PLACE}/ModelInfer").call is Call.INFER
    with pytest.raises(Refusal) as caught:
        over.with_contract(None).route("RPC", f"{PLACE}/ModelStreamInfer")
    assert caught.value.rule is CONTROL_PATH


def test_one_version_alone():
    paths = Paths(f"{PLACE}/3")
    assert paths.route("RPC", f"{PLACE}/3/ModelInfer").version == "3"
    for other in (f"{PLACE}/ModelInfer", f"{PLACE}/4/ModelInfer", f"{PLACE}/3/4/ModelInfer"):
        with pytest.raises(Refusal):
            paths.route("RPC", other)


@pytest.mark.parametrize("prefix", ["/v2/models/m", SERVICE, f"{SERVICE}/a/b/c", f"{SERVICE}/.."])
def test_what_is_no_place_of_a_model(prefix):
    with pytest.raises(ValueError, match="paths are"):
        GrpcV2(prefix, None)


def test_a_model_has_one_name():
    with pytest.raises(ValueError, match="same name"):
        GrpcV2(PLACE, None, upstream_prefix=f"{SERVICE}/other")
    GrpcV2(PLACE, None, upstream_prefix=PLACE)


# Requests.


def test_a_request_asks_the_model_that_it_was_routed_by():
    assert refused(message(model_version="2")) is SYNTAX
    other = message()
    other.model_name = "other"
    assert refused(other) is SYNTAX
    assert again(message(model_version="2"), version="2").model_version == "2"


def test_everything_beside_the_tensors_goes_on():
    made = message(id="a", model_version="1")
    made.parameters["priority"].uint64_param = 2**63 - 1
    made.parameters["timeout"].int64_param = 5
    made.parameters["content_type"].string_param = "np"
    made.parameters["binary_data_output"].bool_param = True
    made.parameters["mine"].double_param = 0.5
    made.inputs[0].parameters["content_type"].string_param = "pd"
    made.outputs.add(name="y").parameters["classification"].int64_param = 3
    made.outputs.add(name="z")
    over = codec(parameters=["mine"])
    assert again(made, over, "1") == made
    request = decode(made, over, "1")
    asked = over.with_rows(request, np.zeros((2, 2), np.float32), np.zeros(2, np.int64))
    sent = ModelInferRequest.FromString(over.encode_request(asked)[1])
    assert (sent.id, len(sent.outputs), list(sent.inputs[0].shape)) == ("", 2, [2, 2])
    assert refused(made) is PARAMETER


@pytest.mark.parametrize(
    ("place", "key", "value", "rule"),
    [
        ("request", "sequence_id", {"int64_param": 1}, PARAMETER),
        ("request", "sequence_start", {"bool_param": True}, PARAMETER),
        ("request", "priority", {"string_param": "1"}, PARAMETER),
        ("request", "priority", {"int64_param": -1}, PARAMETER),
        ("request", "priority", {"uint64_param": 2**63}, PARAMETER),
        ("request", "timeout", {"double_param": 1.0}, PARAMETER),
        ("request", "mine", {"double_param": float("nan")}, VALUE),
        ("request", "mine", {}, SYNTAX),
        ("request", "shared_memory_region", {"string_param": "r"}, SHARED_MEMORY),
        ("input", "shared_memory_region", {"string_param": "r"}, SHARED_MEMORY),
        ("input", "binary_data_size", {"int64_param": 8}, PARAMETER),
        ("input", "content_type", {"string_param": "base64"}, PARAMETER),
        ("input", "content_type", {"uint64_param": 1}, PARAMETER),
        ("output", "shared_memory_region", {"string_param": "r"}, SHARED_MEMORY),
        ("output", "classification", {"uint64_param": 1}, PARAMETER),
    ],
)
def test_parameters_that_do_not_pass(place, key, value, rule):
    made = message()
    output = made.outputs.add(name="y")
    holder = {"request": made, "input": made.inputs[0], "output": output}[place]
    holder.parameters[key].SetInParent()
    for name, held in value.items():
        setattr(holder.parameters[key], name, held)
    assert refused(made, codec(parameters=["mine"])) is rule


def odd_messages():
    both = message()
    both.inputs[0].contents.fp32_contents.extend([1, 2])
    yield both, BINARY_FRAMING
    empty = message()
    empty.inputs[0].contents.SetInParent()
    yield empty, BINARY_FRAMING
    surplus = message()
    surplus.raw_input_contents.append(b"")
    yield surplus, BINARY_FRAMING
    short = message()
    short.raw_input_contents[0] = b"\0" * 7
    yield short, SHAPE
    two = message()
    two.inputs.add(name="y", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1, 2])
    yield two, BINARY_FRAMING
    twice = message()
    twice.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    twice.raw_input_contents.append(twice.raw_input_contents[0])
    yield twice, TENSOR_NAME
    half = message()
    half.inputs[0].datatype = "BF16"
    yield half, DATATYPE
    nameless = message()
    nameless.inputs[0].name = ""
    yield nameless, SYNTAX
    for shape in ([-1, 2], [0, 2], [2**40, 2**40], [], [1] * 17, [2, 2]):
        made = message()
        del made.inputs[0].shape[:]
        made.inputs[0].shape.extend(shape)
        yield made, SYNTAX if len(shape) == 17 else SHAPE
    untyped = message(dtype="<f2", datatype="FP16")
    del untyped.raw_input_contents[:]
    untyped.inputs[0].contents.fp32_contents.extend([1, 2])
    yield untyped, DATATYPE
    yield written(message()) + b"\x42\x00", SYNTAX  # field 8
    yield written(message()) + b"\x10\x01", SYNTAX  # field 2 as a number
    yield written(message()) + b"\x1a\x01\xff", SYNTAX  # an id that is not UTF-8
    yield written(message()) + b"\x1a\x01a\x1a\x01a", DUPLICATE_KEY
    yield written(message(id="a\n")), SYNTAX
    yield written(ModelInferRequest(model_name="digits")), SYNTAX
    # Shapes one number after the other, as older writers have them, and packed in two runs.
    tensor = b"\x0a\x01x\x12\x04FP32"
    for shape in (b"\x18\x01\x18\x02", b"\x1a\x01\x01\x1a\x01\x02"):
        inner = tensor + shape
        body = b"\x0a\x06digits\x2a" + bytes([len(inner)]) + inner + b"\x3a\x08" + b"\0" * 8
        yield body, SYNTAX


def test_odd_messages():
    ran = 0
    for made, rule in odd_messages():
        assert refused(made) is rule, made
        ran += 1
    assert ran == 23


def test_the_contract_holds():
    over = codec(declared(minimum=0, maximum=2))
    assert decode(message(), over).rows.tolist() == [[1, 2]]
    assert refused(message(((1, 3),)), over) is VALUE
    assert refused(message(name="y"), over) is TENSOR_NAME
    assert refused(message(((1, 2, 3),)), over) is SHAPE
    assert refused(message(dtype="<f8", datatype="FP64"), over) is DATATYPE
    unknown = message()
    unknown.outputs.add(name="y")
    outputs = Contract.from_config(
        [{"name": "x", "datatype": "FP32", "shape": (-1, 2)}],
        [{"name": "z", "datatype": "FP32", "shape": (-1,)}],
    )
    assert refused(unknown, codec(outputs)) is TENSOR_NAME
    assert refused(message(), codec(Contract().with_width(3))) is SHAPE


def test_tensors_go_on_in_the_contract_s_order():
    contract = Contract.from_config(
        [{"name": name, "datatype": "FP32", "shape": (-1, 1)} for name in "ab"]
    )
    made = message(((2,),), name="b")
    made.inputs.add(name="a", datatype="FP32", shape=[1, 1])
    made.raw_input_contents.append(np.float32(1).tobytes())
    over = codec(contract)
    assert decode(made, over).rows.tolist() == [[1, 2]]
    assert [tensor.name for tensor in again(made, over).inputs] == ["a", "b"]


def test_raw_tensors_may_stand_anywhere():
    made = message(id="a")
    raw = ModelInferRequest(raw_input_contents=made.raw_input_contents)
    del made.raw_input_contents[:]
    body = written(raw) + written(made)
    assert again(body).raw_input_contents == raw.raw_input_contents
    assert again(body).id == "a"


def test_a_frame_that_is_known_is_told_apart_by_all_of_it():
    over = codec()
    for value in (1, 2):
        assert decode(message(((value, 2),)), over).rows[0, 0] == value
    assert dict(decode(message(id="a"), over).options)["id"] == "a"
    assert "id" not in decode(message(), over).options
    typed = message()
    del typed.raw_input_contents[:]
    assert refused(typed, over) is SHAPE


def test_strings_are_bounded():
    def strings(count):
        made = ModelInferRequest(model_name="digits")
        tensor = made.inputs.add(name="s", datatype="BYTES", shape=[1, count])
        tensor.contents.bytes_contents.extend([b""] * count)
        return made

    assert decode(strings(FREE_STRINGS)).tensors["s"].shape == (1, FREE_STRINGS)
    assert refused(strings(FREE_STRINGS + 1)) is SHAPE
    raw = strings(FREE_STRINGS + 1)
    raw.inputs[0].ClearField("contents")
    raw.raw_input_contents.append(b"\0\0\0\0" * (FREE_STRINGS + 1))
    assert refused(raw) is SHAPE


@pytest.mark.parametrize(
    "body",
    [
        b"\x0a\x00" * 5_000_000,
        b"\x0a\x06digits" + b"\x2a\x00" * 5_000_000,
        b"\x0a\x06digits" + b"\x3a\x00" * 5_000_000,
        b"\x0a\x06digits" + b"\x22\x00" * 5_000_000,
        b"\x0a\x06digits\x2a" + b"\xff\xff\xff\x04" + b"\x22\x00" * 5_242_879,
        b"\x0a\x06digits\x2a"
        + b"\xff\xff\xff\x04"
        + b"\x1a\xfa\xff\xff\x04"
        + b"\x01" * 10_485_754,
    ],
)
def test_what_is_large_and_odd_takes_no_memory(body):
    over = codec(max_bytes=2 * len(body))
    tracemalloc.start()
    try:
        assert refused(body, over) is SYNTAX
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_floats_are_views_of_the_message():
    values = np.arange(200_000, dtype="<f4").reshape(1, -1)
    body = written(message(values))
    tracemalloc.start()
    try:
        request = decode(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert request.rows.shape == values.shape
    assert peak < 2 * values.nbytes  # a copy where they lie badly, and the search for NaN


# Answers and metadata.


def test_an_answer_keeps_what_its_server_says():
    answer = ModelInferResponse(model_name="digits", model_version="1", id="a")
    answer.parameters["triton_final_response"].bool_param = True
    output = answer.outputs.add(name="y", datatype="FP32", shape=[1, 2])
    output.parameters["content_type"].string_param = "np"
    answer.raw_output_contents.append(np.array([0.25, 0.75], "<f4").tobytes())
    over = codec()
    read = over.decode_response({}, written(answer))
    assert read.tensors["y"].tolist() == [[0.25, 0.75]]
    assert over.encode_response(read) == (b"", written(answer))


@pytest.mark.parametrize(
    "change",
    [
        lambda answer: answer.raw_output_contents.append(b""),
        lambda answer: answer.outputs[0].contents.fp32_contents.append(1),
        lambda answer: answer.outputs[0].shape.append(3),
        lambda answer: setattr(answer.outputs[0], "datatype", "BF16"),
        lambda answer: setattr(answer.outputs[0], "name", ""),
        lambda answer: answer.outputs.add(name="z", datatype="FP32", shape=[1]),
        lambda answer: answer.ClearField("outputs"),
    ],
)
def test_answers_that_are_invalid(change):
    answer = ModelInferResponse(model_name="digits")
    answer.outputs.add(name="y", datatype="FP32", shape=[1])
    answer.raw_output_contents.append(b"\0\0\0\0")
    codec().decode_response({}, written(answer))
    change(answer)
    with pytest.raises(Refusal) as caught:
        codec().decode_response({}, written(answer))
    assert caught.value.rule is UPSTREAM_INVALID


@pytest.mark.parametrize("typed", [False, True])
def test_an_answer_of_no_elements(typed):
    answer = ModelInferResponse(model_name="digits")
    for name, datatype in (("y", "FP32"), ("z", "INT8"), ("s", "BYTES")):
        answer.outputs.add(name=name, datatype=datatype, shape=[0, 3])
        if not typed:
            answer.raw_output_contents.append(b"")
    read = codec().decode_response({}, written(answer))
    assert {tensor.shape for tensor in read.tensors.values()} == {(0, 3)}
    again = codec().decode_response({}, codec().encode_response(read)[1])
    assert {tensor.shape for tensor in again.tensors.values()} == {(0, 3)}


def test_what_cannot_be_typed_is_not_written():
    answer = ModelInferResponse(model_name="digits")
    answer.outputs.add(name="y", datatype="FP32", shape=[1]).contents.fp32_contents.append(1)
    read = codec().decode_response({}, written(answer))
    read.tensors["y"] = np.array([1], "<f2")
    with pytest.raises(ValueError, match="FP16"):
        codec().encode_response(read)


def test_the_contract_is_learnt():
    told = ModelMetadataResponse(name="digits", versions=["1", "2"], platform="p")
    told.inputs.add(name="x", datatype="FP32", shape=[-1, 2])
    told.outputs.add(name="y", datatype="INT64", shape=[-1])
    learnt = codec().learn(written(told), None)
    assert [(spec.name, spec.datatype, spec.shape) for spec in learnt.inputs] == [
        ("x", "FP32", (-1, 2))
    ]
    assert (learnt.outputs[0].name, learnt.width) == ("y", 2)
    for wrong in (written(ModelMetadataResponse(name="other")), b"\xff", b"\x22\x01"):
        with pytest.raises(ContractError):
            codec().learn(wrong, None)
    with pytest.raises(ContractError):
        codec().learn(written(told), 3)


def test_where_nothing_is_declared_one_tensor_is_scored():
    """Whoever chose names and order of several would choose what is scored."""
    over = codec(Contract().with_width(2))
    assert decode(message(), over).rows.tolist() == [[1, 2]]
    decoy = message(((0, 0),))
    tensor = decoy.inputs.add(name="input", datatype="BYTES", shape=[1, 2])
    decoy.raw_input_contents.append(b"\x01\0\0\x003\x01\0\0\x004")
    assert refused(decoy, over) is TENSOR_NAME
    tensor.datatype, tensor.shape[:] = "FP32", [1, 2]
    decoy.raw_input_contents[1] = b"\0" * 8
    assert refused(decoy, over) is TENSOR_NAME
    text = ModelInferRequest(model_name="digits")
    text.inputs.add(name="x", datatype="BYTES", shape=[1, 2]).contents.bytes_contents.extend(
        [b"3", b"4"]
    )
    assert refused(text, over) is TENSOR_NAME
