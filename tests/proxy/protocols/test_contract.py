"""The contract: where it comes from, what it derives, and how it holds."""

import json

import numpy as np
import pytest

from proxy.protocols.contract import Contract, ContractError
from proxy.protocols.v2 import V2
from proxy.protocols.v2_inputs import FREE_STRINGS
from proxy.protocols.v2_layout import FREE_VALUES
from proxy.rules import (
    CONTRACT_UNKNOWN,
    DATATYPE,
    ROWS_PER_REQUEST,
    SHAPE,
    SYNTAX,
    TENSOR_NAME,
    VALUE,
    Refusal,
)


def tensor(name="x", datatype="FP32", shape=(-1, 64), **more):
    return {"name": name, "datatype": datatype, "shape": list(shape), **more}


def metadata(inputs, outputs=(), **more):
    document = {"name": "m", "versions": ["1"], "platform": "p", "inputs": inputs}
    return json.dumps(document | {"outputs": list(outputs)} | more).encode()


def infer(contract, *inputs, **bounds):
    codec = V2("/v2/models/m", contract, **bounds)
    body = json.dumps({"inputs": inputs}).encode()
    return codec.decode_request({}, body, codec.route("POST", "/v2/models/m/infer"))


def refused(contract, *inputs, **bounds):
    with pytest.raises(Refusal) as refusal:
        infer(contract, *inputs, **bounds)
    return refusal.value.rule


def test_metadata_and_configuration_make_equal_contracts():
    learnt = Contract.from_metadata(
        metadata([tensor()], [tensor("y", shape=(-1, 10))], max_batch_size=8, extra={"a": []})
    )
    assert learnt == Contract.from_config([tensor()], [tensor("y", shape=(-1, 10))])
    assert hash(learnt) == hash(
        Contract.from_metadata(metadata([tensor()], [tensor("y", shape=(-1, 10))]))
    )
    assert learnt != Contract.from_metadata(metadata([tensor(shape=(-1, 63))]))
    assert learnt.width == 64


@pytest.mark.parametrize("inputs", [[], None])
def test_a_server_that_declares_nothing_gives_an_open_contract(inputs):
    contract = Contract.from_metadata(metadata(inputs))
    assert contract.open
    assert contract.width is None
    free = {"name": "any", "shape": [2, 1], "datatype": "INT8", "data": [1, 2]}
    assert infer(contract, free).rows.tolist() == [[1], [2]]
    assert refused(contract, free | {"data": [1, 200]}) is VALUE
    assert refused(contract, free | {"shape": [3, 1]}) is SHAPE
    assert refused(contract, free | {"datatype": "BF16"}) is DATATYPE
    assert refused(contract, free | {"datatype": "object"}) is DATATYPE
    assert refused(contract, free, free) is TENSOR_NAME
    assert refused(contract, free | {"name": "a\nb"}) is SYNTAX
    assert refused(contract, free | {"name": ""}) is SYNTAX
    assert refused(contract, free, free | {"name": "b", "shape": [1, 2]}) is SHAPE
    many = [free | {"name": f"n{i}"} for i in range(257)]
    assert len(infer(contract, *many[:256]).tensors) == 256
    assert refused(contract, *many) is SYNTAX


