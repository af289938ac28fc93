"""Oracles over HTTP, for every protocol, against a server that speaks it."""

import contextlib
import itertools
import json
import socket
import threading
from http.client import HTTPResponse

import numpy as np
import pytest
from authority import Authority
from spoken_stub import CLASSES, FEATURES, Stub, answer_of, model, serving

from loadtest.targets.base import Said
from loadtest.targets.http_oracle import CONNECTIONS
from loadtest.targets.open import Endpoint
from loadtest.targets.settings import Target
from proxy.http.tls import server_context

TENSOR = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, FEATURES]}]}
COLUMNS = {"columns": [{"name": f"c{i}"} for i in range(FEATURES)]}
SAGEMAKER = {"name": "invocations", "server": "sagemaker"}
JSON = {"name": "json", "rows": "$.rows", "answer": "$.scores"}
CASES = {
    "v2": ("/v2/models/m", {}),
    "v2 stated": ("/v2/models/m", {"contract": TENSOR}),
    "v2 binary": ("/v2/models/m", {"binary": True}),
    "v1": ("/v1/models/m", {"protocol": "v1"}),
    "v1 tensor": ("/v1/models/m", {"protocol": "v1", "contract": TENSOR}),
    "mlflow": ("/invocations", {"protocol": "invocations", "contract": COLUMNS}),
    "mlflow tensor": ("/invocations", {"protocol": "invocations", "contract": TENSOR}),
    "sagemaker": ("/invocations", {"protocol": SAGEMAKER, "contract": TENSOR}),
    "sagemaker csv": ("/invocations", {"protocol": SAGEMAKER, "contract": COLUMNS}),
    "torchserve": ("/predictions/m", {"protocol": "torchserve"}),
    "seldon": ("/api/v1.0/predictions", {"protocol": "seldon"}),
    "json": ("/predict", {"protocol": JSON, "contract": TENSOR}),
}
ROW = np.random.default_rng(1).normal(size=FEATURES).astype(np.float32)


@pytest.fixture
def stub():
    with serving(Stub()) as one:
        yield one


def opened(stub, path="/v2/models/m", **keys):
    values = {"direct": stub.url + path, **keys}
    return Endpoint.open(Target.model_validate(values), features=FEATURES)


def ask(endpoint, row=ROW, client=None):
    with endpoint.oracle("direct") as oracle:
        return oracle.ask(row, client or endpoint.clients[0])


@pytest.mark.parametrize("case", CASES)
def test_a_row_comes_to_the_model_as_it_is_and_its_scores_come_back(stub, case):
    path, keys = CASES[case]
    reply = ask(opened(stub, path, **keys))
    assert reply.said is Said.ANSWERED, reply.body
    expected = model(ROW[None])[0]
    np.testing.assert_allclose(reply.scores, expected, rtol=1e-12)
    assert reply.label == expected.argmax()
    assert reply.status == 200
    assert reply.seconds > 0


def test_every_protocol_was_tried():
    assert len(CASES) == 12


def test_an_example_shows_the_form(stub, tmp_path):
    body = tmp_path / "request.json"
    body.write_text('{"inputs": {"x": [[0, 0, 0, 0, 0, 0]]}}')
    endpoint = opened(stub, "/v1/models/m", protocol="v1", contract=TENSOR, example=str(body))
    assert ask(endpoint).said is Said.ANSWERED
    assert stub.asked[0][2].startswith(b'{"inputs":')


def test_a_binary_example_of_v2_needs_no_header(stub, tmp_path):
    body = tmp_path / "request.bin"
    text = (
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,6],'
        b'"parameters":{"binary_data_size":24}}]}'
    )
    body.write_bytes(text + bytes(24))
    reply = ask(opened(stub, example=str(body)))
    assert reply.said is Said.ANSWERED, reply.body
    assert stub.asked[0][1]["inference-header-content-length"] == str(len(text))


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (403, Said.REFUSED),
        (429, Said.LIMITED),
        (503, Said.SHED),
        (400, Said.INVALID),
        (413, Said.INVALID),
        (500, Said.FAILED),
        (502, Said.FAILED),
    ],
)
def test_what_a_client_can_tell_of_a_status(stub, status, said):
    stub.status = status
    stub.headers = {"x-request-id": "abc", "retry-after": "7"}
    reply = ask(opened(stub))
    assert (reply.said, reply.status, reply.label) == (said, status, -1)
    assert (reply.request_id, reply.retry_after) == ("abc", 7.0)
    assert "no" in reply.body


def test_a_retry_after_that_is_a_date_says_nothing(stub):
    stub.status, stub.headers = 429, {"retry-after": "Fri, 01 Jan 2027 00:00:00 GMT"}
    assert ask(opened(stub)).retry_after is None


