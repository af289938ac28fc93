"""What a real client sees of a refusal, and what real servers do with requests that are refused."""

import base64
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from real_servers import FEATURES
from real_tensors import random_tensor

from loadtest.wire import Session, render_request

CONTROL = [
    ("load_model", "echo_fp32"),
    ("unload_model", "echo_int8"),
    ("get_model_repository_index",),
    ("get_model_config", "echo_fp32"),
    ("get_inference_statistics",),
    ("get_inference_statistics", "echo_fp32"),
    ("get_trace_settings",),
    ("get_trace_settings", "echo_fp32"),
    ("update_trace_settings", "echo_fp32", {"trace_level": ["TIMESTAMPS"]}),
    ("get_log_settings",),
    ("update_log_settings", {"log_verbose_level": 1}),
    ("get_system_shared_memory_status",),
    ("register_system_shared_memory", "region", "/region", 64),
    ("unregister_system_shared_memory",),
    ("get_cuda_shared_memory_status",),
    ("unregister_cuda_shared_memory",),
]


@pytest.mark.parametrize("call", CONTROL, ids=lambda call: "-".join(map(str, call))[:60])
@pytest.mark.parametrize("server", ["guarded_triton", "guarded_mlserver"])
def test_no_control_call_passes(client, server, call, request):
    guarded = request.getfixturevalue(server)
    assert client.call(guarded.port, *call) == {
        "status": "403",
        "message": "this API is restricted",
    }


def test_an_outlier_is_the_clients_own_exception(client, guarded_triton, images):
    noise = np.random.default_rng(6).uniform(0, 16, (1, FEATURES)).astype(np.float32)
    refusal = {"status": "403", "message": "request refused"}
    for binary in (False, True):
        call = "digits", noise, "FP32", ("label",)
        assert "result" in client.infer(guarded_triton.server_port, *call, binary=binary)
        assert client.infer(guarded_triton.port, *call, binary=binary) == refusal
    # One outlier among honest rows refuses them all.
    mixed = np.concatenate([images[:1].astype(np.float32), noise])
    assert client.infer(guarded_triton.port, "digits", mixed, "FP32", ("label",)) == refusal


def test_a_limit_is_the_clients_own_exception(client, triton_port, gateway):
    limited = gateway(
        [
            {
                "name": "limited",
                "match": "/v2/models/echo_fp32",
                "upstream": f"http://127.0.0.1:{triton_port}",
                "limits": {"rows_per_second": 0.001, "burst_rows": 10, "rows_per_request": 10},
            }
        ]
    )
    tensor = random_tensor(np.random.default_rng(7), "FP32", 5)
    answers = [client.infer(limited.port, "echo_fp32", tensor, "FP32") for _ in range(3)]
    assert ["result" in answer for answer in answers] == [True, True, False]
    assert answers[2] == {"status": "429", "message": "rate limit exceeded"}
    larger = random_tensor(np.random.default_rng(7), "FP32", 11)
    assert client.infer(limited.port, "echo_fp32", larger, "FP32")["status"] == "413"


def test_an_unknown_model_and_a_wrong_tensor(client, guarded_triton):
    tensor = random_tensor(np.random.default_rng(8), "FP32", 1)
    unknown = client.infer(guarded_triton.port, "nothing_here", tensor, "FP32")
    assert unknown == {"status": "404", "message": "no such route"}
    wrong = client.infer(guarded_triton.port, "echo_fp64", tensor, "FP32")
    assert wrong["status"] == "400"
    assert wrong["message"].startswith("wrong datatype")


def test_a_number_that_no_detector_could_score(client, guarded_triton):
    tensor = np.full((1, FEATURES), 1e39)
    answer = client.infer(guarded_triton.port, "echo_fp64", tensor, "FP64")
    assert answer["status"] == "400"
    assert answer["message"].startswith("value out of range")


# What the servers make of bytes that parsers read differently: to each its own, and the firewall
# refuses them all. ``FLOATS`` is data for one row.

FLOATS = json.dumps([0.5] * FEATURES)
OTHERS = json.dumps([0.25] * FEATURES)


def infer_body(data=FLOATS, shape=(1, FEATURES), datatype="FP32", extra=""):
    tensor = f'"name":"x","datatype":"{datatype}","shape":{json.dumps(shape)},"data":{data}{extra}'
    return f'{{"inputs":[{{{tensor}}}]}}'.encode()


def post(port, model, body, *headers, suffix="infer"):
    """Status and body of one raw POST."""
    request = render_request("POST", f"/v2/models/{model}/{suffix}", "localhost", body, headers)
    with Session(("127.0.0.1", port)) as session:
        answer = session.exchange(request)
    return answer.status, answer.body


def echoed(answer):
    status, body = answer
    assert status == 200, body
    return json.loads(body)["outputs"][0]["data"]


def refused(answer, status, words):
    assert answer[0] == status, answer
    assert json.loads(answer[1])["error"].startswith(words), answer


def test_duplicate_keys(guarded_triton, guarded_mlserver):
    body = infer_body(extra=f',"data":{OTHERS}')
    assert echoed(post(guarded_triton.server_port, "echo_fp32", body))[0] == 0.5
    assert echoed(post(guarded_mlserver.server_port, "echo_fp32", body))[0] == 0.25
    escaped = infer_body(extra=f',"d\\u0061ta":{OTHERS}')
    assert echoed(post(guarded_mlserver.server_port, "echo_fp32", escaped))[0] == 0.25
    for guarded in (guarded_triton, guarded_mlserver):
        refused(post(guarded.port, "echo_fp32", body), 400, "duplicate key")
        refused(post(guarded.port, "echo_fp32", escaped), 400, "duplicate key")


