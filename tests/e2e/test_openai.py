"""OpenAI's API through a real gateway: volumes, streams as they come, and embeddings."""

import base64
import contextlib
import json
import socket
import struct
import threading

import numpy as np
import pytest
from openai_stub import DONE, SECONDS, OpenAIStub, chunk, completion, embeddings, usage

from loadtest.wire import Session, dechunk, render_request

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
def stub():
    one = OpenAIStub(lambda asked, line: line.whole(completion(total=10)))
    yield one
    one.close()


@pytest.fixture
def guard(gateway, stub):
    """Starts a firewall before the stub."""

    def start(protocol=None, **keys):
        return gateway([stub.endpoint(protocol, **keys)])

    return start


def request(document, path=CHAT, key=None):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    headers = [("Content-Type", "application/json")]
    if key is not None:
        headers.append(("X-Api-Key", key))
    return render_request("POST", path, "localhost", body, headers)


def ask(one, document=HELLO, path=CHAT):
    with Session(one.address) as session:
        return session.exchange(request(document, path))


def error(answer):
    return json.loads(answer.body)["error"]


@contextlib.contextmanager
def streaming(one, document=None):
    """A connection on which a stream was asked for, and all that has come of it."""
    told = {**HELLO, "stream": True, **(document or {})}
    with socket.create_connection(one.address, SECONDS) as connection:
        connection.sendall(request(told))
        yield Reader(connection)


