"""What real clients read of shaped answers of real servers."""

import asyncio
import base64
import contextlib
import json
import threading

import numpy as np
import pytest
from real_client import encode
from real_servers import NUMERIC
from real_tensors import random_tensor

from loadtest.wire import Session, render_request
from proxy.answer import MAX_BYTES, understood
from proxy.decision import ALLOWED, Permit, UpstreamRequest
from proxy.http.address import Address
from proxy.http.application import Intake
from proxy.http.downstream import Listener
from proxy.http.messages import Reply
from proxy.http.upstream import Pool
from proxy.protocols.base import InferRequest, InferResponse
from proxy.protocols.contract import Contract
from proxy.protocols.v2 import V2
from proxy.shaping import Style, noise_key, shape

KEY = noise_key(b"secret", "real")
STYLES = {mode: Style(mode, key=KEY) for mode in ("round", "top_k", "label", "noise")}


class Shaping:
    """Shapes every answer of one server, whatever was asked. Implements ``Application``.

    Attributes:
        style: how.
    """

    def __init__(self, port):
        self.pool = Pool([Address.parse(f"http://127.0.0.1:{port}")])
        self.style = STYLES["round"]

    def open(self, head, _peer):
        model = head.target.split("/")[3]
        return Intake(1 << 20, V2(f"/v2/models/{model}", Contract()))

    async def handle(self, exchange):
        codec, head = exchange.context, exchange.head
        route = codec.route(head.method, head.target)
        asked = codec.decode_request(head, exchange.body, route)
        lines, body = codec.encode_request(asked)
        accepted = head.get(b"accept-encoding")
        if accepted is not None:
            lines += b"accept-encoding: %b\r\n" % accepted
        request = UpstreamRequest(b"POST", route.target, lines, body)
        response = await self.pool.send(Permit(ALLOWED, request))
        if response.status != 200:
            await exchange.relay(response)
            return
        body = await response.whole(MAX_BYTES)
        answer = shape(understood(response, body, codec), self.style, asked)
        exchange.replace(response, *codec.encode_response(answer))

    def refuse(self, refusal, _head, _peer, _received):
        return Reply(refusal.rule.status, json.dumps({"error": str(refusal)}).encode())


