"""gRPC through a real gateway: the same pipeline as for HTTP, in gRPC's own words."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from authority import Authority
from grpc import StatusCode
from grpc_messages import (
    MESSAGES,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataResponse,
    ModelStreamInferResponse,
    written,
)
from judging_server import probabilities
from redis_servers import ANY, RedisServer
from traffic import ask

from loadtest.payloads import TENSOR, infer_request, infer_target
from loadtest.process import free_port

SERVICE = "/inference.GRPCInferenceService"
KEY = "0123456789abcdef"


class Model(grpc.GenericRpcHandler):
    """A model server: digits of 64 features, answered with probabilities of ten classes.

    Attributes:
        messages: of the inferences so far.
        metadata: of the last call.
        refuses: a status instead of an answer.
        weights: file of a linear model that answers, and lies where a request's id says so; None:
            the third class is the likeliest.
        waits: set while an inference is to take for ever; ``left`` once its client has gone.
    """

    def __init__(self):
        self.port = free_port()
        self.messages, self.metadata, self.refuses = [], {}, None
        self.weights = None
        self.waits, self.begun, self.left = False, threading.Event(), threading.Event()
        self._server = None

    def start(self):
        self._server = grpc.server(
            ThreadPoolExecutor(8), handlers=[self], options=[("grpc.so_reuseport", 0)]
        )
        assert self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()
        return self

    def stop(self):
        self._server.stop(0).wait()

    def service(self, details):
        method = details.method.removeprefix(f"{SERVICE}/")
        return grpc.unary_unary_rpc_method_handler(getattr(self, method, None))

    def probabilities(self, asked, n):
        """(n, 10): what the model makes of a request."""
        if self.weights is None:
            return np.where(np.arange(10) == 3, 0.55, 0.05) * np.ones((n, 1))
        rows = np.frombuffer(asked.raw_input_contents[0], "<f4").reshape(n, 64)
        with np.load(self.weights) as model:
            said = probabilities(model["weights"], model["bias"], rows)
        return np.roll(said, 1, axis=1) if asked.id == "lie" else said

    def ServerLive(self, message, context):
        return written(MESSAGES["ServerLiveResponse"](live=True))

    def ModelReady(self, message, context):
        asked = MESSAGES["ModelReadyRequest"].FromString(message)
        return written(MESSAGES["ModelReadyResponse"](ready=asked.name == "digits"))

    def ModelMetadata(self, message, context):
        told = ModelMetadataResponse(name="digits", versions=["1"], platform="test")
        told.inputs.add(name="x", datatype="FP32", shape=[-1, 64])
        told.outputs.add(name="p", datatype="FP32", shape=[-1, 10])
        return written(told)

    def ModelInfer(self, message, context):
        self.messages.append(message)
        self.metadata = dict(context.invocation_metadata())
        if self.waits:
            context.add_callback(self.left.set)
            self.begun.set()
            self.left.wait(30)
        if self.refuses:
            context.abort(*self.refuses)
        asked = ModelInferRequest.FromString(message)
        n = asked.inputs[0].shape[0]
        answer = ModelInferResponse(model_name="digits", model_version="1", id=asked.id)
        output = answer.outputs.add(name="p", datatype="FP32", shape=[n, 10])
        values = self.probabilities(asked, n).astype("<f4")
        if asked.raw_input_contents:
            answer.raw_output_contents.append(values.tobytes())
        else:
            output.contents.fp32_contents.extend(values.ravel().tolist())
        return written(answer)


@pytest.fixture
def model():
    served = Model().start()
    yield served
    served.stop()


@pytest.fixture
def guard(gateway, model):
    """Starts a firewall in front of the model: ``guard(endpoint={...}, **sections)``. Its gRPC port
    is ``rpc``."""

    def start(*, endpoint=None, listen=None, **sections):
        port = free_port()
        made = gateway(
            [
                {
                    "name": "digits",
                    "match": "/v2/models/digits",
                    "grpc": {"upstream": f"grpc://127.0.0.1:{model.port}"},
                    **(endpoint or {}),
                }
            ],
            grpc={"listen": f"127.0.0.1:{port}", **(listen or {})},
            **sections,
        )
        made.rpc = port
        return made

    return start


def request(rows, *, typed=False, **fields):
    """An honest request."""
    rows = np.atleast_2d(np.asarray(rows, "<f4"))
    message = ModelInferRequest(model_name="digits", **fields)
    tensor = message.inputs.add(name="x", datatype="FP32", shape=rows.shape)
    if typed:
        tensor.contents.fp32_contents.extend(rows.ravel().tolist())
    else:
        message.raw_input_contents.append(rows.tobytes())
    return message


def call(guard, message, method="ModelInfer", *, metadata=(), credentials=None, **arguments):
    """The answer to one call, or its status."""
    place = f"127.0.0.1:{guard.rpc}"
    opened = (
        grpc.insecure_channel(place)
        if credentials is None
        else grpc.secure_channel(place, credentials)
    )
    body = message if type(message) is bytes else written(message)
    with opened as channel:
        try:
            return channel.unary_unary(f"{SERVICE}/{method}")(
                body, metadata=metadata, **{"timeout": 20, **arguments}
            )
        except grpc.RpcError as error:
            return error


def test_what_is_scored_is_forwarded(guard, model, images):
    firewall = guard(audit={"payload_digest": True})
    requests = [
        request(images[:1]),
        request(images[:3], id="a", model_version="1"),
        request(images[:2], typed=True),
    ]
    for message in requests:
        answer = ModelInferResponse.FromString(call(firewall, message))
        assert answer.id == message.id
        assert bool(answer.raw_output_contents) == bool(message.raw_input_contents)
    # What came in another order, and with what says nothing, goes on in one form.
    first = written(requests[0])
    swapped = ModelInferRequest(raw_input_contents=requests[0].raw_input_contents)
    rest = ModelInferRequest(model_name="digits", inputs=requests[0].inputs)
    call(firewall, written(swapped) + written(rest))
    assert model.messages == [*map(written, requests), first]
    assert set(model.metadata) == {"user-agent", "x-request-id"}
    assert firewall.stop() == 0
    records = [one for one in firewall.records() if one["target"].endswith("ModelInfer")]
    assert [one["notes"]["sha256"] for one in records] == [
        hashlib.sha256(message).hexdigest() for message in model.messages
    ]
    assert {one["method"] for one in records} == {"RPC"}
    assert [one["rows"] for one in records] == [1, 3, 2, 1]
    assert records[1]["target"] == f"{SERVICE}/digits/1/ModelInfer"
    assert {one["status"] for one in records} == {200}


def test_what_passes_beside_inferences(guard):
    firewall = guard()
    live = MESSAGES["ServerLiveResponse"].FromString(call(firewall, b"", "ServerLive"))
    named = MESSAGES["ModelReadyRequest"](name="digits")
    ready = MESSAGES["ModelReadyResponse"].FromString(call(firewall, named, "ModelReady"))
    told = ModelMetadataResponse.FromString(call(firewall, named, "ModelMetadata"))
    assert (live.live, ready.ready, told.name) == (True, True, "digits")
    for method in ("RepositoryModelLoad", "RepositoryIndex", "SystemSharedMemoryRegister"):
        assert call(firewall, b"", method).code() is StatusCode.PERMISSION_DENIED
    for method in ("ModelConfig", "ModelStatistics", "TraceSetting", "LogSettings"):
        assert call(firewall, named, method).code() is StatusCode.PERMISSION_DENIED
    assert call(firewall, b"", "Whatever").code() is StatusCode.UNIMPLEMENTED
    other = ModelInferRequest(model_name="other")
    assert call(firewall, other).code() is StatusCode.NOT_FOUND
    place = f"127.0.0.1:{firewall.rpc}"
    with grpc.insecure_channel(place) as channel:
        reflection = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        with pytest.raises(grpc.RpcError) as caught:
            list(channel.stream_stream(reflection)(iter([b""]), timeout=10))
    assert caught.value.code() is StatusCode.UNIMPLEMENTED


def odd_requests(row):
    """Messages that servers read differently, or that no server should see, and their codes."""
    both = request(row)
    both.inputs[0].contents.fp32_contents.extend(row.tolist())
    surplus = request(row)
    surplus.raw_input_contents.append(b"more")
    missing = request(row)
    del missing.raw_input_contents[:]
    nan = request(np.where(np.arange(64) == 5, np.nan, row))
    shared = request(row)
    shared.inputs[0].parameters["shared_memory_region"].string_param = "r"
    sequence = request(row)
    sequence.parameters["sequence_id"].int64_param = 3
    name = request(row)
    name.inputs[0].name = "y"
    huge = request(row)
    huge.inputs[0].shape[:] = [2**40, 64]
    unknown = written(request(row)) + b"\x4a\x00"
    twice = written(request(row)) + b"\x1a\x01a\x1a\x01b"
    bad = [both, surplus, missing, nan, sequence, name, huge, unknown, twice, b"\xff", b""]
    return [(one, StatusCode.INVALID_ARGUMENT) for one in bad[:-1]] + [
        (shared, StatusCode.PERMISSION_DENIED),
        (b"", StatusCode.NOT_FOUND),
    ]


def test_what_could_be_read_in_two_ways_is_refused(guard, model, images):
    firewall = guard()
    for message, code in odd_requests(images[0]):
        status = call(firewall, message)
        assert status.code() is code, (message, status)
        assert dict(status.trailing_metadata())["x-request-id"]
    assert not model.messages


def test_monitor_mode_passes_what_it_cannot_read(guard, model, images):
    firewall = guard(endpoint={"mode": "monitor"})
    passed = []
    for message, _ in odd_requests(images[0]):
        if message not in (b"\xff", b""):  # which name no model
            call(firewall, message)
            passed.append(message if type(message) is bytes else written(message))
    assert model.messages == passed
    assert firewall.metric("bartizan_would_block_total") == len(passed)


def test_detectors_and_limits_hold(guard, model, images, digits_bundle):
    limits = {"rows_per_second": 0.001, "burst_rows": 4, "rows_per_request": 3}
    firewall = guard(endpoint={"bundle": str(digits_bundle), "limits": limits})
    assert type(call(firewall, request(images[0]))) is bytes
    noise = np.random.default_rng(5).uniform(0, 16, 64)
    status = call(firewall, request(noise))
    assert (status.code(), status.details()) == (StatusCode.PERMISSION_DENIED, "request refused")
    assert call(firewall, request(images[:4])).code() is StatusCode.INVALID_ARGUMENT
    status = call(firewall, request(images[:3]))
    assert status.code() is StatusCode.RESOURCE_EXHAUSTED
    told = dict(status.trailing_metadata())
    assert int(told["retry-after"]) > 0
    assert MESSAGES["Status"].FromString(told["grpc-status-details-bin"]).code == 8
    assert len(model.messages) == 1


def test_one_client_has_one_quota_whatever_it_speaks(guard, recorder, images):
    limits = {"rows_per_second": 0.001, "burst_rows": 4, "rows_per_request": 3}
    firewall = guard(endpoint=recorder.endpoint(limits=limits))
    over_http = infer_request(images[:3].astype("f4"), "localhost", infer_target("digits"))
    one = request(images[0])
    one.inputs[0].name = TENSOR
    assert ask(firewall.address, over_http).status == 200
    assert type(call(firewall, one)) is bytes
    assert call(firewall, one).code() is StatusCode.RESOURCE_EXHAUSTED
    assert ask(firewall.address, over_http).status == 429


def test_a_key_says_who_the_client_is(guard, images, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"one:{hashlib.sha256(KEY.encode()).hexdigest()}\n")
    limits = {"rows_per_second": 0.001, "burst_rows": 1, "rows_per_request": 1}
    firewall = guard(endpoint={"limits": limits}, client={"api_keys": str(keys)})
    known = (("x-api-key", KEY),)
    assert type(call(firewall, request(images[0]), metadata=known)) is bytes
    assert type(call(firewall, request(images[0]))) is bytes
    spent = call(firewall, request(images[0]), metadata=known)
    assert spent.code() is StatusCode.RESOURCE_EXHAUSTED
    twice = call(firewall, request(images[0]), metadata=known + known)
    assert twice.code() is StatusCode.INVALID_ARGUMENT


def test_answers_are_made_coarse(guard, images):
    firewall = guard(endpoint={"shaping": {"when": "always", "mode": "label"}})
    for typed in (False, True):
        message = request(images[:2], typed=typed)
        answer = ModelInferResponse.FromString(call(firewall, message))
        told = (
            list(answer.outputs[0].contents.fp32_contents)
            if typed
            else np.frombuffer(answer.raw_output_contents[0], "<f4").tolist()
        )
        assert told == [float(column == 3) for column in range(10)] * 2


def test_answers_are_judged_with_their_inputs(guard, model, judged):
    model.weights = judged["folder"] / "model.npz"
    bundle = str(judged["folder"] / "digits.bundle")
    opinion = {"when": "suspicious", "share": 1.0}
    firewall = guard(endpoint={"bundle": bundle, "second_opinion": opinion})
    assert type(call(firewall, request(np.tile(judged["plain"][:1], (64, 1))))) is bytes
    for row in judged["foul"][:5]:
        assert type(call(firewall, request(row))) is bytes
        refused = call(firewall, request(row, id="lie"))
        assert refused.code() is StatusCode.PERMISSION_DENIED
    before = len(model.messages)
    call(firewall, request(judged["doubtful"][0], id="lie"))
    _, again = map(ModelInferRequest.FromString, model.messages[before:])
    assert (again.id, list(again.inputs[0].shape)) == ("", [4, 64])
    assert firewall.metric("bartizan_second_opinions_total", result="heard") >= 1


def test_what_the_server_says_is_passed_on(guard, model, images):
    firewall = guard()
    model.refuses = StatusCode.FAILED_PRECONDITION, "the server's words"
    status = call(firewall, request(images[0]))
    assert (status.code(), status.details()) == model.refuses
    model.refuses = StatusCode.UNAVAILABLE, "loading"
    status = call(firewall, request(images[0]))
    assert (status.code(), status.details()) == model.refuses
    model.stop()
    status = call(firewall, request(images[0]))
    assert (status.code(), status.details()) == (
        StatusCode.UNAVAILABLE,
        "model server unreachable",
    )


def test_a_deadline_and_a_client_that_leaves(guard, model, images):
    firewall = guard()
    model.waits = True
    status = call(firewall, request(images[0]), timeout=0.5)
    assert status.code() is StatusCode.DEADLINE_EXCEEDED
    assert model.left.wait(10)
    model.left.clear()
    model.begun.clear()
    with grpc.insecure_channel(f"127.0.0.1:{firewall.rpc}") as channel:
        calling = channel.unary_unary(f"{SERVICE}/ModelInfer").future(written(request(images[0])))
        assert model.begun.wait(10)
        assert firewall.metric("bartizan_grpc_calls") == 1
        calling.cancel()
        assert model.left.wait(10)


def streamed(firewall, *messages):
    """The answers to a stream, each as an error or a response."""
    with grpc.insecure_channel(f"127.0.0.1:{firewall.rpc}") as channel:
        stream = channel.stream_stream(f"{SERVICE}/ModelStreamInfer")
        answers = [
            ModelStreamInferResponse.FromString(answer)
            for answer in stream(iter(messages), timeout=20)
        ]
    return [answer.error_message or answer.infer_response.id for answer in answers]


def test_a_stream_is_inspected_message_by_message(guard, model, images):
    firewall = guard()
    bad = request(images[0], id="bad")
    bad.inputs[0].name = "y"
    honest = [written(request(images[0], id=name)) for name in ("one", "two")]
    told = streamed(firewall, honest[0], written(bad), b"\xff", honest[1])
    assert told[0::3] == ["one", "two"]
    assert "unexpected tensor" in told[1]
    assert "cannot be read" in told[2]
    assert model.messages == honest
    firewall.stop()
    assert sum(one["target"].endswith("/ModelStreamInfer") for one in firewall.records()) == 4


def test_streams_can_be_refused(guard, model, images):
    upstream = {"upstream": f"grpc://127.0.0.1:{model.port}", "stream": "refuse"}
    firewall = guard(endpoint={"grpc": upstream})
    told = streamed(firewall, written(request(images[0])))
    assert told == ["this API is restricted"]
    assert type(call(firewall, request(images[0]))) is bytes


def reload(firewall):
    """Serves the settings as they are now."""
    before = firewall.metric("bartizan_reloads_total")
    firewall.write()
    firewall.signal(signal.SIGHUP)
    firewall.process.wait_until(lambda: firewall.metric("bartizan_reloads_total") > before)
    assert firewall.metric("bartizan_reload_successful") == 1


def test_tls_and_a_client_s_certificate(guard, images, tmp_path):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    tls = {"certificate": certificate, "key": key, "client_ca": authority.path}
    firewall = guard(listen={"tls": tls})
    own = [Path(path).read_bytes() for path in reversed(authority.issue("client"))]

    def asked(trusted, *own):
        credentials = grpc.ssl_channel_credentials(Path(trusted.path).read_bytes(), *own)
        return call(firewall, request(images[0]), credentials=credentials)

    assert type(asked(authority, *own)) is bytes
    assert asked(authority).code() is StatusCode.UNAVAILABLE
    (tmp_path / "new").mkdir()
    other = Authority(tmp_path / "new")
    for fresh, old in zip(other.issue("server"), (certificate, key), strict=True):
        shutil.copy(fresh, old)
    reload(firewall)
    assert type(asked(other, *own)) is bytes
    assert asked(authority, *own).code() is StatusCode.UNAVAILABLE
    firewall.stop()
    assert len({one["client"] for one in firewall.records()}) == 1


def test_a_reload_and_a_drain_lose_nothing(guard, model, images):
    firewall = guard()
    place = f"127.0.0.1:{firewall.rpc}"
    with grpc.insecure_channel(place) as channel:
        infer = channel.unary_unary(f"{SERVICE}/ModelInfer")
        body = written(request(images[0]))
        assert infer(body, timeout=20)
        limits = {"rows_per_second": 0.001, "burst_rows": 1, "rows_per_request": 1}
        firewall.settings["endpoints"][0]["limits"] = limits
        reload(firewall)
        infer(body, timeout=20)
        with pytest.raises(grpc.RpcError) as caught:
            infer(body, timeout=20)
        assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
        del firewall.settings["endpoints"][0]["limits"]
        reload(firewall)
        model.waits = True
        waiting = infer.future(body, timeout=20)
        assert model.begun.wait(10)
        firewall.signal(signal.SIGTERM)
        with contextlib.suppress(grpc.RpcError):  # it may be accepted still, or not
            infer.future(body, timeout=1).exception()
        model.left.set()
        assert waiting.result()
    # A second SIGTERM, as stop() sends it, could meet it when its loop is closed already.
    assert firewall.process.wait(40) == 0


@pytest.mark.skipif(ANY is None, reason="no Redis server is installed")
def test_several_workers_share_the_port_and_the_quota(guard, images, tmp_path):
    redis = RedisServer(tmp_path).start()
    try:
        limits = {"rows_per_second": 0.001, "burst_rows": 30, "rows_per_request": 1}
        firewall = guard(
            endpoint={"limits": limits},
            workers=2,
            state=redis.url,
            sharing={"wait_seconds": 1.0},
            client={"secret": "a secret of at least sixteen characters"},
        )
        told = [call(firewall, request(images[0])) for _ in range(40)]  # a connection each
        passed = [one for one in told if type(one) is bytes]
        assert len(passed) == 30
        codes = {one.code() for one in told if type(one) is not bytes}
        assert codes == {StatusCode.RESOURCE_EXHAUSTED}
        assert firewall.stop() == 0
    finally:
        redis.stop()
