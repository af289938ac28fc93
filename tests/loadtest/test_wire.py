"""HTTP as bytes: framing found at every cut, nonsense refused."""

import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.wire import (
    Session,
    body_span,
    dechunk,
    parse_response,
    render_request,
    response_end,
)

SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
)
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED


@pytest.mark.parametrize("message", [SIZED, CHUNKED, EMPTY, INTERIM])
def test_a_response_is_complete_at_its_last_byte_and_not_before(message):
    for cut in range(len(message)):
        assert response_end(message[:cut])[1] == -1
    status = 204 if message is EMPTY else 200
    assert response_end(message) == (status, len(message))
    assert response_end(message + b"HTTP/1.1 5")[1] == len(message)


@pytest.mark.parametrize(
    ("message", "status", "body"),
    [(SIZED, 200, b"hello"), (CHUNKED, 200, b"hello"), (EMPTY, 204, b""), (INTERIM, 200, b"hello")],
)
def test_a_response_is_parsed(message, status, body):
    response = parse_response(message)
    assert (response.status, response.body) == (status, body)


@pytest.mark.parametrize(
    "message",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",  # ended by the connection: cannot be told from a broken one
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"x" * (1 << 17),
    ],
)
def test_what_is_not_a_framed_response_is_an_error(message):
    with pytest.raises(ValueError, match=r".+"):
        response_end(message)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
def test_chunks_are_joined_and_their_end_found(parts):
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked"
    message = head + b"\r\n\r\n" + body
    assert body_span(message, len(head)) == (len(head) + 4, len(message))
    assert body_span(message[:-1], len(head))[1] == -1
    assert dechunk(body) == b"".join(parts)


def test_a_request_carries_its_length_and_headers():
    request = render_request("POST", "/a", "h:1", b"xyz", [("X-A", "b")])
    assert request == b"POST /a HTTP/1.1\r\nHost: h:1\r\nX-A: b\r\nContent-Length: 3\r\n\r\nxyz"
    assert b"Content-Length" not in render_request("GET", "/", "h")
    assert b"Content-Length: 0" in render_request("POST", "/", "h")


def _serve(answers):
    """A server that gives each connection its answers in turn, one for each read."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run():
        with listener:
            for parts in answers:
                connection, _ = listener.accept()
                with connection:
                    for part in parts:
                        if not connection.recv(1 << 16):
                            break
                        connection.sendall(part)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return listener.getsockname(), thread


def test_a_session_keeps_its_connection_until_told_to_close():
    closing = SIZED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    address, thread = _serve([[SIZED, closing], [EMPTY]])
    with Session(address) as session:
        request = render_request("GET", "/", "h")
        assert [session.exchange(request).status for _ in range(3)] == [200, 200, 204]
    thread.join()


@pytest.mark.parametrize("answer", [SIZED + SIZED, b"nonsense\r\n\r\n"])
def test_a_session_refuses_a_second_answer_and_nonsense(answer):
    address, thread = _serve([[answer]])
    with Session(address) as session, pytest.raises(ValueError, match=r".+"):
        session.exchange(render_request("GET", "/", "h"))
    thread.join()


def test_a_session_reports_a_connection_that_ends_early():
    address, thread = _serve([[SIZED[:20]]])
    with Session(address) as session, pytest.raises(ConnectionResetError):
        session.exchange(render_request("GET", "/", "h"))
    thread.join()