@contextlib.contextmanager
def shaping(server_port):
    """A gateway that shapes every answer, in a thread of its own, and its port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

    async def start():
        application = Shaping(server_port)
        listener = Listener(application, Address("127.0.0.1", 0))
        await listener.start()
        return application, listener

    async def stop():
        await listener.close()
        await application.pool.close()

    application, listener = run(start())
    try:
        yield application, listener.port
    finally:
        run(stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Pair:
    """A server behind shaping, and itself.

    Attributes:
        style: of the shaping.
        ports: the gateway's and the server's.
    """

    def __init__(self, application, *ports):
        self._application = application
        self.ports = ports

    @property
    def style(self):
        return self._application.style

    @style.setter
    def style(self, style):
        self._application.style = style


@pytest.fixture(scope="module")
def triton_pair(triton_port):
    with shaping(triton_port) as (application, port):
        yield Pair(application, port, triton_port)


@pytest.fixture(scope="module")
def mlserver_pair(mlserver_port):
    with shaping(mlserver_port) as (application, port):
        yield Pair(application, port, mlserver_port)


@pytest.fixture(params=STYLES)
def shaped_triton(request, triton_pair):
    triton_pair.style = STYLES[request.param]
    return triton_pair


@pytest.fixture(params=STYLES)
def shaped_mlserver(request, mlserver_pair):
    mlserver_pair.style = STYLES[request.param]
    return mlserver_pair


def request(tensor):
    rows = tensor.reshape(len(tensor), -1).astype(np.float32)
    return InferRequest({"x": tensor}, rows, len(tensor))


def expected(answer, style, rows):
    """The direct answer of a server, its tensors shaped."""
    outputs = answer["result"]["outputs"]
    tensors = {
        name: np.frombuffer(base64.b64decode(tensor["data"]), NUMERIC[tensor["datatype"]]).reshape(
            tensor["shape"]
        )
        for name, tensor in outputs.items()
    }
    coarse = shape(InferResponse(tensors, len(rows)), style, request(rows))
    for name, tensor in coarse.tensors.items():
        outputs[name]["data"] = encode(tensor)
    return answer


def compare(client, pair, model, tensor, datatype, outputs=("y",), **keywords):
    """Asks through the gateway and past it; the number of rows whose tensors were shaped."""
    through, direct = (
        client.infer(port, model, tensor, datatype, outputs, request_id="a", **keywords)
        for port in pair.ports
    )
    if "result" not in direct:
        assert through == direct  # what the server refuses (FP16 in JSON) it refuses in its words
        return 0
    assert through == expected(direct, pair.style, np.asarray(tensor))
    return len(tensor)


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
@pytest.mark.parametrize("datatype", NUMERIC)
def test_triton(client, shaped_triton, datatype, binary):
    draw = np.random.default_rng(20)
    model = f"echo_{datatype.lower()}"
    read = 0
    for rows in (1, 3, 128):  # the last is decoded in a thread
        tensor = random_tensor(draw, datatype, rows)
        read += compare(client, shaped_triton, model, tensor, datatype, binary=binary)
    assert read == (0 if datatype == "FP16" and not binary else 132)


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_triton_strings(client, shaped_triton, binary):
    tensor = random_tensor(np.random.default_rng(20), "BYTES", 5)
    through, direct = (
        client.infer(port, "echo_bytes", tensor, "BYTES", binary=binary)
        for port in shaped_triton.ports
    )
    assert "result" in direct
    assert through == direct


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_triton_compressed(client, shaped_triton, images, coding):
    rows = images[:50].astype(np.float32)
    outputs = ("scores", "label")
    keywords = {"response_compression_algorithm": coding}
    assert compare(client, shaped_triton, "digits", rows, "FP32", outputs, **keywords) == 50


def test_triton_scores_as_text(shaped_triton, images):
    """Triton's classification extension writes scores into strings."""
    outputs = [{"name": "scores", "parameters": {"classification": 3}}]
    item = {"name": "x", "shape": [1, 64], "datatype": "FP32", "data": images[0].tolist()}
    body = json.dumps({"inputs": [item], "outputs": outputs}).encode()
    read = []
    for port in shaped_triton.ports:
        with Session(("127.0.0.1", port)) as session:
            answer = session.exchange(
                render_request("POST", "/v2/models/digits/infer", "localhost", body)
            )
        (output,) = json.loads(answer.body)["outputs"]
        read.append(output["data"])
    through, direct = read
    assert len(direct) == 3
    strings = np.array([[text.encode() for text in direct]], object)
    coarse = shape(InferResponse({"scores": strings}, 1), shaped_triton.style, request(images[:1]))
    assert [text.encode() for text in through] == coarse.tensors["scores"].tolist()[0]
    assert through != direct or shaped_triton.style.mode == "top_k"
    assert through[0].split(":")[1] == direct[0].split(":")[1]


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT64", "BOOL"])
def test_mlserver(client, shaped_mlserver, datatype):
    tensor = random_tensor(np.random.default_rng(20), datatype, 5)
    model = f"echo_{datatype.lower()}"
    assert compare(client, shaped_mlserver, model, tensor, datatype, binary=False) == 5


def test_mlserver_scikit_learn_model(client, shaped_mlserver, images):
    rows = images[:50]
    outputs = ("predict", "predict_proba")
    read = compare(client, shaped_mlserver, "digits", rows, "FP64", outputs, binary=False)
    assert read == 50


def test_labels_follow_their_scores(client, mlserver_pair, images):
    mlserver_pair.style = Style("noise", noise=10.0, keep_best=False, key=KEY)
    outputs = ("predict", "predict_proba")
    through, direct = (
        client.infer(port, "digits", images[:50], "FP64", outputs, request_id="a", binary=False)
        for port in mlserver_pair.ports
    )

    def read(answer):
        return [
            np.frombuffer(base64.b64decode(tensor["data"]), NUMERIC[tensor["datatype"]])
            for tensor in (answer["result"]["outputs"][name] for name in outputs)
        ]

    labels, scores = read(through)
    assert np.array_equal(labels, scores.reshape(50, -1).argmax(axis=1))
    assert not np.array_equal(labels, read(direct)[0])