def test_a_connection_is_kept_and_reopened_where_the_server_closed_it(stub):
    endpoint = opened(stub)
    before = stub.connections
    with endpoint.oracle("direct") as oracle:
        for _ in range(3):
            assert oracle.ask(ROW, "client").said is Said.ANSWERED
        assert stub.connections == before + 1
        stub.closing = True
        said = [oracle.ask(ROW, "client").said for _ in range(6)]
    # Closed without a word: one question may meet that moment, and no other.
    assert said.count(Said.FAILED) <= 1
    assert said.count(Said.ANSWERED) >= 5
    assert stub.connections > before + 3


def test_connections_are_bounded(stub):
    endpoint = opened(stub, clients={"by": "header", "count": CONNECTIONS + 6})
    with endpoint.oracle("direct") as oracle:
        for name in endpoint.clients:
            assert oracle.ask(ROW, name).said is Said.ANSWERED
        assert len(oracle._connections) == CONNECTIONS


def test_a_server_that_hangs_up_is_a_failure_and_no_exception(stub):
    endpoint = opened(stub)
    stub.silent = True
    reply = ask(endpoint)
    assert (reply.said, reply.status) == (Said.FAILED, 0)
    assert reply.body
    assert len(stub.asked) == 1


def serve_once(listener, answer):
    """Answers one connection with these bytes, and closes it."""
    with listener:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)


def raw_server(answer):
    """A server of one connection; its port and its thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve_once, args=(listener, answer), daemon=True)
    thread.start()
    return listener.getsockname()[1], thread


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\xff\xfe{}",
        b"HTTP/1.1 999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 300 + b"\r\n",
        b'HTTP/1.1 200 OK\r\nContent-Length: 74\r\n\r\n{"model_name":"m","outputs":[{"name":"p",'
        b'"datatype":"FP64","shape":[1,3]}]}',
    ],
)
def test_no_answer_however_broken_is_an_exception(answer):
    port, thread = raw_server(answer)
    target = Target.model_validate(
        {"direct": f"http://127.0.0.1:{port}/v2/models/m", "contract": TENSOR}
    )
    reply = ask(Endpoint.open(target))
    thread.join(10)
    assert reply.said is Said.FAILED
    assert reply.body


def answer_bytes(row=ROW):
    body = json.dumps(answer_of("/infer", model(row[None]))).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@contextlib.contextmanager
def conversation(serve, seconds=10.0):
    """An oracle whose server is a function of a listening socket, in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve, args=(listener,), daemon=True)
    thread.start()
    where = f"http://127.0.0.1:{listener.getsockname()[1]}/v2/models/m"
    keys = {"direct": where, "contract": TENSOR, "timeout_seconds": seconds}
    with listener, Endpoint.open(Target.model_validate(keys)).oracle("direct") as oracle:
        yield oracle
    thread.join(10)


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
)
def test_an_answer_that_drips_is_given_up_in_time(start, more, monkeypatch):
    # Each look at the clock is a second later: no byte is late, and the answer never whole.
    monkeypatch.setattr(
        "loadtest.targets.http_oracle.perf_counter", itertools.count(0.0, 1.0).__next__
    )

    def drip(listener):
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(start)
            while True:
                connection.sendall(more)

    with conversation(drip, seconds=3) as oracle:
        reply = oracle.ask(ROW, "client")
    assert reply.said is Said.FAILED
    assert "no whole answer in 3 s" in reply.body


def test_what_nobody_asked_for_is_no_answer_to_the_next_question():
    other = np.flip(ROW).copy()
    sent = threading.Event()

    def twice(listener):
        first, _ = listener.accept()
        with first:
            first.recv(65536)
            first.sendall(answer_bytes())
            first.recv(65536)  # the second question, on the kept connection
            first.sendall(answer_bytes(other) * 2)
            second, _ = listener.accept()
            with second:
                second.recv(65536)
                second.sendall(answer_bytes())
                second.sendall(answer_bytes(other))
                sent.set()
                third, _ = listener.accept()
                with third:
                    third.recv(65536)
                    third.sendall(answer_bytes())

    with conversation(twice) as oracle:
        assert oracle.ask(ROW, "client").said is Said.ANSWERED
        surplus = oracle.ask(other, "client")
        assert (surplus.said, surplus.body) == (Said.FAILED, "more than the answer came")
        oracle.ask(ROW, "client")
        assert sent.wait(10)
        last = oracle.ask(ROW, "client")
        np.testing.assert_allclose(last.scores, model(ROW[None])[0])


def test_a_question_is_sent_once():
    questions = []

    def hang_up(listener):
        for number in range(3):
            connection, _ = listener.accept()
            with connection:
                questions.append(connection.recv(65536))
                connection.sendall(answer_bytes())
                if number == 0:
                    questions.append(connection.recv(65536))

    with conversation(hang_up) as oracle:
        said = [oracle.ask(ROW, "client").said for _ in range(4)]
    assert said == [Said.ANSWERED, Said.FAILED, Said.ANSWERED, Said.ANSWERED]
    assert len(questions) == 4


