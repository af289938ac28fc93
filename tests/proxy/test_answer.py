"""An answer that is understood on its way back: all of it, or a refusal before a byte is sent."""

import gzip
import json
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zstandard

from proxy.answer import shaped, understood
from proxy.http.exchange import Exchange
from proxy.http.messages import Head, Peer
from proxy.http.response import Response
from proxy.protocols.contract import Contract
from proxy.protocols.v2 import V2
from proxy.rules import UPSTREAM_INVALID, Refusal

CODEC = V2("/v2/models/m", Contract())
ID = b"x-request-id: 1\r\n"
SCORES = [[0.123, 0.877], [0.502, 0.498]]
COARSE = [[0.1, 0.9], [0.6, 0.5]]  # the second would be level: its winner is raised


class Connection:
    """A client that takes all it gets."""

    peer = Peer("192.0.2.1")
    date = b"date: now\r\n"

    def __init__(self):
        self.written = b""

    def write(self, data):
        self.written += data

    def connection_line(self, _exchange):
        return b""

    async def drained(self):
        return


class Inline(ThreadPoolExecutor):
    """Counts what was put into a thread."""

    calls = 0

    def submit(self, *arguments, **keywords):
        self.calls += 1
        return super().submit(*arguments, **keywords)


@pytest.fixture
def executor():
    with Inline(1) as one:
        yield one


def document(scores=SCORES, **more):
    rows = np.array(scores)
    output = {"name": "y", "datatype": "FP64", "shape": list(rows.shape), "data": scores}
    label = {"name": "label", "datatype": "INT64", "shape": [len(rows)], "data": [7] * len(rows)}
    return json.dumps({"model_name": "m", "id": "i", "outputs": [output, label]} | more).encode()


def response_of(body, *headers, status=200):
    response = Response(None)
    response.status = status
    response.headers = list(headers)
    response.bodiless = status in {204, 304}
    if body:
        response.add(body)
    response.end()
    return response


def exchange():
    return Exchange(Connection(), None, Head("POST", "/v2/models/m/infer", {}, True), 0.0)


async def answer(response, executor, **bounds):
    """Status line and headers, body, and what ``shaped`` returned."""
    one = exchange()
    sent = await shaped(one, response, CODEC, executor=executor, extra=ID, **bounds)
    assert one.answered
    head, _, body = one._connection.written.partition(b"\r\n\r\n")
    assert sent == len(body)
    return head.split(b"\r\n"), body


async def test_json(executor):
    kind = (b"content-type", b"application/json; charset=utf-8")
    head, body = await answer(response_of(document(), kind, (b"etag", b"x")), executor)
    assert head[0] == b"HTTP/1.1 200 OK"
    assert set(head[1:]) == {
        b"date: now",
        b"Content-Type: application/json",
        b"x-request-id: 1",
        b"content-length: %d" % len(body),
    }
    read = json.loads(body)
    assert (read["model_name"], read["id"]) == ("m", "i")
    assert np.array_equal(np.array(read["outputs"][0]["data"]).reshape(2, 2), COARSE)
    assert read["outputs"][1]["data"] == [7, 7]
    assert executor.calls == 0


async def test_binary(executor):
    tensors = np.array(SCORES, "<f4")
    item = {
        "name": "y",
        "datatype": "FP32",
        "shape": [2, 2],
        "parameters": {"binary_data_size": 16},
    }
    text = json.dumps({"outputs": [item]}).encode()
    length = (b"inference-header-content-length", b"%d" % len(text))
    head, body = await answer(response_of(text + tensors.tobytes(), length), executor)
    (size,) = [int(line.partition(b": ")[2]) for line in head if line.startswith(b"Inference")]
    assert np.array_equal(np.frombuffer(body[size:], "<f4"), np.array(COARSE, "<f4").ravel())


CODERS = {b"gzip": gzip.compress, b"deflate": zlib.compress, b"zstd": zstandard.compress}


