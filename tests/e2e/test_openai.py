"""OpenAI's API through a real gateway: volumes, streams as they come, and embeddings.

One gateway serves them all. Each test is a client of its own, by its address.
"""

import base64
import contextlib
import itertools
import json
import socket
import struct
import threading

import numpy as np
import pytest
from gateway import Gateway
from openai_stub import DONE, SECONDS, OpenAIStub, chunk, completion, embeddings, usage

from loadtest.wire import Session, dechunk, render_request

CHAT, EMBEDDINGS = "/chat/completions", "/embeddings"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
NUMBERS = itertools.count(2)
LIMITS = {"rows_per_second": 1, "burst_rows": 100}
VECTORS = {"calls": ["embeddings"], "unit": "items"}


@pytest.fixture(scope="module")
def server():
    one = OpenAIStub(lambda asked, line: line.whole({"object": "list", "data": []}))
    yield one
    one.close()


@pytest.fixture(scope="module")
def guard(server, digits_bundle, tmp_path_factory):
    def endpoint(name, protocol, **keys):
        told = {"match": f"/{name}/v1", "upstream_path": "/v1", **keys}
        return {**server.endpoint(protocol), "name": name, **told}

    bundle = str(digits_bundle)
    one = Gateway(
        tmp_path_factory.mktemp("gateway"),
        [
            endpoint("texts", {"probe": "models"}, match="/v1"),
            endpoint("tokens", {"unit": "tokens"}, limits=LIMITS),
            endpoint("items", {"unit": "items"}, limits={**LIMITS, "rows_per_request": 100}),
            endpoint("scored", VECTORS, bundle=bundle),
            endpoint("shaped", VECTORS, shaping={"when": "always", "mode": "noise"}),
            endpoint("watched", VECTORS, bundle=bundle, mode="monitor"),
        ],
    )
    yield one.start()
    one.stop()


@pytest.fixture
def stub(server):
    """The server, which has seen nothing yet."""
    server.script = lambda asked, line: line.whole(completion(total=10))
    server.seen.clear()
    return server


class Client:
    """Asks one endpoint, and is known by its address."""

    def __init__(self, guard, name):
        self.address = guard.address
        self.base = f"/{name}/v1" if name != "texts" else "/v1"
        self.source = f"127.0.0.{next(NUMBERS)}"

    def request(self, document, path=CHAT):
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        headers = [("Content-Type", "application/json")]
        target = path if path.startswith("/v") else f"{self.base}{path}"
        return render_request("POST", target, "localhost", body, headers)

    def ask(self, document=HELLO, path=CHAT):
        with Session(self.address, self.source) as session:
            return session.exchange(self.request(document, path))

    def embed(self, *texts, packed=True):
        told = {"model": "m", "input": list(texts)}
        return self.ask({**told, **({"encoding_format": "base64"} if packed else {})}, EMBEDDINGS)

    @contextlib.contextmanager
    def stream(self):
        """A connection on which a stream was asked for."""
        source = self.source, 0
        with socket.create_connection(self.address, SECONDS, source) as connection:
            connection.sendall(self.request({**HELLO, "stream": True}))
            yield Reader(connection)