def test_a_width_from_elsewhere_holds_where_the_tensors_leave_it_open():
    contract = Contract().with_width(2)
    row = {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    assert infer(contract, row).rows.shape == (1, 2)
    assert refused(contract, row | {"shape": [2, 1]}) is SHAPE
    # Of several, the client would choose which is scored, and another may be read.
    assert refused(contract, row, row | {"name": "b"}) is TENSOR_NAME
    text = {"name": "b", "shape": [1, 2], "datatype": "BYTES", "data": ["3", "4"]}
    assert refused(contract, text, row) is TENSOR_NAME
    assert refused(contract, text) is TENSOR_NAME
    assert Contract.from_config([tensor()], width=64) == Contract.from_config([tensor()])
    with pytest.raises(ContractError, match="64 features per row, not 63"):
        Contract.from_config([tensor()], width=63)
    with pytest.raises(ContractError, match="positive"):
        Contract().with_width(0)


@pytest.mark.parametrize(
    ("inputs", "width", "batched"),
    [
        ([tensor()], 64, True),
        ([tensor(shape=(-1,))], 1, True),
        ([tensor(shape=(1, 64))], 64, True),
        ([tensor(shape=(64,))], 64, False),
        ([tensor(shape=(3, 8, 8))], 192, False),
        ([tensor(shape=(-1, 8, 8, 3), datatype="UINT8")], 192, True),
        ([tensor(shape=(-1, -1))], None, True),
        ([tensor(), tensor("i", "INT64", (-1, 2)), tensor("s", "BYTES", (-1, 1))], 66, True),
        ([tensor(), tensor("o", optional=True)], None, True),
        ([tensor("s", "BYTES", (-1, 1))], 0, True),
        ([tensor(shape=(-1, 2)), tensor("f", shape=(4,))], None, False),
    ],
)
def test_width_and_rows_are_derived(inputs, width, batched):
    contract = Contract.from_config(inputs)
    assert (contract.width, contract.batched) == (width, batched)


def test_an_unbatched_request_is_one_row():
    contract = Contract.from_config([tensor(shape=(2, 3))])
    request = infer(contract, {**tensor(shape=(2, 3)), "data": list(range(6))}, max_rows=1)
    assert request.n == 1
    assert request.rows.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_rows_join_in_the_contracts_order_and_so_does_the_request():
    contract = Contract.from_config(
        [
            tensor("b", shape=(-1, 2)),
            tensor("s", "BYTES", (-1, 1)),
            tensor("a", "BOOL", (-1, 1)),
            tensor("c", "UINT8", (-1, 1, 2)),
        ]
    )
    sent = [
        {"name": "c", "datatype": "UINT8", "shape": [2, 1, 2], "data": [[[5, 6]], [[7, 8]]]},
        {"name": "a", "datatype": "BOOL", "shape": [2, 1], "data": [True, False]},
        {"name": "s", "datatype": "BYTES", "shape": [2, 1], "data": ["x", "y"]},
        {"name": "b", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]},
    ]
    request = infer(contract, *sent)
    assert request.rows.tolist() == [[1, 2, 1, 5, 6], [3, 4, 0, 7, 8]]
    assert request.rows.dtype == np.float32
    _, body = V2("/v2/models/m", contract).encode_request(request)
    assert [item["name"] for item in json.loads(body)["inputs"]] == ["b", "s", "a", "c"]
    assert refused(contract, *sent[:3]) is TENSOR_NAME
    assert refused(contract, *sent[:3], {**sent[3], "shape": [1, 2], "data": [1, 2]}) is SHAPE


def test_only_strings_give_rows_without_features():
    request = infer(
        Contract(), {"name": "s", "datatype": "BYTES", "shape": [3], "data": ["a", "", "b"]}
    )
    assert request.rows.shape == (3, 0)
    assert request.n == 3


def test_optional_inputs_may_be_left_out():
    contract = Contract.from_config(
        [tensor(shape=(-1, 1)), tensor("o", "INT32", (-1, 1), optional=True)]
    )
    given = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}
    other = {"name": "o", "datatype": "INT32", "shape": [1, 1], "data": [2]}
    assert infer(contract, given).rows.tolist() == [[1]]
    assert infer(contract, other, given).rows.tolist() == [[1, 2]]
    assert refused(contract, other) is TENSOR_NAME


@pytest.mark.parametrize(
    ("datatype", "low", "high", "inside", "outside"),
    [
        ("FP32", 0, 1, [0.0, 1.0, 0.5], [-0.001, 1.001]),
        ("UINT8", None, 16, [0, 16], [17, 255]),
        ("INT64", -(2**62) - 1, None, [-(2**62) - 1, 2**63 - 1], [-(2**62) - 2]),
        ("FP64", -1.5, 1.5, [1.5, -1.5], [1.5000001]),
        ("BOOL", 1, None, [True], [False]),
    ],
)
def test_ranges(datatype, low, high, inside, outside):
    contract = Contract.from_config([tensor("x", datatype, (-1, 2), minimum=low, maximum=high)])

    def sent(value):
        return {"name": "x", "datatype": datatype, "shape": [1, 2], "data": [inside[0], value]}

    for value in inside:
        infer(contract, sent(value))
    for value in outside:
        assert refused(contract, sent(value)) is VALUE


