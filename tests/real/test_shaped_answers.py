"""What real clients read of shaped answers of real servers."""

import asyncio
import base64
import contextlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from real_client import encode
from real_servers import NUMERIC
from real_tensors import random_tensor

from loadtest.wire import Session, render_request
from proxy.answer import shaped
from proxy.decision import ALLOWED, Permit, UpstreamRequest
from proxy.http.address import Address
from proxy.http.application import Intake
from proxy.http.downstream import Listener
from proxy.http.messages import Reply
from proxy.http.upstream import Pool
from proxy.protocols.base import InferResponse
from proxy.protocols.contract import Contract
from proxy.protocols.v2 import V2
from proxy.shaping import shape


class Shaping:
    """Shapes every answer of one server, whatever was asked. Implements ``Application``."""

    def __init__(self, port):
        self.pool = Pool([Address.parse(f"http://127.0.0.1:{port}")])
        self.executor = ThreadPoolExecutor(1)

    def open(self, head, _peer):
        model = head.target.split("/")[3]
        return Intake(1 << 20, V2(f"/v2/models/{model}", Contract()))

    async def handle(self, exchange):
        codec, head = exchange.context, exchange.head
        route = codec.route(head.method, head.target)
        lines, body = codec.encode_request(codec.decode_request(head, exchange.body, route))
        asked = head.get(b"accept-encoding")
        if asked is not None:
            lines += b"accept-encoding: %b\r\n" % asked
        request = UpstreamRequest(b"POST", route.target, lines, body)
        response = await self.pool.send(Permit(ALLOWED, request))
        await shaped(exchange, response, codec, executor=self.executor)

    def refuse(self, refusal, _head, _peer, _received):
        return Reply(refusal.rule.status, json.dumps({"error": str(refusal)}).encode())


@contextlib.contextmanager
def shaping(server_port):
    """The port of a gateway that shapes every answer, in a thread of its own."""
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
        yield listener.port
    finally:
        run(stop())
        application.executor.shutdown()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def shaped_triton(triton_port):
    with shaping(triton_port) as port:
        yield port, triton_port


@pytest.fixture(scope="module")
def shaped_mlserver(mlserver_port):
    with shaping(mlserver_port) as port:
        yield port, mlserver_port


def expected(answer):
    """The direct answer of a server, its tensors shaped."""
    for name, tensor in answer["result"]["outputs"].items():
        kind = tensor["datatype"]
        array = np.frombuffer(base64.b64decode(tensor["data"]), NUMERIC[kind]).reshape(
            tensor["shape"]
        )
        coarse = shape(InferResponse({name: array}, len(array))).tensors[name]
        tensor["data"] = encode(coarse)
    return answer


def compare(client, ports, model, tensor, datatype, outputs=("y",), **keywords):
    """Asks through the gateway and past it; the number of rows whose tensors were shaped."""
    through, direct = (
        client.infer(port, model, tensor, datatype, outputs, request_id="a", **keywords)
        for port in ports
    )
    if "result" not in direct:
        assert through == direct  # what the server refuses (FP16 in JSON) it refuses in its words
        return 0
    assert through == expected(direct)
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
        client.infer(port, "echo_bytes", tensor, "BYTES", binary=binary) for port in shaped_triton
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
    for port in shaped_triton:
        with Session(("127.0.0.1", port)) as session:
            answer = session.exchange(
                render_request("POST", "/v2/models/digits/infer", "localhost", body)
            )
        (output,) = json.loads(answer.body)["outputs"]
        read.append([text.split(":") for text in output["data"]])
    through, direct = read
    assert len(direct) == 3
    assert [index for _, index in through] == [index for _, index in direct]
    assert [float(score) for score, _ in through] == [round(float(score), 1) for score, _ in direct]
    assert any(float(score) != round(float(score), 1) for score, _ in direct)


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