class Reader:
    """What comes on a connection."""

    def __init__(self, connection):
        self.connection = connection
        self.data = b""

    def more(self):
        got = self.connection.recv(1 << 16)
        assert got, self.data
        self.data += got

    def until(self, wanted):
        while wanted not in self.data:
            self.more()
        return self.data

    def body(self):
        """All of the body, its chunks joined."""
        head, _, rest = self.until(b"\r\n0\r\n\r\n").partition(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        return dechunk(rest)


@pytest.fixture
def client(guard):
    """A client of one of the endpoints: ``client(name)``."""
    return lambda name: Client(guard, name)


def error(answer):
    return json.loads(answer.body)["error"]


def recorded(guard, condition):
    """Waits until a record of the audit log is as it should be."""
    guard.process.wait_until(lambda: any(map(condition, guard.records())))


def test_a_request_is_rewritten_and_its_answer_passes_as_it_came(stub, client):
    body = b'{ "messages":[{"content":"H\\u0065llo","role":"user"}],"n":null, "model":"m" }'
    answer = client("texts").ask(body)
    assert answer.status == 200
    assert json.loads(answer.body) == completion(total=10)
    [seen] = stub.seen
    assert seen.path == "/v1/chat/completions"
    assert seen.body == b'{"model":"m","messages":[{"content":"Hello","role":"user"}]}'
    assert seen.headers["content-type"] == "application/json"


def test_what_is_refused_reaches_nobody(stub, client):
    one = client("texts")
    for document, path, status in (
        (b'{"model":"m","model":"n","messages":[]}', CHAT, 400),
        ({**HELLO, "web_search_options": {}}, CHAT, 400),
        ({"model": "m", "input": ["a"] * 2000}, EMBEDDINGS, 413),
        (HELLO, "/files", 403),
        (HELLO, "/v2/models", 404),
    ):
        answer = one.ask(document, path)
        assert answer.status == status
        assert error(answer)["message"]
        assert answer.headers.get("x-should-retry") == ("false" if status == 403 else None)
    assert not stub.seen


def test_models_can_be_looked_at(stub, guard):
    for path in ("/v1/models", "/v1/models/org/m:free"):
        with Session(guard.address) as session:
            assert session.exchange(render_request("GET", path, "localhost")).status == 200
        assert path in [seen.path for seen in stub.seen]


def test_a_stream_passes_byte_for_byte_as_it_comes(stub, client):
    go = threading.Event()
    events = [chunk("Hel"), b": ping\n\n", chunk("lo"), chunk(usage=usage(12)), DONE]

    def script(asked, line):
        line.stream()
        for event in events:
            line.piece(event)
            assert go.wait(SECONDS)  # the next one only once the client has this one
            go.clear()
        line.end()

    stub.script = script
    with client("tokens").stream() as reader:
        for event in events:
            reader.until(event)
            go.set()
        assert reader.body() == b"".join(events)


def test_a_stream_in_tiny_pieces_is_whole(stub, client):
    events = b"".join([chunk("tiny"), chunk(usage=usage(400)), DONE])

    def script(asked, line):
        line.stream()
        for byte in events:
            line.piece(bytes([byte]))
        line.end()

    stub.script = script
    one = client("tokens")
    with one.stream() as reader:
        assert reader.body() == events
    assert one.ask().status == 429


def test_tokens_are_charged_once_the_server_has_told_them(stub, client, guard):
    stub.script = lambda asked, line: line.whole(completion(total=700))
    one = client("tokens")
    assert one.ask().status == 200
    answer = one.ask()
    assert answer.status == 429
    assert 550 <= int(answer.headers["retry-after"]) <= 610  # 100 were there, 1 comes a second
    assert error(answer) == {
        "message": "rate limit exceeded",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert len([seen for seen in stub.seen if seen.body]) == 1
    recorded(guard, lambda record: record["rows"] == 700)


def test_what_came_of_a_stream_is_charged_where_the_client_leaves(stub, client):
    left = threading.Event()

    def script(asked, line):
        line.stream()
        for _ in range(100):
            line.piece(chunk("a word"))
        if line.is_left():
            left.set()

    stub.script = script
    one = client("tokens")
    with one.stream() as reader:
        while reader.data.count(b"a word") < 100:
            reader.more()
        # One that closes with answers unread resets its connection.
        linger = struct.pack("ii", 1, 0)
        reader.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    assert left.wait(SECONDS)
    answer = one.ask()
    assert answer.status == 429
    assert 50 <= int(answer.headers["retry-after"]) <= 110  # some 200 tokens


def test_a_stream_without_an_end_is_paid_for(stub, client):
    left = threading.Event()

    def script(asked, line):
        line.stream()
        try:
            while True:
                line.piece(chunk("for ever and ever ") * 50)
        finally:
            left.set()

    stub.script = script
    one = client("tokens")
    with one.stream() as reader:
        for _ in range(100):
            reader.more()
    assert left.wait(SECONDS)
    assert one.ask().status == 429


def test_an_answer_that_is_not_counted_is_estimated(stub, client):
    def script(asked, line):
        how = asked.document["user"]
        if how == "cut":
            line.stream()
            line.piece(chunk("x" * 4000))
            line.cut()
        told = completion("x" * 4000)
        line.whole(told if how == "no usage" else {**told, "usage": {"total_tokens": 0}})

    stub.script = script
    for how in ("no usage", "zero", "cut"):
        one = client("tokens")
        with contextlib.suppress(ConnectionError):
            one.ask({**HELLO, "stream": how == "cut", "user": how})
        answer = one.ask()
        assert answer.status == 429, how
        assert 850 <= int(answer.headers["retry-after"]) <= 1050


def test_items_are_limited_beforehand(stub, client):
    one = client("items")
    statuses = [one.ask({**HELLO, "n": 45}).status for _ in range(3)]
    assert statuses == [200, 200, 429]


class Images:
    """Answers with the image that each text names."""

    def __init__(self, images):
        self.images = images.astype(np.float32)
        self.steps = np.random.default_rng(0)

    def __call__(self, asked, line):
        document = asked.document
        packed = document.get("encoding_format") == "base64"
        line.whole(embeddings(list(map(self.row, document["input"])), packed=packed))

    def row(self, text):
        if text == "odd":
            return np.where(np.arange(64) % 2, 16, 0)
        if text == "short":
            return np.zeros(3)
        if text == "nan":
            return np.full(64, np.nan)
        if text == "near":
            step = self.steps.normal(size=64)
            return self.images[3] + 0.05 * step / np.linalg.norm(step)
        return self.images[int(text)]


def vectors(answer):
    return [
        np.frombuffer(base64.b64decode(item["embedding"]), "<f4")
        if isinstance(item["embedding"], str)
        else np.array(item["embedding"])
        for item in json.loads(answer.body)["data"]
    ]


def test_embeddings_are_scored_before_they_leave(stub, client, guard, images):
    stub.script = Images(images)
    one = client("scored")
    # A share of honest rows is flagged.
    fine = [number for number in range(20) if one.embed(str(number)).status == 200]
    assert len(fine) >= 15
    for packed in (True, False):
        answer = one.embed(*map(str, fine), packed=packed)
        assert answer.status == 200
        expected = embeddings([stub.script.images[number] for number in fine], packed=packed)
        assert json.loads(answer.body) == expected

        refused = one.embed(str(fine[0]), "odd", packed=packed)
        assert refused.status == 403
        assert refused.headers["x-should-retry"] == "false"
        assert error(refused)["code"] == "permission_denied"

    def is_outlier(record):
        rules = [reason["rule"] for reason in record["reasons"]]
        return (record["endpoint"], record["rows"], rules) == ("scored", 2, ["BZ-300"])

    recorded(guard, is_outlier)


def test_what_cannot_be_scored_does_not_leave(stub, client, images):
    stub.script = Images(images)
    one = client("scored")
    assert [one.embed(text).status for text in ("short", "nan")] == [503, 503]
    before = len(stub.seen)
    assert one.ask({"input": "1", "dimensions": 8}, EMBEDDINGS).status == 400
    assert len(stub.seen) == before


def test_shaped_embeddings_keep_their_form_and_their_length(stub, client, images):
    stub.script = Images(images)
    one = client("shaped")
    for packed in (True, False):
        answer = one.embed("1", "2", packed=packed)
        assert answer.status == 200
        [item, _] = json.loads(answer.body)["data"]
        assert isinstance(item["embedding"], str) == packed
        for number, vector in zip((1, 2), vectors(answer), strict=True):
            original = stub.script.images[number]
            assert not np.array_equal(vector, original)
            assert np.isclose(np.linalg.norm(vector), np.linalg.norm(original), rtol=1e-5)
            assert vector @ original > 0.95 * np.linalg.norm(vector) * np.linalg.norm(original)
        assert one.embed("1", "2", packed=packed).body == answer.body


def test_queries_that_form_a_pattern_are_seen_in_the_answers(stub, client, guard, images):
    """Steps around one image, as a black-box attack on the vectors takes them."""
    stub.script = Images(images)
    one = client("watched")
    for _ in range(20):
        assert one.embed(*["near"] * 50).status == 200  # it only watches
    probing = {"BZ-500", "BZ-510"}
    recorded(guard, lambda record: probing & {reason["rule"] for reason in record["reasons"]})