def test_nothing_is_inferred_before_the_contract_is_known():
    row = {"name": "a", "shape": [1, 1], "datatype": "FP32", "data": [1]}
    codec = V2("/v2/models/m", None, max_rows=1)
    route = codec.route("POST", "/v2/models/m/infer")
    with pytest.raises(Refusal) as refusal:
        codec.decode_request({}, json.dumps({"inputs": [row]}).encode(), route)
    assert refusal.value.rule is CONTRACT_UNKNOWN
    learnt = codec.with_contract(Contract())
    assert learnt.contract == Contract()
    assert codec.contract is None
    assert learnt.decode_request({}, json.dumps({"inputs": [row]}).encode(), route).n == 1
    two = row | {"shape": [2, 1], "data": [1, 2]}
    with pytest.raises(Refusal) as refusal:
        learnt.decode_request({}, json.dumps({"inputs": [two]}).encode(), route)
    assert refusal.value.rule is ROWS_PER_REQUEST, "the bounds are the first codec's"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not strict JSON"),
        (b"[]", "not a JSON object"),
        (b'{"name":"m","name":"m"}', "duplicate key"),
        (metadata({}), ""),
        (metadata("x"), "inputs is not a list"),
        (metadata([1]), "inputs is not a list"),
        (metadata([{}]), "has no name"),
        (metadata([tensor(datatype="BF16")]), "cannot be inspected"),
        (metadata([tensor(datatype=None)]), "cannot be inspected"),
        (metadata([tensor(shape=())]), "shape"),
        (metadata([tensor(shape=(0, 1))]), "dimension 0"),
        (metadata([tensor(shape=(-2, 1))]), "dimension -2"),
        (metadata([tensor(shape=(1.0, 1))]), "dimension 1.0"),
        (metadata([tensor(shape=(True, 1))]), "dimension True"),
        (metadata([tensor(shape=[1] * 17)]), "16 dimensions"),
        (metadata([tensor() | {"shape": "x"}]), "shape"),
        (metadata([tensor(), tensor()]), "same name"),
        (metadata([], [tensor("y"), tensor("y")]), "same name"),
        (metadata([], [{"name": "y", "shape": [1]}]), "datatype"),
    ],
)
def test_bad_metadata_gets_a_clear_word(body, words):
    if not words:
        assert Contract.from_metadata(body).open
        return
    with pytest.raises(ContractError, match=words):
        Contract.from_metadata(body)


def test_metadata_of_another_model_is_refused():
    assert Contract.from_metadata(metadata([tensor()]), model="m").width == 64
    with pytest.raises(ContractError, match="not that of 'other'"):
        Contract.from_metadata(metadata([tensor()]), model="other")


def test_outputs_may_be_what_cannot_be_inspected():
    contract = Contract.from_metadata(metadata([], [tensor("y", "BF16", (0, -1))]))
    assert contract.outputs[0].datatype == "BF16"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (tensor(range=[0, 1]), "unknown key 'range'"),
        (tensor(minimum="0"), "minimum '0' is not a finite number"),
        (tensor(maximum=float("nan")), "maximum nan is not a finite number"),
        (tensor(minimum=True), "minimum True"),
        (tensor(minimum=2, maximum=1), "above"),
        (tensor(datatype="BYTES", minimum=0), "BYTES have no minimum"),
        (tensor(optional=1), "optional"),
        (tensor(name=""), "no name"),
    ],
)
def test_a_bad_configuration_gets_a_clear_word(given, words):
    with pytest.raises(ContractError, match=words):
        Contract.from_config([given])


@pytest.mark.parametrize("shape", [(-1, 8), (-1, 2, 2, 2), (20000, 8), (-1, -1, 8)])
def test_nested_data_of_every_shape_passes_the_bound_on_arrays(shape):
    """The arrays of a large text are counted before it is parsed."""
    contract = Contract.from_config([tensor(shape=shape)])
    sent = [2500 if size == -1 else size for size in shape]
    if shape == (-1, -1, 8):
        sent[1] = 2
    data = np.arange(np.prod(sent)).reshape(sent)
    request = infer(contract, {**tensor(shape=sent), "data": data.tolist()}, max_rows=2500)
    assert request.rows.reshape(sent).tolist() == data.tolist()