def test_nobody_there_is_a_failure(free_port):
    target = Target.model_validate(
        {"direct": f"http://127.0.0.1:{free_port()}/v2/models/m", "contract": TENSOR}
    )
    reply = ask(Endpoint.open(target))
    assert reply.said is Said.FAILED
    assert "refused" in reply.body


def test_clients_come_as_who_they_are(stub, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# of two clients\nada:secret-a\nbob:secret-b\n")
    endpoint = opened(stub, clients={"by": "api_key", "keys": str(keys)})
    assert list(endpoint.clients) == ["ada", "bob"]
    ask(endpoint, client="bob")
    assert stub.asked[-1][1]["x-api-key"] == "secret-b"
    endpoint = opened(stub, clients={"by": "source_address", "count": 3})
    ask(endpoint, client=endpoint.clients[2])
    assert stub.asked[-1][3] == endpoint.clients[2] == "127.64.0.3"
    endpoint = opened(stub, clients={"by": "header", "count": 2})
    ask(endpoint, client=endpoint.clients[1])
    assert stub.asked[-1][1]["x-forwarded-for"] == "198.18.0.2"


def status_of(request, stub):
    """How a request of plain bytes is answered."""
    with socket.create_connection(("127.0.0.1", stub.port)) as connection:
        connection.sendall(request)
        response = HTTPResponse(connection, method="POST")
        response.begin()
        response.read()
        return response.status


def test_what_is_rendered_for_a_load_is_what_the_server_understands(stub):
    endpoint = opened(stub, clients={"by": "header", "count": 2, "header": "x-who"})
    rows = np.random.default_rng(2).normal(size=(5, FEATURES)).astype(np.float32)
    requests = endpoint.requests("direct", rows, rows_per_request=2)
    assert len(requests) == 3
    for number, request in enumerate(requests):
        assert status_of(request, stub) == 200
        assert stub.asked[-1][1]["x-who"] == endpoint.clients[number % 2]
    sent = np.vstack([_v2_rows(body) for _, _, body, _ in stub.asked])
    np.testing.assert_array_equal(sent.astype(np.float32), rows)
    assert len(_v2_rows(stub.asked[-1][2])) == 1


def _v2_rows(body):
    tensor = json.loads(body)["inputs"][0]
    return np.array(tensor["data"], np.float64).reshape(tensor["shape"])


def test_requests_that_cannot_be_are_refused_in_words(stub):
    endpoint = opened(stub)
    rows = np.zeros((4, FEATURES), np.float32)
    with pytest.raises(ValueError, match="no client"):
        endpoint.requests("direct", rows, clients=[])
    with pytest.raises(ValueError, match="holds 1 to"):
        endpoint.requests("direct", rows, rows_per_request=0)
    with pytest.raises(KeyError):
        endpoint.requests("firewall", rows)
    with pytest.raises(ValueError, match="do not fit"):
        endpoint.requests("direct", np.zeros((4, 3), np.float32))


def test_a_side_lends_what_sends_bytes(stub):
    endpoint = opened(stub)
    with endpoint.oracle("direct") as oracle:
        raw = oracle.raw
        assert raw.address == ("127.0.0.1", stub.port)
        assert raw.source("client") == ""
        request = raw.request(ROW[None], "client")
    assert status_of(request, stub) == 200


def test_a_firewall_is_asked_over_tls(tmp_path):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("firewall")
    with serving(Stub(), server_context(certificate, key)) as stub:
        there = f"https://127.0.0.1:{stub.port}/v2/models/m"
        keys = {"firewall": there, "firewall_tls": {"ca": authority.path}}
        endpoint = Endpoint.open(Target.model_validate(keys))
        with endpoint.oracle("firewall") as oracle:
            assert oracle.ask(ROW, "client").said is Said.ANSWERED
        strange = Endpoint.open(Target.model_validate({"firewall": there, "contract": TENSOR}))
        with strange.oracle("firewall") as oracle:
            reply = oracle.ask(ROW, "client")
        assert (reply.said, "certificate" in reply.body) == (Said.FAILED, True)


def test_a_unix_socket_will_do(tmp_path):
    path = tmp_path / "s"
    body = json.dumps(answer_of("/infer", model(ROW[None]))).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    thread = threading.Thread(target=serve_once, args=(listener, answer), daemon=True)
    thread.start()
    keys = {"direct": f"unix:{path}", "match": "/v2/models/m", "contract": TENSOR}
    reply = ask(Endpoint.open(Target.model_validate(keys)))
    thread.join(10)
    assert reply.said is Said.ANSWERED


def test_the_number_of_classes_is_learnt(stub):
    endpoint = opened(stub, contract=TENSOR)
    assert endpoint.classes == 0
    with endpoint.oracle("direct") as oracle:
        oracle.ask(ROW, "client")
        assert oracle.classes == CLASSES
    assert opened(stub).classes == CLASSES
