"""The benchmark of gRPC: its messages, its model server and its load."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from loadtest.comparison import Sample
from loadtest.load.closed import closed_loop
from loadtest.process import Process

grpc = pytest.importorskip("grpc")

from loadtest import grpc_cost, grpc_echo, grpc_messages  # noqa: E402 - they need the extra
from proxy.protocols.contract import Contract  # noqa: E402 - as above
from proxy.protocols.grpc_v2 import GrpcV2  # noqa: E402 - as above

ROWS = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
SERVICE = "inference.GRPCInferenceService"
PREFIX = f"/{SERVICE}/f64"


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    log = tmp_path_factory.mktemp("echo") / "echo.log"
    process = Process("echo", [sys.executable, "-m", "loadtest.grpc_echo", "--model", "f64"], log)
    try:
        yield process.wait_for_line()
    finally:
        assert process.stop() == 0


def ask(address, method, message):
    with grpc.insecure_channel("{}:{}".format(*address)) as channel:
        return channel.unary_unary(method)(message, timeout=30)


def test_a_message_says_the_rows():
    codec = GrpcV2(PREFIX, Contract())
    message = grpc_messages.infer_message("f64", ROWS)
    request = codec.decode_request({}, message, codec.route("RPC", f"{PREFIX}/ModelInfer"))
    assert request.rows.tobytes() == ROWS.tobytes()


def test_the_upstream_answers_an_inference_of_any_size(echo):
    codec = GrpcV2(PREFIX, Contract())
    for count in (1, 3, 5000):  # the last is 1.3 MB: many frames, and more than a window
        message = grpc_messages.infer_message("f64", np.ones((count, 64), np.float32))
        response = codec.decode_response({}, ask(echo, grpc_messages.INFER, message))
        assert response.tensors["label"].tolist() == [3]


def test_the_upstream_says_that_it_is_ready(echo):
    ready = f"/{SERVICE}/ModelReady"
    assert ask(echo, ready, b"\x0a\x03f64") == grpc_messages.READY


class Wire(asyncio.WriteTransport):
    def __init__(self):
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data):
        self.written += data

    def abort(self):
        self.aborted = True


def test_frames_are_found_byte_by_byte_and_in_one_piece():
    data = bytes(200)
    sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"".join([
        grpc_echo.frame(4, 0, 0), grpc_echo.frame(1, 4, 1, b"any"),
        grpc_echo.frame(0, 0, 1, data), grpc_echo.frame(0, 1, 1, b""),
        grpc_echo.frame(6, 0, 0, b"12345678"), grpc_echo.frame(8, 0, 0, bytes(4)),
        grpc_echo.frame(0, 1, 3, data[:9]),
    ])  # fmt: skip
    found = []
    for parts in ([sent], [sent[i : i + 1] for i in range(len(sent))]):
        wire, protocol = Wire(), grpc_echo.GrpcEcho("f64")
        protocol.connection_made(wire)
        first = len(wire.written)
        for part in parts:
            protocol.data_received(part)
        found.append(wire.written[first:])
    assert found[0] == found[1]
    assert found[0] == (
        grpc_echo.frame(4, 1, 0)
        + grpc_echo.answer(1, grpc_messages.answer_message("f64"))
        + grpc_echo.frame(6, 1, 0, b"12345678")
        + grpc_echo.answer(3, grpc_messages.READY)
    )


def test_what_is_not_http_2_is_cut_off():
    wire, protocol = Wire(), grpc_echo.GrpcEcho("f64")
    protocol.connection_made(wire)
    protocol.data_received(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert wire.aborted


def test_the_load_counts_what_is_answered(echo):
    calls = grpc_cost.build_calls(ROWS)
    assert len({metadata for metadata, _ in calls}) == 3, "clients in turn"
    load = closed_loop(echo, calls, connections=2, seconds=0.05, wire="grpc")
    result = asyncio.run(load)
    assert result.clean
    assert result.latencies.size == result.answered >= 2
    assert grpc_cost.statuses_of(echo, calls) == ["OK"] * 3


def test_the_load_counts_what_is_refused():
    def refuse(_, context):
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")

    server = grpc.server(ThreadPoolExecutor(1))
    method = grpc.unary_unary_rpc_method_handler(refuse)
    handler = grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": method})
    server.add_generic_rpc_handlers((handler,))
    address = "127.0.0.1", server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        calls = grpc_cost.build_calls(ROWS)
        load = closed_loop(address, calls, connections=1, seconds=0.02, wire="grpc")
        result = asyncio.run(load)
        assert set(result.errors) == {"PERMISSION_DENIED"}
        assert not result.clean
        assert grpc_cost.statuses_of(address, calls[:1]) == ["PERMISSION_DENIED"]
    finally:
        server.stop(None).wait()


def test_who_is_skipped_is_said():
    samples = [
        Sample(peer, "", 1, rate, 1e-4, 0.5, 0.0, 2e-4, 3e-4)
        for peer, rate in ((grpc_cost.DIRECT, 4000), (grpc_cost.OURS, 1000))
    ]
    plan = grpc_cost.Plan((), (), 1, 1.0, connections=16)
    text = grpc_cost.markdown(samples, {"envoy": "not found"}, plan)
    assert "| 0.25 | 1.00 | 1.00 | 1 |" in text
    assert "- `envoy` was skipped: not found" in text