class Reader:
    """What comes on a connection, until it holds what is waited for."""

    def __init__(self, connection):
        self.connection = connection
        self.data = b""

    def until(self, wanted):
        while wanted not in self.data:
            got = self.connection.recv(1 << 16)
            assert got, self.data
            self.data += got
        return self.data

    def body(self):
        """All of the body, its chunks joined."""
        head, _, rest = self.until(b"\r\n0\r\n\r\n").partition(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        return dechunk(rest)


LIMITS = {"rows_per_second": 1, "burst_rows": 100}
TOKENS = {"unit": "tokens"}


def test_a_request_is_rewritten_and_its_answer_passes_as_it_came(stub, guard):
    one = guard()
    body = b'{ "messages":[{"content":"H\\u0065llo","role":"user"}],"n":null, "model":"m" }'
    answer = ask(one, body)
    assert answer.status == 200
    assert json.loads(answer.body) == completion(total=10)
    [seen] = stub.seen
    assert seen.path == CHAT
    assert seen.body == b'{"model":"m","messages":[{"content":"Hello","role":"user"}]}'
    assert seen.headers["content-type"] == "application/json"


def test_what_is_refused_reaches_nobody(stub, guard):
    one = guard()
    for document, path, status in (
        (b'{"model":"m","model":"n","messages":[]}', CHAT, 400),
        ({**HELLO, "web_search_options": {}}, CHAT, 400),
        ({"model": "m", "input": ["a"] * 2000}, EMBEDDINGS, 413),
        (HELLO, "/v1/files", 403),
        (HELLO, "/v2/models", 404),
    ):
        answer = ask(one, document, path)
        assert answer.status == status
        assert error(answer)["message"]
        assert answer.headers.get("x-should-retry") == ("false" if status == 403 else None)
    assert not stub.seen


def test_models_are_listed_and_show_that_the_server_is_there(stub, guard):
    stub.script = lambda asked, line: line.whole({"object": "list", "data": [{"id": "m"}]})
    one = guard({"probe": "models"})
    for path in ("/v1/models", "/v1/models/org/m:free"):
        with Session(one.address) as session:
            assert session.exchange(render_request("GET", path, "localhost")).status == 200
    assert [seen.path for seen in stub.seen][-2:] == ["/v1/models", "/v1/models/org/m:free"]


def test_a_stream_passes_byte_for_byte_as_it_comes(stub, guard):
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
    with streaming(guard()) as reader:
        for event in events:
            reader.until(event)
            go.set()
        assert reader.body() == b"".join(events)


def test_a_stream_in_tiny_pieces_is_whole(stub, guard):
    events = b"".join([chunk("tiny"), chunk(usage=usage(400)), DONE])

    def script(asked, line):
        line.stream()
        for byte in events:
            line.piece(bytes([byte]))
        line.end()

    stub.script = script
    one = guard(TOKENS, limits=LIMITS)
    with streaming(one) as reader:
        assert reader.body() == events
    assert ask(one).status == 429


def test_tokens_are_charged_once_the_server_has_told_them(stub, guard):
    stub.script = lambda asked, line: line.whole(completion(total=700))
    one = guard(TOKENS, limits=LIMITS)
    assert ask(one).status == 200
    answer = ask(one)
    assert answer.status == 429
    assert 590 <= int(answer.headers["retry-after"]) <= 610  # 100 were there, 1 comes a second
    assert error(answer) == {
        "message": "rate limit exceeded",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert len(stub.seen) == 1
    one.stop()
    assert [record["rows"] for record in one.records()] == [700, 1]


def test_what_came_of_a_stream_is_charged_where_the_client_leaves(stub, guard):
    left = threading.Event()

    def script(asked, line):
        line.stream()
        for _ in range(100):
            line.piece(chunk("a word"))
        if line.is_left():
            left.set()

    stub.script = script
    one = guard(TOKENS, limits=LIMITS)
    with streaming(one) as reader:
        while reader.data.count(b"a word") < 100:
            reader.data += reader.connection.recv(1 << 16)
        # One that closes with answers unread resets its connection.
        linger = struct.pack("ii", 1, 0)
        reader.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    assert left.wait(SECONDS)
    answer = ask(one)
    assert answer.status == 429
    assert 50 <= int(answer.headers["retry-after"]) <= 150  # some 200 tokens


def test_a_stream_without_an_end_is_paid_for(stub, guard):
    done = threading.Event()

    def script(asked, line):
        line.stream()
        with contextlib.suppress(OSError):
            while not done.is_set():
                line.piece(chunk("for ever and ever ") * 50)

    stub.script = script
    one = guard(TOKENS, limits=LIMITS)
    with streaming(one) as reader:
        for _ in range(100):
            reader.connection.recv(1 << 16)
    try:
        # The connection to the server is given up, and the debt is there with it.
        assert ask(one).status == 429
    finally:
        done.set()


def test_an_answer_that_is_not_counted_is_estimated(stub, guard):
    """A client for each, known by its key."""

    def script(asked, line):
        how = asked.document["user"]
        if how == "cut":
            line.stream()
            line.piece(chunk("x" * 4000))
            line.cut()
            return
        told = completion("x" * 4000)
        line.whole(told if how == "no usage" else {**told, "usage": {"total_tokens": 0}})

    stub.script = script
    one = guard(TOKENS, limits=LIMITS)
    for how in ("no usage", "zero", "cut"):
        told = {**HELLO, "stream": how == "cut", "user": how}
        with Session(one.address) as session, contextlib.suppress(ConnectionError):
            session.exchange(request(told, key=how))
        with Session(one.address) as session:
            answer = session.exchange(request(HELLO, key=how))
        assert answer.status == 429
        assert 850 <= int(answer.headers["retry-after"]) <= 1050


def test_a_request_that_the_server_refuses_costs_what_was_taken_before(stub, guard):
    stub.script = lambda asked, line: line.whole(
        {"error": {"message": "x" * 4000, "usage": usage(1000)}}, 400
    )
    one = guard(TOKENS, limits=LIMITS)
    assert [ask(one).status for _ in range(5)] == [400] * 5


def test_a_stream_is_asked_for_its_usage_where_that_is_configured(stub, guard):
    one = guard({**TOKENS, "ask_usage": True}, limits=LIMITS)
    ask(one, {**HELLO, "stream": True})
    ask(one)
    assert stub.seen[0].document["stream_options"] == {"include_usage": True}
    assert stub.seen[0].headers["accept-encoding"] == "identity"
    assert "stream_options" not in stub.seen[1].document


@pytest.mark.parametrize(
    ("unit", "document", "burst", "passes"),
    [
        ("requests", {**HELLO, "n": 50}, 3, 3),
        ("items", {**HELLO, "n": 50}, 120, 2),
        ("characters", {**HELLO, "messages": [{"role": "user", "content": "x" * 496}]}, 1500, 3),
    ],
)
def test_what_is_known_beforehand_is_limited_beforehand(stub, guard, unit, document, burst, passes):
    limits = {"rows_per_second": 0.01, "burst_rows": burst, "rows_per_request": 100}
    one = guard({"unit": unit}, limits=limits)
    statuses = [ask(one, document).status for _ in range(passes + 1)]
    assert statuses == [200] * passes + [429]


class Images:
    """Answers with the image that each text names."""

    def __init__(self, images):
        self.images = images.astype(np.float32)

    def __call__(self, asked, line):
        document = asked.document
        texts = document["input"]
        texts = [texts] if isinstance(texts, str) else texts
        rows = [self.row(text) for text in texts]
        packed = document.get("encoding_format") == "base64"
        line.whole(embeddings(rows, packed=packed))

    def row(self, text):
        if text == "odd":
            return np.where(np.arange(64) % 2, 16, 0)
        if text == "short":
            return np.zeros(3)
        if text == "nan":
            return np.full(64, np.nan)
        return self.images[int(text)]


ONLY = {"calls": ["embeddings"]}


@pytest.fixture
def scored(stub, guard, digits_bundle, images):
    stub.script = Images(images)

    def start(**keys):
        return guard({**ONLY, "unit": "items"}, bundle=str(digits_bundle), **keys)

    return start


def embed(one, *texts, packed=True):
    told = {"model": "m", "input": list(texts), **({"encoding_format": "base64"} if packed else {})}
    return ask(one, told, EMBEDDINGS)


def vectors(answer):
    return [
        np.frombuffer(base64.b64decode(item["embedding"]), "<f4")
        if isinstance(item["embedding"], str)
        else np.array(item["embedding"])
        for item in json.loads(answer.body)["data"]
    ]


def honest(one, count):
    """The first images that pass: a share of honest rows is flagged."""
    return [number for number in range(count) if embed(one, str(number)).status == 200]


def test_embeddings_are_scored_before_they_leave(scored, stub):
    one = scored()
    fine = honest(one, 20)
    assert len(fine) >= 15
    for packed in (True, False):
        answer = embed(one, *map(str, fine), packed=packed)
        assert answer.status == 200
        expected = embeddings([stub.script.images[number] for number in fine], packed=packed)
        assert json.loads(answer.body) == expected

        refused = embed(one, str(fine[0]), "odd", packed=packed)
        assert refused.status == 403
        assert refused.headers["x-should-retry"] == "false"
        assert error(refused)["code"] == "permission_denied"
    one.stop()
    record = one.records()[-1]
    assert (record["reasons"][0]["rule"], record["rows"]) == ("BZ-300", 2)


def test_in_monitor_mode_an_odd_embedding_passes_and_is_recorded(scored):
    one = scored(mode="monitor")
    assert embed(one, "odd").status == 200
    one.stop()
    assert one.records()[-1]["action"] == "block"


@pytest.mark.parametrize(("mode", "status"), [("deny", 503), ("allow", 200)])
def test_an_answer_that_cannot_be_read_follows_the_failure_mode(scored, stub, mode, status):
    one = scored(failure_mode=mode)
    for text in ("short", "nan"):
        assert embed(one, text).status == status
    told = {"model": "m", "input": "1", "dimensions": 8}
    seen = len(stub.seen)
    assert ask(one, told, EMBEDDINGS).status == 400  # no vector of those could be scored
    assert len(stub.seen) == seen
    one.stop()
    rules = [record["reasons"][0]["rule"] for record in one.records()]
    assert rules[:2] == ["BZ-390"] * 2


@pytest.mark.parametrize("mode", ["round", "noise"])
def test_shaped_embeddings_keep_their_form_and_their_length(stub, guard, images, mode):
    stub.script = Images(images)
    one = guard(ONLY, shaping={"when": "always", "mode": mode})
    for packed in (True, False):
        answer = embed(one, "1", "2", packed=packed)
        assert answer.status == 200
        [item, _] = json.loads(answer.body)["data"]
        assert isinstance(item["embedding"], str) == packed
        for number, vector in zip((1, 2), vectors(answer), strict=True):
            original = stub.script.images[number]
            assert not np.array_equal(vector, original)
            assert np.isclose(np.linalg.norm(vector), np.linalg.norm(original), rtol=1e-5)
            assert vector @ original > 0.95 * np.linalg.norm(vector) * np.linalg.norm(original)
        assert embed(one, "1", "2", packed=packed).body == answer.body


def test_queries_that_form_a_pattern_are_seen_in_the_answers(scored, stub, images):
    # Steps around one image, as a black-box attack on the embedding takes them.
    rng = np.random.default_rng(0)
    base = images[3]

    def row(text):
        if text.isdigit():
            step = rng.normal(size=64)
            return base + 0.05 * step / np.linalg.norm(step)
        return Images.row(stub.script, text)

    stub.script.row = row
    one = scored(on_outlier="allow")
    for start in range(0, 1000, 50):
        embed(one, *(str(number) for number in range(start, start + 50)))
    one.stop()
    rules = {reason["rule"] for record in one.records() for reason in record["reasons"]}
    assert rules & {"BZ-500", "BZ-510"}, rules


def test_the_length_of_an_answer_may_be_cut(scored, stub):
    def script(asked, line):
        body = json.dumps(embeddings([np.zeros(64)], packed=True)).encode()
        line.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:-9])
        line.cut()

    stub.script = script
    one = scored()
    assert embed(one, "1").status == 502
