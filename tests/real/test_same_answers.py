"""A real client gets from the firewall, bit for bit, what it gets from the real server itself."""

import numpy as np
import pytest
from real_servers import DATATYPES
from real_tensors import random_tensor

REQUESTS = 30


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_triton_echoes(client, guarded_triton, datatype, binary):
    # What the server refuses by itself (FP16 in JSON) is refused in its own words, too.
    assert compare(client, guarded_triton, datatype, binary) == 0


@pytest.mark.parametrize("datatype", DATATYPES)
def test_mlserver_echoes(client, guarded_mlserver, datatype):
    assert compare(client, guarded_mlserver, datatype, binary=False) == 0


def compare(client, guarded, datatype, binary):
    """How many of ``REQUESTS`` random requests are answered otherwise through the firewall."""
    draw = np.random.default_rng(20)
    model = f"echo_{datatype.lower()}"
    differing = 0
    for number in range(REQUESTS):
        tensor = random_tensor(draw, datatype, int(draw.integers(1, 9)))
        call = model, tensor, datatype
        keywords = {"binary": binary, "request_id": f"request-{number}"}
        direct = client.infer(guarded.server_port, *call, **keywords)
        assert "broken" not in direct
        differing += client.infer(guarded.port, *call, **keywords) != direct
    return differing


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_triton_model_of_two_outputs(client, guarded_triton, images, binary):
    answered = 0
    for rows in np.array_split(images.astype(np.float32), 60):
        call = "digits", rows, "FP32", ("scores", "label")
        direct = client.infer(guarded_triton.server_port, *call, binary=binary)
        through = client.infer(guarded_triton.port, *call, binary=binary)
        if through.get("status") != "403":  # an honest image may be flagged, as the budget has it
            assert through == direct
            answered += 1
    assert answered > 30


def test_mlserver_scikit_learn_model(client, guarded_mlserver, images):
    answered = 0
    for rows in np.array_split(images, 60):
        call = "digits", rows, "FP64", ("predict", "predict_proba")
        # MLServer makes up an id where it gets none.
        direct = client.infer(guarded_mlserver.server_port, *call, binary=False, request_id="a")
        through = client.infer(guarded_mlserver.port, *call, binary=False, request_id="a")
        if through.get("status") != "403":
            assert through == direct
            answered += 1
    assert answered > 30


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_requests_and_answers(client, guarded_triton, coding):
    tensor = random_tensor(np.random.default_rng(3), "FP32", 8)
    keywords = {"request_compression_algorithm": coding, "response_compression_algorithm": coding}
    plain = client.infer(guarded_triton.server_port, "echo_fp32", tensor, "FP32")
    assert client.infer(guarded_triton.port, "echo_fp32", tensor, "FP32", **keywords) == plain


def test_a_version_in_the_path(client, guarded_triton):
    tensor = random_tensor(np.random.default_rng(4), "INT64", 2)
    call = "echo_int64", tensor, "INT64"
    direct = client.infer(guarded_triton.server_port, *call, model_version="1")
    assert client.infer(guarded_triton.port, *call, model_version="1") == direct
    assert direct["result"]["version"] == "1"


def test_the_servers_own_error_passes(client, guarded_triton):
    """FP16 has no JSON form in Triton: the words are its own, through the firewall too."""
    tensor = random_tensor(np.random.default_rng(5), "FP16", 1)
    direct = client.infer(guarded_triton.server_port, "echo_fp16", tensor, "FP16", binary=False)
    through = client.infer(guarded_triton.port, "echo_fp16", tensor, "FP16", binary=False)
    assert through == direct
    assert direct["status"] == "400"


@pytest.mark.parametrize("server", ["guarded_triton", "guarded_mlserver"])
def test_health_and_metadata(client, server, request):
    guarded = request.getfixturevalue(server)
    calls = [
        ("is_server_live",),
        ("is_server_ready",),
        ("is_model_ready", "echo_fp32"),
        ("get_server_metadata",),
        ("get_model_metadata", "echo_fp32"),
        ("get_model_metadata", "digits"),
    ]
    for call in calls:
        direct = client.call(guarded.server_port, *call)
        assert client.call(guarded.port, *call) == direct
        assert direct["result"]