def test_floats_in_an_integer_tensor(guarded_triton, guarded_mlserver):
    body = infer_body(json.dumps([1.5] * FEATURES), datatype="INT64")
    assert post(guarded_triton.server_port, "echo_int64", body)[0] == 500
    for guarded in (guarded_triton, guarded_mlserver):
        refused(post(guarded.port, "echo_int64", body), 400, "")


def test_not_a_number(guarded_triton, guarded_mlserver):
    body = infer_body(json.dumps([float("nan")] * FEATURES))
    assert post(guarded_triton.server_port, "echo_fp32", body)[0] == 200
    for guarded in (guarded_triton, guarded_mlserver):
        refused(post(guarded.port, "echo_fp32", body), 400, "")


def test_a_byte_order_mark(guarded_triton):
    body = b"\xef\xbb\xbf" + infer_body()
    assert post(guarded_triton.server_port, "echo_fp32", body)[0] == 200
    refused(post(guarded_triton.port, "echo_fp32", body), 400, "request body cannot be read")


def test_a_signed_header_length(guarded_triton):
    header = infer_body().replace(
        f'"data":{FLOATS}'.encode(), b'"parameters":{"binary_data_size":256}'
    )
    body = header + np.full(FEATURES, 0.5, "<f4").tobytes()
    length = ("Inference-Header-Content-Length", f"+{len(header)}")
    assert post(guarded_triton.server_port, "echo_fp32", body, length)[0] == 200
    refused(post(guarded_triton.port, "echo_fp32", body, length), 400, "")


def test_the_whole_body_as_one_raw_tensor(guarded_triton):
    body = np.full(FEATURES, 0.5, "<f4").tobytes()
    length = ("Inference-Header-Content-Length", "0")
    assert post(guarded_triton.server_port, "echo_fp32", body, length)[0] == 200
    refused(post(guarded_triton.port, "echo_fp32", body, length), 400, "binary tensor data")


def test_a_percent_encoded_path(guarded_mlserver):
    body = infer_body()
    assert post(guarded_mlserver.server_port, "%65cho_fp32", body)[0] == 200
    refused(post(guarded_mlserver.port, "%65cho_fp32", body), 400, "malformed HTTP request")


@pytest.mark.parametrize("suffix", ["generate", "generate_stream", "infer_stream"])
def test_other_ways_to_infer(guarded_mlserver, suffix):
    refused(post(guarded_mlserver.port, "echo_fp32", infer_body(), suffix=suffix), 403, "this API")


def test_mlserver_infers_on_generate_too(guarded_mlserver):
    answer = post(guarded_mlserver.server_port, "echo_fp32", infer_body(), suffix="generate")
    assert answer[0] == 200


def test_a_gzip_bomb(guarded_mlserver):
    bomb = gzip.compress(infer_body() + b" " * 30_000_000)
    assert len(bomb) < 40_000
    coding = ("Content-Encoding", "gzip")
    assert post(guarded_mlserver.server_port, "echo_fp32", bomb, coding)[0] == 200
    refused(post(guarded_mlserver.port, "echo_fp32", bomb, coding), 413, "body expands too far")


def test_a_load_that_brings_its_own_code(guarded_triton, tmp_path):
    """Triton runs the file of an unauthenticated load: here it only writes a line beside itself."""
    code = (
        "from pathlib import Path\n"
        "Path({!r}).write_text('ran')\n"
        "class TritonPythonModel:\n"
        "    def execute(self, requests):\n"
        "        return []\n"
    )
    tensors = '"max_batch_size":1,"input":[{"name":"x","data_type":"TYPE_FP32","dims":[1]}],'
    tensors += '"output":[{"name":"y","data_type":"TYPE_FP32","dims":[1]}]'

    def load(port):
        marker = tmp_path / f"marker-{port}"
        source = base64.b64encode(code.format(str(marker)).encode()).decode()
        parameters = {
            "config": f'{{"backend":"python",{tensors}}}',
            "file:1/model.py": source,
        }
        body = json.dumps({"parameters": parameters}).encode()
        target = f"/v2/repository/models/brought_{port}/load"
        with Session(("127.0.0.1", port)) as session:
            answer = session.exchange(render_request("POST", target, "localhost", body))
        return answer.status, marker.exists()

    assert load(guarded_triton.server_port) == (200, True)
    assert load(guarded_triton.port) == (403, False)


def test_a_tensor_that_lies_in_shared_memory(client, guarded_triton):
    region = Path("/dev/shm/bartizan-test-region")
    region.write_bytes(np.full(FEATURES, 0.75, "<f4").tobytes())
    size = region.stat().st_size
    body = infer_body().replace(
        f'"data":{FLOATS}'.encode(),
        b'"parameters":{"shared_memory_region":"r","shared_memory_byte_size":%d}' % size,
    )
    try:
        register = ("register_system_shared_memory", "r", f"/{region.name}", size)
        assert "status" not in client.call(guarded_triton.server_port, *register)
        # The data never crossed the wire: nothing that looks at the request can judge it.
        assert echoed(post(guarded_triton.server_port, "echo_fp32", body))[0] == 0.75
        refused(post(guarded_triton.port, "echo_fp32", body), 403, "shared-memory tensors")
    finally:
        client.call(guarded_triton.server_port, "unregister_system_shared_memory", "r")
        region.unlink()