@pytest.mark.parametrize("filling", ["0", "0.5 ", "[]", "[1]", "{}", '{"a":1}', '"":0', '""'])
def test_a_text_that_is_dear_to_parse_is_refused_before(filling):
    contract = Contract.from_config([tensor()])
    codec = V2("/v2/models/m", contract)
    route = codec.route("POST", "/v2/models/m/infer")
    body = f'{{"inputs":[{",".join([filling] * 50_000)}'.encode()
    with pytest.raises(Refusal) as refusal:
        codec.decode_request({}, body, route)
    assert refusal.value.rule is SYNTAX
    assert refusal.value.detail in (
        "more values, arrays or objects than a request within the limit of rows can hold",
        "more strings than a request within the limit of rows can hold",
    )


@pytest.mark.parametrize("contract", [Contract(), Contract.from_config([tensor(shape=(-1, -1))])])
def test_shapes_that_are_not_fixed_are_bounded_all_the_same(contract):
    def ask(count):
        codec = V2("/v2/models/m", contract)
        route = codec.route("POST", "/v2/models/m/infer")
        body = b'{"inputs":[{"name":"x","shape":[1,%d],"datatype":"FP32","data":[%b0]}]}'
        return codec.decode_request({}, body % (count, b"0," * (count - 1)), route)

    assert ask(FREE_VALUES).rows.shape == (1, FREE_VALUES)
    with pytest.raises(Refusal) as refusal:
        ask(FREE_VALUES + 10_000)
    assert refusal.value.rule is SYNTAX


@pytest.mark.parametrize("rows", [1, 300])
def test_the_fullest_request_passes_the_bounds(rows):
    """256 inputs with all that they can have, and what stands beside them."""
    specs = [tensor(f"t{i}", shape=(-1, *[1] * 15)) for i in range(256)]
    outputs = [{"name": f"o{i}", "datatype": "FP32", "shape": [-1]} for i in range(256)]
    contract = Contract.from_config(specs, outputs)
    asked = [
        {"name": item["name"], "parameters": {"binary_data": True, "classification": 1}}
        for item in outputs
    ]
    inputs = [
        {**spec, "shape": [rows, *[1] * 15], "parameters": {"content_type": "np"}}
        | {"data": np.ones((rows, *[1] * 15)).tolist()}
        for spec in specs
    ]
    document = {"id": "a", "parameters": {"priority": 1}, "inputs": inputs, "outputs": asked}
    codec = V2("/v2/models/m", contract, max_rows=rows)
    route = codec.route("POST", "/v2/models/m/infer")
    assert codec.decode_request({}, json.dumps(document).encode(), route).rows.shape == (rows, 256)


def test_binary_strings_are_bounded_by_their_bytes_and_by_number():
    def ask(count, size):
        item = {"name": "s", "datatype": "BYTES", "shape": [1, count]}
        text = json.dumps({"inputs": [item | {"parameters": {"binary_data_size": size}}]}).encode()
        codec = V2("/v2/models/m", Contract())
        route = codec.route("POST", "/v2/models/m/infer")
        head = {b"inference-header-content-length": str(len(text)).encode()}
        return codec.decode_request(head, text + bytes(size), route)

    assert ask(FREE_STRINGS, 4 * FREE_STRINGS).tensors["s"].tolist() == [[b""] * FREE_STRINGS]
    for count, words in ((2, "too few"), (100_000, "too many strings")):
        with pytest.raises(Refusal, match=words) as refusal:
            ask(count, 4 * count - (count == 2))
        assert refusal.value.rule is SHAPE


def test_brackets_inside_strings_do_not_count():
    contract = Contract.from_config([tensor("s", "BYTES", (-1, 1))])
    text = '[{"a":1}],' * 20_000
    request = infer(contract, {"name": "s", "datatype": "BYTES", "shape": [1, 1], "data": [text]})
    assert request.tensors["s"].item() == text.encode()