@pytest.mark.parametrize("name", CODERS)
async def test_a_compressed_answer_is_sent_plain(executor, name):
    coded = CODERS[name](document())
    head, body = await answer(response_of(coded, (b"content-encoding", name)), executor)
    assert np.array_equal(json.loads(body)["outputs"][0]["data"], np.ravel(COARSE))
    assert not any(line.lower().startswith(b"content-encoding") for line in head)
    assert executor.calls == 1


async def test_a_large_answer_is_read_in_a_thread(executor):
    _, body = await answer(response_of(document([[0.123, 0.877]] * 5000)), executor)
    assert json.loads(body)["outputs"][0]["data"] == [0.1, 0.9] * 5000
    assert executor.calls == 1


@pytest.mark.parametrize("status", [301, 400, 404, 500, 503])
async def test_an_error_of_the_model_server_goes_on_as_it_is(executor, status):
    kind = (b"content-type", b"text/plain")
    head, body = await answer(response_of(b"why 0.123", kind, status=status), executor)
    assert int(head[0].split()[1]) == status
    assert b"content-type: text/plain" in head
    assert body == b"why 0.123"


@pytest.mark.parametrize("status", [204, 304])
async def test_no_body_stays_no_body(executor, status):
    head, body = await answer(response_of(b"", status=status), executor)
    assert int(head[0].split()[1]) == status
    assert body == b""


JSON = (b"content-type", b"application/json")
UNFIT = {
    "nothing": (b"",),
    "no JSON": (b"0.123", JSON),
    "NaN": (document().replace(b"0.123", b"NaN"), JSON),
    "another type": (document(), (b"content-type", b"text/html")),
    "an unknown datatype": (document().replace(b"FP64", b"BF16"), JSON),
    "brotli": (document(), (b"content-encoding", b"br")),
    "two codings": (gzip.compress(document()), (b"content-encoding", b"gzip, gzip")),
    "coded twice": (
        gzip.compress(gzip.compress(document())),
        (b"content-encoding", b"gzip"),
        (b"content-encoding", b"gzip"),
    ),
    "a lying coding": (document(), (b"content-encoding", b"gzip")),
    "a truncated coding": (gzip.compress(document())[:-9], (b"content-encoding", b"gzip")),
    "a bomb": (gzip.compress(document() + b" " * 500_000), (b"content-encoding", b"gzip")),
    "a lying length": (document(), (b"inference-header-content-length", b"10")),
}


@pytest.mark.parametrize("name", UNFIT)
async def test_what_is_not_understood_is_not_sent(executor, name):
    body, *headers = UNFIT[name]
    response, one = response_of(body, *headers), exchange()
    with pytest.raises(Refusal) as refusal:
        await shaped(one, response, CODEC, executor=executor)
    assert refusal.value.rule is UPSTREAM_INVALID
    assert (one._connection.written, one.status) == (b"", 0)
    # A failure mode that lets it through gets it as it came.
    assert await one.relay(response) == len(body)
    assert one._connection.written.endswith(b"\r\n\r\n" + body)


async def test_the_limit_holds_before_and_after_decoding(executor):
    body = document()
    coded = gzip.compress(body), (b"content-encoding", b"gzip")
    for fit in (response_of(body), response_of(*coded)):
        await answer(fit, executor, limit=len(body))
    for large in (response_of(body), response_of(*coded)):
        with pytest.raises(Refusal) as refusal:
            await answer(large, executor, limit=len(body) - 1)
        assert refusal.value.rule is UPSTREAM_INVALID
    with pytest.raises(Refusal):
        await answer(response_of(*coded), executor, ratio=1)


async def test_decimals(executor):
    _, body = await answer(response_of(document()), executor, decimals=2)
    assert json.loads(body)["outputs"][0]["data"] == [0.12, 0.88, 0.51, 0.5]


def test_understood():
    response = response_of(document(), JSON, (b"content-type", b"text/html"))
    read = understood(response, document(), CODEC)
    assert read.tensors["y"].tolist() == SCORES
    assert read.n == 2
